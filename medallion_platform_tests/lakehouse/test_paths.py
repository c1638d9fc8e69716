"""A data file has one name, however the disk, the log, a URI and Spark spell it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts import folders
from medallion_platform.lakehouse import paths, polars_writer, spark_tables
from medallion_platform.lakehouse.commit import commit_files
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake, files_of, partition_of
from medallion_platform.lakehouse.maintenance import optimize, vacuum
from medallion_platform.spark.provider import spark_uri

NAME = "silver.things"
letters = st.sampled_from("aA9%25/\\:=+ ?#&;[]{}*.~^|'\"<>`\t\nü😀\x01\x7f\u0301")
names = st.text(letters | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: "\0" not in text and text != folders.HIVE_NULL
)


@given(
    st.dictionaries(names, st.none() | names, max_size=3), st.sampled_from(["a.parquet", "part-0.parquet"])
)
def test_what_a_folder_is_called_is_read_back(partition: dict[str, str | None], name: str) -> None:
    path = paths.partition_file_path(partition, name)
    assert paths.partition_values_in_path(path) == partition
    assert path.count("/") == len(partition)


@given(names, names)
def test_room_is_what_a_folder_s_name_may_still_have(column: str, value: str) -> None:
    named = len(folders.partition_folder(column, value).encode())
    assert (named <= folders.FOLDER_BYTES) == (
        len(folders.partition_folder("", value).encode()) - 1 <= folders.longest_partition_value(column)
    )


@given(
    st.lists(names, min_size=1, max_size=3, unique=True),
    st.sampled_from(["file:/l", "file:///l", "s3://b/l"]),
)
@pytest.mark.failure("permanent")
def test_a_file_that_is_not_the_table_s_is_never_taken_for_one(texts: list[str], root: str) -> None:
    from urllib.parse import quote

    files = [paths.partition_file_path({"p": text}, "f.parquet") for text in texts]
    uris = [f"{root}/{quote(f, safe='/=+~')}" for f in files]
    assert paths.paths_from_spark(uris, root, files) == set(files)
    with pytest.raises(paths.UnknownFile):
        paths.paths_from_spark(uris, root, files[1:])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None), (True, "true"), (date(2026, 1, 5), "2026-01-05"), (Decimal("1.50"), "1.50"), (-7, "-7"),
        (datetime(2026, 1, 5, 10, 0, 0, 5, UTC), "2026-01-05 10:00:00.000005"),
    ],
)  # fmt: skip
def test_partition_values_stand_in_the_log_as_delta_wants_them(value: object, text: str | None) -> None:
    assert paths.partition_value_text(value) == text


@settings(
    max_examples=1,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(st.lists(names, min_size=8, max_size=12, unique=True), st.sampled_from(["a b", "ü+;", "{y}*"]))
@example(["Graz: West", "a%b", "%41", "a%20b", "..", ".", " ", "a/b", "[x]", "a\\b", "}"], "lake")
def test_both_engines_and_the_log_agree_on_every_file(
    tmp_path_factory: Any, spark: SparkSession, texts: list[str], root: str
) -> None:
    lake = Lake(tmp_path_factory.mktemp("x") / root)
    path = lake.path(NAME)
    table = lake.ensure(NAME, pa.schema([("p", pa.string()), ("n", pa.int64())]), ["p"])
    mine = pl.DataFrame({"p": texts, "n": range(len(texts))})
    theirs = spark.createDataFrame([(t, n + 1000) for n, t in enumerate(texts)], "p string, n long")
    polars_writer.append_rows(table, mine, CommitRecord("refresh", "r", "", sequence=1), {})
    commit_files(
        table,
        CommitRecord("refresh", "r", "", sequence=2),
        add=spark_tables.stage(theirs, path, ["p"], columns=["p", "n"]).files,
    )

    files = {f["path"]: f for f in files_of(table)}
    assert {str(p.relative_to(path)) for p in Path(path).rglob("*.parquet")} == set(files)
    for f in files.values():
        assert paths.partition_values_in_path(f["path"]) == partition_of(f, ["p"]) == {"p": f["partition.p"]}
    # Both name the folder of a value alike.
    assert len({f.rpartition("/")[0] for f in files}) == len(texts)
    rows = spark_tables.read(spark, lake, NAME, table.version())
    located = rows.select(F.col("_metadata.file_path").alias("file"), "p", "n").collect()
    want = sorted([(t, n + more) for n, t in enumerate(texts) for more in (0, 1000)])
    assert sorted((r.p, r.n) for r in located) == want
    for row in located:
        (name,) = paths.paths_from_spark([row.file], spark_uri(spark, path), files)
        assert files[name]["partition.p"] == row.p

    optimize(lake, NAME)
    vacuum(lake, NAME)
    assert sorted(pl.scan_delta(lake.open(NAME)).select("p", "n").collect().rows()) == want  # type: ignore[arg-type]
    assert len(lake.open(NAME).file_uris()) == len(texts)  # type: ignore[union-attr]
