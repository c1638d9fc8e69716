"""The layer `java` of the image: jars, the certificates as Java wants them, and an ahead-of-time cache.

It uses `medallion_platform.spark` and what that imports, and no other package of the platform, so that the
layer is made again when one of these changes, and not with each change of code. What is recorded is therefore
the work of Spark and Delta, and no refresh.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import DataFrame, Observation, SparkSession, Window
from pyspark.sql import functions as F

from medallion_platform.certificates import java_truststore
from medallion_platform.spark.aot_cache import AotCache
from medallion_platform.spark.jars import DELTA, KAFKA, S3, compile_log_store, fetch_jars
from medallion_platform.spark.java import find_java
from medallion_platform.spark.provider import LocalSpark
from medallion_platform.spark.recording import record

CACHE = Path(os.environ["MEDALLION_CACHE"])
MAVEN = os.environ.get("MEDALLION_MAVEN", "https://repo1.maven.org/maven2")
WRITTEN = {"sales": 297, "days": 3, "customers": 40}
"""The rows of each table in the end."""
ONE_DAY = "sold_on = '2026-01-02'"


def get_jars() -> list[Path]:
    """All jars, Delta's first; with log stores for sessions with topics and without."""
    java = find_java().program
    for_bucket = fetch_jars((*DELTA, *S3), CACHE, MAVEN)
    everything = [*for_bucket, *fetch_jars(KAFKA, CACHE, MAVEN)]
    compile_log_store(for_bucket, java)
    return [*everything, compile_log_store(everything, java)]


def write_tables(session: Callable[[], SparkSession], folder: Path) -> None:
    """Write, change and read Delta tables with what refreshes do to rows."""
    spark = session()
    paths = {name: str(folder / name) for name in WRITTEN}
    checked_sales(spark).write.format("delta").partitionBy("sold_on").save(paths["sales"])
    sales = spark.read.format("delta").load(paths["sales"])
    replaced = sales.where(ONE_DAY).write.format("delta").mode("overwrite")
    replaced.option("replaceWhere", ONE_DAY).save(paths["sales"])
    days_of(sales).write.format("delta").save(paths["days"])
    newest = newest_by_customer(sales)
    newest.write.format("delta").save(paths["customers"])
    newest.createOrReplaceTempView("newest")
    spark.sql(
        f"merge into delta.`{paths['customers']}` t using newest n on t.customer = n.customer "
        "when matched then update set * when not matched then insert *"
    )
    stage_and_read(spark, sales, days_of(sales), newest, str(folder / "staged"))
    written = {name: spark.read.format("delta").load(path).count() for name, path in paths.items()}
    if written != WRITTEN:
        sys.exit(f"Spark and Delta wrote {written} rows, and not {WRITTEN}")


def checked_sales(spark: SparkSession) -> DataFrame:
    """Sales as texts, cast, without duplicates and without those that violate something."""
    texts = spark.range(400, numPartitions=2).selectExpr(
        "cast(id % 300 as string) as sale_id",
        "concat('2026-01-0', id % 3 + 1, 'T10:00:', lpad(id % 60, 2, '0'), 'Z') as sold_at",
        "if(id % 7 = 0, null, concat('c', id % 40)) as customer",
        "concat('c', id, '@example.com') as email",
        "cast(id - 3 as string) as amount",
    )
    typed = texts.select(
        "sale_id",
        F.expr("try_cast(sold_at as timestamp)").alias("sold_at"),
        "customer",
        F.sha2(F.lower("email"), 256).alias("email"),
        F.expr("try_cast(amount as double)").alias("amount"),
    ).withColumn("sold_on", F.to_date("sold_at"))
    of_key = Window.partitionBy("sale_id").orderBy("amount")
    first = typed.withColumn("row", F.row_number().over(of_key)).where("row = 1").drop("row")
    violations = F.expr("filter(array(if(amount < 0, 'amount', null)), v -> v is not null)")
    return first.withColumn("violations", violations).where("size(violations) = 0").drop("violations")


def days_of(sales: DataFrame) -> DataFrame:
    """What was sold on a day."""
    customers = F.count_distinct("customer").alias("customers")
    return sales.groupBy("sold_on").agg(F.count("*").alias("n"), F.sum("amount").alias("amount"), customers)


def newest_by_customer(sales: DataFrame) -> DataFrame:
    """The newest sale of each customer."""
    known = sales.where("customer is not null")
    return known.groupBy("customer").agg(F.max_by("sale_id", "sold_at").alias("newest"))


def stage_and_read(
    spark: SparkSession, sales: DataFrame, days: DataFrame, newest: DataFrame, folder: str
) -> None:
    """Write good and rejected rows of a join in one pass, and read them with their files."""
    joined = sales.join(F.broadcast(days), "sold_on").join(newest, "customer", "left")
    observed = Observation()
    counted = joined.observe(observed, F.count_if(F.col("n") > 1).alias("counted"))
    dead = F.coalesce(sales["amount"] > 100, F.lit(False))
    counted.select("sale_id", "newest", "sold_on", dead.alias("dead")).write.partitionBy(
        "dead", "sold_on"
    ).parquet(folder)
    spark.read.parquet(folder).withColumn("file", F.col("_metadata.file_path")).collect()


def executor_options(cache: AotCache, jars: list[Path], truststore: Path) -> list[str]:
    """The options of an executor's Java, in the order of the cache: it is bound to its class path.

    truststore: the certificates that a driver trusts, too.
    """
    class_path = os.pathsep.join(map(str, dict.fromkeys((*cache.class_path, *jars))))
    trusted = (f"-Djavax.net.ssl.trustStore={truststore}", "-Djavax.net.ssl.trustStoreType=PKCS12")
    return ["-XX:+IgnoreUnrecognizedVMOptions", *cache.options(quick=False), *trusted, "-cp", class_path]


def main() -> None:
    """Make all of it; what fails ends the build."""
    jars = get_jars()
    os.environ.pop("SSL_CERT_FILE", None)  # of the build's network, not of the image
    truststore = java_truststore(CACHE / "java")
    if truststore is None:
        sys.exit("no authority is trusted: the base image has no certificates")
    spark = LocalSpark(jars=jars[: len(DELTA)], kept=CACHE / "java")
    if record(spark, write_tables) is None or spark.aot_cache is None:
        sys.exit("Java recorded nothing")
    options = executor_options(spark.aot_cache, jars, truststore)
    (CACHE / "executor.options").write_text("\n".join(options) + "\n")
    Path("/usr/local/bin/java").symlink_to(spark.java.program)


if __name__ == "__main__":
    main()
