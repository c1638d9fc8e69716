"""What follows the last page of a data file has no checksum of Parquet; whoever reads rows compares it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.lakehouse import (
    dead_letters,
    file_ends,
    file_registry,
    maintenance,
    polars_writer,
)
from medallion_platform.lakehouse.commit import commit_files, move_staged_files
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.damaged_files import DamagedFile, verify_file_ends, verify_table
from medallion_platform.lakehouse.key_index import Keys
from medallion_platform.lakehouse.lake import Lake, files_of, path_of
from medallion_platform.pipeline.publish import Delivery, Edition
from medallion_platform.pipeline.run import Run
from medallion_platform.queries.preview import preview_rows
from medallion_platform_tests.pipeline.toy import CSV, EVENTS, Zone, bad, check, good

NAME = "silver.numbers"
UPGRADE = Path(__file__).parents[1] / "upgrade"
ROWS = pl.DataFrame(
    {
        "day": ["2026-01-05"] * 40,
        "n": range(40),
        "text": [f"text {n % 7}" for n in range(40)],
        "inner": [{"deep": n, "list": [{"low": n}]} for n in range(40)],
        "part": [None if n % 3 else n / 4 for n in range(40)],
    }
)


def record(sequence: int) -> CommitRecord:
    return CommitRecord("refresh", "r", "", sequence=sequence)


def by_polars(table: DeltaTable, rows: pl.DataFrame) -> None:
    polars_writer.append_rows(table, rows, record(1), {})


def as_spark_stages(table: DeltaTable, rows: pl.DataFrame) -> None:
    """With page index, dictionaries, several groups, and what else stands in a file that Spark staged."""
    folder = Path(table.table_uri.removeprefix("file://"), "staged-1", "_dead=false", "day=2026-01-05")
    folder.mkdir(parents=True)
    staged = rows.drop("day").with_columns(_violations=pl.lit(None, pl.List(pl.String))).to_arrow()
    pq.write_table(
        staged,
        folder / "part-0.c000.parquet",
        write_page_index=True,
        row_group_size=25,
        write_page_checksum=True,
    )
    files = move_staged_files(table.table_uri.removeprefix("file://"), "staged-1/_dead=false", ["day"])
    commit_files(table, record(1), add=files)


def by_other_software(table: DeltaTable, rows: pl.DataFrame) -> None:
    write_deltalake(table, rows, mode="append")


WRITERS = [by_polars, as_spark_stages, by_other_software]


def a_lake(folder: Path, write: Callable[[DeltaTable, pl.DataFrame], None]) -> tuple[Lake, Path]:
    """A lake with a table, and its one file."""
    lake = Lake(folder)
    table = lake.ensure(NAME, ROWS.to_arrow().schema, ["day"])
    write(table, ROWS)
    return lake, only_file(lake, NAME)


def only_file(lake: Lake, table: str) -> Path:
    (file,) = files_of(opened(lake, table))
    return Path(lake.path(table), file["path"])


def opened(lake: Lake, table: str = NAME) -> DeltaTable:
    found = lake.open(table)
    assert found
    return found


def verify(lake: Lake) -> None:
    table = opened(lake)
    verify_file_ends(table, files_of(table))


def end_of(file: Path) -> int:
    """Where the end of a file begins."""
    return file_ends.end_of_pages(pq.read_metadata(file))


def name_in_schema(file: Path, column: str) -> int:
    """Where the name of a column, or of a field in one, stands in the schema of a file's footer."""
    content = file.read_bytes()
    # "File Format" and "Metadata" of Parquet: the schema stands before all else that has this name.
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    return content.index(column.encode(), footer)


def flips(file: Path, places: range, bits: int = 8) -> Iterator[tuple[int, int]]:
    """Turn over bits of each of these bytes, one after the other; the file is whole again afterwards."""
    whole = file.read_bytes()
    for at in places:
        for bit in ((at + n) % 8 for n in range(bits)):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            yield at, bit
    file.write_bytes(whole)


@given(
    st.sampled_from(["a.parquet", "p=1/part-0-c000.snappy.parquet", "x.end-1.parquet"]),
    st.binary(),
    st.binary(),
)
def test_a_path_tells_the_end_that_it_was_given_last(path: str, before: bytes, end: bytes) -> None:
    assert file_ends.told_end(path) is None
    once = file_ends.path_with_end(path, before)
    again = file_ends.path_with_end(once, end)
    assert again == file_ends.path_with_end(path, end)
    told = file_ends.told_end(again)
    assert told
    assert told.length == len(end)
    assert once.removesuffix(".parquet").startswith(path.removesuffix(".parquet"))


