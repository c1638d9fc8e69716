"""What can be a partition's value: both engines say the same, and it is what the folder's name can hold."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyspark.sql.types as T
import pytest
from pyspark.sql import SparkSession

from medallion_platform.contracts.contract import NamesFolder
from medallion_platform.contracts.folders import partition_folder
from medallion_platform.contracts.model import ContractModel, Field

from .engines import assert_agree


class Places(ContractModel):
    straße: T.StringType = Field(nullable=True)

    class Config:
        metadata = {"partitioned_by": ["straße"]}  # noqa: RUF012


ROOM = 255 - len("straße=".encode())
GOOD = (
    None, " ", ".", "..", "a/b", "\x01\x1f", "__HIVE_DEFAULT_PARTITION__ ", "x" * ROOM, "ü" * 123,
    "%" * (ROOM // 3), "東" * 82, "[" * 82, "}" * ROOM, "a\nb", "a\r", "\u2028", "~`<>|&$!(),;@+-" * 16,
)  # fmt: skip
BAD = (
    "", "\0", "a\0b", "__HIVE_DEFAULT_PARTITION__", "x" * (ROOM + 1), "ü" * 124, "東" * 83, "x" * 300,
    "\U0001f600" * 62, *(c * 83 for c in "%[]\"'\\^\x7f{*/:=?#\x01\x1f\t\n"),
)  # fmt: skip


def test_a_text_is_refused_exactly_where_no_folder_can_be_called_so(
    spark: SparkSession, tmp_path: Path
) -> None:
    validated = assert_agree(Places.contract, pl.DataFrame({"straße": [*GOOD, *BAD]}), spark)
    assert validated.good["straße"].to_list() == list(GOOD)
    told = "straße: names a folder (not empty, at most 247 bytes)"
    assert validated.bad["_violations"].to_list() == [[told]] * len(BAD)
    for text in GOOD:
        (tmp_path / partition_folder("straße", text)).mkdir()
    assert len(list(tmp_path.iterdir())) == len(GOOD)
    with pytest.raises(OSError, match="too long"):
        (tmp_path / partition_folder("straße", "x" * (ROOM + 1))).mkdir()


def test_only_texts_are_asked() -> None:
    class Days(ContractModel):
        day: T.DateType = Field()
        n: T.LongType = Field()
        text: T.StringType = Field()

        class Config:
            metadata = {"partitioned_by": ["day", "n"]}  # noqa: RUF012

    assert not [e for e in Days.contract.expectations if isinstance(e.test, NamesFolder)]
