"""Two streams of Spark with checkpoints, from files to one Delta table and on to another.

Each batch writes two tables, so it does that as Delta's documentation says: with its number, by which a batch
that is repeated writes nothing twice (https://docs.delta.io/latest/delta-streaming.html).
"""

from __future__ import annotations

from pyspark.sql import DataFrame

from medallion_platform_tests.bare.work import SCHEMA, WELL, home, spark, strike


def append(rows: DataFrame, table: str, number: int) -> None:
    """Append the rows of a batch, once."""
    once = {"txnAppId": table, "txnVersion": number}
    rows.write.format("delta").mode("append").options(**once).save(str(home() / table))


def stream(rows: DataFrame, table: str) -> None:
    """Write what is there."""

    def write(batch: DataFrame, number: int) -> None:
        good = batch.where(WELL[table])
        append(batch.where(f"NOT ({WELL[table]})"), f"{table}_letters", number)
        strike(table, lambda: append(good, table, number))
        append(good, table, number)

    checkpoint = str(home() / "checkpoints" / table)
    query = rows.writeStream.foreachBatch(write).option("checkpointLocation", checkpoint)
    query.trigger(availableNow=True).start().awaitTermination()


def main() -> None:
    """Both, to their ends."""
    stream(spark().readStream.schema(SCHEMA).json(str(home() / "landing")), "bronze")
    stream(spark().readStream.format("delta").load(str(home() / "bronze")), "silver")


if __name__ == "__main__":
    main()
