"""An error is looked into where it is about a data file, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from medallion_platform.lakehouse import damaged_files, polars_writer
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.damaged_files import DamagedFile, report_damage
from medallion_platform.lakehouse.lake import Lake

NAME = "silver.numbers"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A table of three files."""
    found = Lake(tmp_path / "parquet")
    rows = pl.DataFrame({"n": range(1000)})
    table = found.ensure(NAME, rows.to_arrow().schema)
    for sequence in (1, 2, 3):
        polars_writer.append_rows(table, rows, CommitRecord("refresh", "r", "", sequence=sequence), {})
    return found


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read whole."""
    found: list[str] = []
    verify = damaged_files.verify_data_file
    monkeypatch.setattr(
        damaged_files, "verify_data_file", lambda *a: (found.append(a[1]["path"]), verify(*a))
    )
    return found


def files(lake: Lake) -> list[Path]:
    return sorted(Path(lake.path(NAME)).glob("*.parquet"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("column parquet is not in the contract"),
        KeyError("_parquet"),
        RuntimeError("source parquet: a format that is not known"),
        FileNotFoundError("No such file or directory: '/etc/rates.csv'"),
        RuntimeError("[PATH_NOT_FOUND] Path does not exist: file:/rates.parquet"),
        ValueError("/home/parquet/lake: 7 is no date"),
    ],
)
def test_what_only_speaks_of_parquet_reads_no_file(lake: Lake, verified: list[str], error: Exception) -> None:
    files(lake)[0].write_bytes(b"")
    with pytest.raises(type(error)), report_damage(lake, [NAME]):
        raise error
    assert not verified


def test_only_the_file_that_is_named_is_read(lake: Lake, verified: list[str]) -> None:
    name = files(lake)[1].name
    with pytest.raises(RuntimeError), report_damage(lake, [NAME, "silver.none"]):
        raise RuntimeError("it failed") from OSError(f"[FAILED_READ_FILE] file:///x/{name}: a bit")
    assert verified == [name]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def garbage(file: Path) -> None:
    file.write_bytes(b"no data at all" * 50)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, garbage, emptied, Path.unlink])
@pytest.mark.parametrize("read", [pl.read_parquet, pq.read_table, pl.scan_delta])
@pytest.mark.failure("corrupt")
def test_whichever_engine_stumbles_over_a_file_it_is_named(
    lake: Lake, spoil: Callable[[Path], None], read: Callable[..., object]
) -> None:
    spoiled = files(lake)[1]
    spoil(spoiled)
    with pytest.raises(DamagedFile, match=spoiled.name), report_damage(lake, [NAME]):
        if read is pl.scan_delta:
            pl.scan_delta(lake.open(NAME)).collect()  # type: ignore[arg-type]
        else:
            read(spoiled)
