"""What somebody writes with Spark and Delta alone: the rows of five days are appended, day after day."""

from __future__ import annotations

from pyspark.sql import SparkSession

DAYS, ROWS = 5, 200_000


def append(spark: SparkSession, table: str, megabytes: int) -> None:
    """Append the days to a table; meanwhile Python holds so much memory, in units of 1 MiB."""
    held = b"x" * (megabytes << 20)
    for day in range(DAYS):
        rows = spark.range(0, ROWS, 1, 4).selectExpr("id", f"{day} AS day", "sha2(string(id), 512) AS text")
        rows.write.format("delta").mode("append").save(table)
        print(f"day {day} is written, with {len(held)} bytes held", flush=True)
