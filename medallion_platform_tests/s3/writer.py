"""Appends rows to a table, one commit each, once told to go: `writer.py spark|delta-rs TABLE NAME COUNT`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medallion_platform.storage import delta_storage_options


def with_spark(table: str) -> Callable[[str, int], None]:
    from medallion_platform.installation.local_spark import local_spark

    spark = local_spark(table, cores=1).session()
    spark.sparkContext.setLogLevel("ERROR")

    def append(name: str, n: int) -> None:
        spark.createDataFrame([(name, n)], "writer string, n long").write.format("delta").mode("append").save(
            table
        )

    return append


def with_delta_rs(table: str) -> Callable[[str, int], None]:
    import polars as pl
    from deltalake import write_deltalake

    def append(name: str, n: int) -> None:
        rows = pl.DataFrame({"writer": [name], "n": [n]})
        write_deltalake(table, rows, mode="append", storage_options=delta_storage_options(table))

    return append


if __name__ == "__main__":
    engine, table, name, count = sys.argv[1:]
    append = {"spark": with_spark, "delta-rs": with_delta_rs}[engine](table)
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(int(count)):
        append(name, n)
    print("done", flush=True)
