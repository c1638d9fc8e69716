"""The source rows of an aggregate are counted from whole files only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from medallion_platform.lakehouse import polars_writer
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.damaged_files import DamagedFile
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.refresh.errors import RefreshFailed
from medallion_platform.pipeline.refresh.reconcile import refuse_lost_counts

MAIN = "silver.numbers"


def counting(lake: Lake) -> Any:
    """As much of a refresh's context as the count needs."""
    return SimpleNamespace(
        lake=lake,
        table=SimpleNamespace(name="gold.sums", partition=None, source_row_count="1"),
        plan=SimpleNamespace(whole=True),
        upstreams=SimpleNamespace(heads={MAIN: 1}),
        main_table=MAIN,
        main_column=None,
    )


def test_a_damaged_file_is_named_and_not_counted(lake: Lake) -> None:
    rows = pl.DataFrame({"n": range(1000)})
    table = lake.ensure(MAIN, rows.to_arrow().schema)
    polars_writer.append_rows(table, rows, CommitRecord("refresh", "r", "", sequence=1), {})
    refuse_lost_counts(counting(lake), 1000)
    with pytest.raises(RefreshFailed, match="there are 1000 to count"):
        refuse_lost_counts(counting(lake), 999)
    file = Path(lake.path(MAIN), files_of(table)[0]["path"])
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match=f"{file} is damaged"):
        refuse_lost_counts(counting(lake), 1000)