@pytest.mark.parametrize("write", [by_polars, as_spark_stages])
@pytest.mark.failure("corrupt")
def test_no_bit_of_an_end_turns_over_unnoticed(tmp_path: Path, write: Callable[..., None]) -> None:
    """One in each byte is tried. Some of them change what is read, without any error."""
    lake, file = a_lake(tmp_path, write)
    size = file.stat().st_size
    told = file_ends.told_end(file.name)
    assert told
    assert told.length == size - end_of(file)
    verify(lake)
    table, files = opened(lake), files_of(opened(lake))
    for flip in flips(file, range(end_of(file), size), bits=1):
        with pytest.raises(DamagedFile, match="another checksum"):
            verify_file_ends(table, files)
            pytest.fail(f"{flip} was not noticed")
    verify(lake)
    misread(lake, NAME, "part")
    assert pl.scan_delta(opened(lake)).collect()["part"].null_count() == ROWS.height  # what this is about


@pytest.mark.parametrize("name", ["part", "text", "deep", "low", "inner"])
@pytest.mark.failure("corrupt")
def test_in_a_file_whose_name_tells_nothing_names_and_counts_are_compared(tmp_path: Path, name: str) -> None:
    lake, file = a_lake(tmp_path, by_other_software)
    assert file_ends.told_end(file.name) is None
    verify(lake)
    at = name_in_schema(file, name)
    for flip in flips(file, range(at, at + len(name))):
        with pytest.raises(DamagedFile, match="is damaged"):
            verify(lake)
            pytest.fail(f"{flip} was not noticed")
    verify(lake)


def test_rows_that_a_footer_lacks_or_has_too_many_are_noticed(tmp_path: Path) -> None:
    _, file = a_lake(tmp_path, by_other_software)
    footer, columns = pq.read_metadata(file), file_ends.names_of(ROWS.to_arrow().schema)
    assert file_ends.contradiction(footer, columns, 40) == ""
    assert file_ends.contradiction(footer, columns, None) == ""
    assert "40 rows, and the Delta log 39" in file_ends.contradiction(footer, columns, 39)


@pytest.mark.parametrize(
    ("file", "table", "rule"),
    [
        (["id", "amount"], ["id", "amount"], False),
        (["id"], ["id", "amount_a", "amount_b"], False),
        (["id", "amount_a"], ["id", "amount_a", "amount_b"], False),
        (["id", "_violations", "_kept_a"], ["id", "a"], False),
        (["id", "other"], ["id", "amount"], False),
        (["id", "Amount"], ["id", "amount"], True),
        (["id", "amoujt"], ["id", "amount"], True),
        (["id", "grün"], ["id", "grýn"], True),
    ],
)
def test_a_file_may_lack_columns_and_have_others_but_none_that_is_misread(
    file: list[str], table: list[str], rule: bool
) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: [1] for name in file}), sink)
    footer = pq.read_metadata(pa.BufferReader(sink.getvalue()))
    columns = file_ends.names_of(pa.schema([pa.field(name, pa.int64()) for name in table]))
    assert bool(file_ends.contradiction(footer, columns, 1)) == rule


@pytest.mark.parametrize("write", WRITERS)
def test_columns_that_came_later_are_no_damage(tmp_path: Path, write: Callable[..., None]) -> None:
    lake, _ = a_lake(tmp_path, write)
    more = ROWS.with_columns(part_b=pl.col("n"), text_2=pl.lit("x"), pars=pl.lit(1))
    polars_writer.append_rows(opened(lake), more, record(2), {})
    assert len(files_of(opened(lake))) == 2
    verify(lake)
    maintenance.optimize(lake, NAME)
    assert file_ends.told_end(only_file(lake, NAME).name)
    verify_table(lake, NAME)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("gone", "is gone"),
        ("empty", "has 0 bytes, and by the Delta log"),
        ("shorter", "bytes, and by the Delta log"),
        ("longer", "is damaged"),
    ],
)
@pytest.mark.failure("corrupt")
def test_a_file_of_another_length_is_no_trace_back(
    tmp_path: Path, spoil: str, said: str, write: Callable[..., None]
) -> None:
    lake, file = a_lake(tmp_path, write)
    content = file.read_bytes()
    if spoil == "gone":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "shorter": content[:-9], "longer": b"PAR1" + content}[spoil])
    with pytest.raises(DamagedFile, match=said):
        verify(lake)


@pytest.mark.parametrize("packed", sorted(UPGRADE.glob("*.tar.xz")), ids=lambda packed: packed.name)
def test_the_files_of_older_lakes_are_whole_in_all_versions(tmp_path: Path, packed: Path) -> None:
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    logs = list(tmp_path.rglob("_delta_log"))
    compared = 0
    for newest in map(DeltaTable, (log.parent for log in logs)):
        for version in range(newest.version() + 1):
            with suppress(DeltaError):  # some are cleaned up
                table = DeltaTable(newest.table_uri, version=version)
                files = [f for f in files_of(table) if Path(path_of(table), f["path"]).exists()]
                verify_file_ends(table, files)
                compared += len(files)
    assert compared > 50


def misread(lake: Lake, table: str, column: str) -> str:
    """Flip a bit in the name of a column of the one file of a table; returns its name."""
    file = only_file(lake, table)
    content = bytearray(file.read_bytes())
    content[name_in_schema(file, column)] ^= 1
    file.write_bytes(content)
    return file.name


def delivered(lake: Lake, partitions: frozenset[str] | None) -> pl.DataFrame:
    source: Any = opened(lake)
    edition = Edition("id", source.version())
    delivery = Delivery(edition, partitions, "", source, Run.now(), None, "day")  # type: ignore[arg-type]
    return delivery.rows(["n", "part"])


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda lake: polars_writer.scan_rows(opened(lake)), id="scan"),
        pytest.param(lambda lake: delivered(lake, None), id="publish"),
        pytest.param(lambda lake: delivered(lake, frozenset({"2026-01-05"})), id="publish a partition"),
        pytest.param(
            lambda lake: polars_writer.read_key_columns(opened(lake), ["n"], {"n": (39, 50)}), id="places"
        ),
        pytest.param(
            lambda lake: Keys().rows(opened(lake), pl.DataFrame({"n": [7]}), lambda _: True), id="duplicates"
        ),
        pytest.param(lambda lake: preview_rows(lake, EVENTS, NAME, 5), id="preview"),
        pytest.param(lambda lake: maintenance.optimize(lake, NAME, ("n",), target_bytes=1), id="clustering"),
        pytest.param(lambda lake: verify_table(lake, NAME), id="verify"),
    ],
)
@pytest.mark.failure("corrupt")
def test_whoever_reads_rows_stops_before_a_column_is_nulls(
    tmp_path: Path, read: Callable[[Lake], object]
) -> None:
    lake, _ = a_lake(tmp_path, by_polars)
    read(lake)
    lake, _ = a_lake(tmp_path / "other", by_polars)
    file = misread(lake, NAME, "part")
    with pytest.raises(DamagedFile, match=file) as caught:
        read(lake)
    assert caught.value.table == NAME


def test_files_that_hold_none_of_the_wanted_rows_are_not_asked(tmp_path: Path) -> None:
    lake, _ = a_lake(tmp_path, by_polars)
    misread(lake, NAME, "part")
    assert delivered(lake, frozenset({"2026-01-06"})).is_empty()
    assert polars_writer.read_key_columns(opened(lake), ["n"], {"n": (40, 50)}).is_empty()


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(dead_letters.read, id="all"),
        pytest.param(lambda *of: list(dead_letters.batches(*of)), id="some at a time"),
        pytest.param(lambda *of: dead_letters.newest(*of, limit=3), id="newest"),
        pytest.param(lambda *of: dead_letters.replace(*of, {"2026-01-05"}, [], record(9)), id="replace"),
    ],
)
@pytest.mark.failure("corrupt")
def test_dead_letters_are_not_read_with_nulls(tmp_path: Path, read: Callable[..., object]) -> None:
    zone = Zone(tmp_path)
    zone.csv("events/1.csv", [good("a"), bad()])
    zone.take()
    file = misread(zone.lake, dead_letters.name(CSV.table), "payload")
    with pytest.raises(DamagedFile, match=file):
        read(zone.lake, CSV.table)


@pytest.mark.failure("corrupt")
def test_an_intake_takes_no_duplicate_that_a_damaged_file_hides(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    zone.csv("events/1.csv", [good("a"), good("b", 1)])
    zone.take()
    file = only_file(zone.lake, CSV.table)
    whole = file.read_bytes()
    misread(zone.lake, CSV.table, "event_id")
    zone.csv("events/2.csv", [good("a", 2), good("c", 3)])
    with pytest.raises(DamagedFile, match=file.name):
        zone.take()
    file.write_bytes(whole)
    assert zone.take().counts.duplicate == 1
    check(zone)


@pytest.mark.failure("corrupt")
def test_keys_that_are_remembered_are_compared_in_whole_files_only(tmp_path: Path) -> None:
    lake, file = a_lake(tmp_path, by_polars)
    keys, wanted = Keys(), pl.DataFrame({"n": [7]})
    assert keys.rows(opened(lake), wanted, lambda _: True, ["part"]).height == 1
    misread(lake, NAME, "part")
    assert keys.rows(opened(lake), pl.DataFrame({"n": [50]}), lambda _: True).is_empty(), (
        "it need not be read"
    )
    with pytest.raises(DamagedFile, match=file.name):
        keys.rows(opened(lake), wanted, lambda _: True, ["part"])


@pytest.mark.failure("corrupt")
def test_files_are_not_taken_twice_because_a_registry_is_misread(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    zone.csv("events/1.csv", [good("a")])
    zone.take()
    file = misread(zone.lake, file_registry.registry_table(CSV.name), "path")
    with pytest.raises(DamagedFile, match=file):
        zone.take()


@pytest.mark.parametrize("write", WRITERS)
def test_one_request_gives_what_an_end_is_compared_by(
    tmp_path: Path, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, _ = a_lake(tmp_path, write)
    asked: list[int] = []
    last_bytes = file_ends.last_bytes

    def counting(*of: Any) -> file_ends.LastBytes:
        last = last_bytes(*of)
        return lambda length: (asked.append(length), last(length))[1]

    monkeypatch.setattr(file_ends, "last_bytes", counting)
    verify(lake)
    assert len(asked) == 1
    verify_table(lake, NAME)
    assert len(asked) == 1, "the whole file is read, its end with it"
