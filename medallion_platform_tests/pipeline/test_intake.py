"""Intake: whatever arrives, in whatever pieces, every record is somewhere once."""

from __future__ import annotations

import gzip
import json
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medallion_platform.lakehouse import dead_letters, file_registry, log_archive
from medallion_platform.lakehouse.commit import CommitConflict, commit_files
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.maintenance import optimize
from medallion_platform.orchestration import reports
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake import polars_engine as steps
from medallion_platform.pipeline.intake.batch_commit import IntakeFailed
from medallion_platform.pipeline.intake.column_names import own_name
from medallion_platform.pipeline.intake.replay import replay
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.intake.triage import PROVENANCE
from medallion_platform.queries import tables
from medallion_platform.sources.connectors.files import FileSource, record_offset
from medallion_platform.sources.errors import LostFile
from medallion_platform.sources.formats import records
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.debezium.events import CHANGE
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.sources.formats.parquet import Parquet
from medallion_platform.sources.formats.text import TextFormat

from .toy import (
    CSV,
    JSON,
    MONDAY,
    RUN,
    Row,
    Zone,
    bad,
    check,
    csv_files,
    expected,
    good,
    json_files,
    letters,
    same_tables,
    table_rows,
)

quick = settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


@quick
@given(csv_files(), st.data())
def test_any_split_of_csv_gives_the_same_table(
    tmp_path_factory: Any, given_files: list[tuple[list[Row], tuple[str, ...]]], data: st.DataObject
) -> None:
    zone = Zone(tmp_path_factory.mktemp("zone"))
    order = data.draw(st.permutations(range(len(given_files))), label="arrival")
    for i in order:
        rows, columns = given_files[i]
        zone.csv(f"events/{i}.csv", rows, columns)
        if data.draw(st.booleans(), label="intake"):
            zone.take(batch_rows=data.draw(st.integers(1, 8), label="batch"))
    zone.take(batch_rows=data.draw(st.integers(1, 8), label="batch"))
    check(zone)
    again = zone.take()
    assert again.counts.read == 0
    whole = Lake(zone.root / "whole")
    zone.take(lake=whole)
    same_tables(zone.lake, whole)


@quick
@given(json_files, st.data())
def test_any_split_of_json_gives_the_same_table(
    tmp_path_factory: Any, given_files: list[list[Row]], data: st.DataObject
) -> None:
    zone = Zone(tmp_path_factory.mktemp("zone"))
    for i, rows in enumerate(given_files):
        zone.json(f"clicks/{i}.json", rows)
        if data.draw(st.booleans(), label="intake"):
            zone.take(JSON, batch_rows=data.draw(st.integers(1, 8), label="batch"))
    zone.take(JSON, batch_rows=data.draw(st.integers(1, 8), label="batch"))
    check(zone, JSON)
    whole = Lake(zone.root / "whole")
    zone.take(JSON, lake=whole)
    same_tables(zone.lake, whole)


def test_a_second_source_into_the_same_table(zone: Zone) -> None:
    zone.csv("events/a.csv", [good("a"), bad(), good("b")])
    zone.take()
    zone.json(
        "clicks/a.json",
        [Row(b'{"event_id":"z","event_timestamp":"2026-01-05T00:00:00Z"}', True, "z"), bad(b"{")],
    )
    zone.take(JSON, batch_rows=1)
    zone.csv("events/b.csv", [good("c"), bad()])
    zone.take()
    check(zone, CSV, JSON)
    assert table_rows(zone.lake)["_source"].value_counts().sort("_source").rows() == [
        ("clicks", 1),
        ("events", 3),
    ]


# files that are known, changed, gone ---------------------------------------------------------------


def test_the_same_content_again_adds_nothing(zone: Zone) -> None:
    zone.csv("events/a.csv", [good("a"), bad()])
    zone.take()
    version = zone.lake.version(CSV.table)
    zone.csv("events/a.csv", [good("a"), bad()])
    zone.csv("events/copy.csv", [good("a"), bad()])
    again = zone.take()
    assert (again.counts.read, again.repeated_files) == (0, 2)
    assert sorted(again.notes) == [
        f"events/{name}.csv: same content as a file already taken in; nothing added" for name in ("a", "copy")
    ]
    assert zone.lake.version(CSV.table) == version + 1, "what was left out is on record"
    assert [r.repeated_files for _, r in zone.lake.records(CSV.table)] == [2, 0]
    assert (zone.take().repeated_files, zone.take().notes) == (0, []), "it is told once"
    assert landing_zone.waiting_files(CSV, zone.seen(CSV), zone.lake) == []
    check(zone)


def test_copies_of_a_source_without_a_key_are_left_out_and_counted(zone: Zone) -> None:
    rows = [good("a"), good("a"), bad()]
    first = zone.csv("events/one/a.csv", rows)
    zone.csv("events/two/a.csv", rows)
    zone.csv("events/b.csv", [good("b")])
    taken = zone.take(KEYLESS)
    assert (taken.counts.read, taken.counts.written, taken.repeated_files) == (4, 3, 1)
    zone.csv("events/two/a.csv", [good("c")])
    assert (zone.take(KEYLESS).counts.written, zone.take(KEYLESS).counts.read) == (1, 0)
    first.unlink()
    zone.csv("events/three.csv", rows)
    again = zone.take(KEYLESS)
    assert (again.counts.read, again.repeated_files) == (0, 1)
    assert table_rows(zone.lake).height == 4
    check_counts(zone)
    assert _told(zone) == (2, 2), "for as long as they are there, not only in the run that met them"
    optimize(zone.lake, file_registry.registry_table(KEYLESS.name))
    assert _told(zone) == (2, 2)


def _told(zone: Zone) -> tuple[int | None, object]:
    """The files that repeat another's content, as `status` and Dagster tell them."""
    (told,) = tables.table_status(Catalog((KEYLESS,), ()), zone.lake, datetime.now(UTC))
    events = reports.intake_events(zone.lake, KEYLESS, IntakeResult(KEYLESS.name, KEYLESS.table), "files")
    first = next(iter(events))
    assert isinstance(first, dg.AssetObservation)
    return told.repeated_files, first.metadata["repeated_files_now"].value


def test_no_copies_are_told_where_there_are_none(zone: Zone) -> None:
    assert _told(zone) == (0, 0)
    zone.csv("events/a.csv", [good("a")])
    zone.take(KEYLESS)
    zone.csv("events/a.csv", [good("b")])
    zone.take(KEYLESS)
    assert _told(zone) == (0, 0), "another content under a known name is no copy"


@pytest.mark.parametrize("content", [b"\n" * 9, b"\r\r\r", b"event_id,amount"])
def test_a_file_without_a_record_is_named(zone: Zone, content: bytes) -> None:
    zone.put("events/blank.csv", content)
    zone.put("events/empty.csv", b"")
    zone.csv("events/c.csv", [good("c")])
    taken = zone.take()
    assert taken.notes == [f"events/blank.csv: no record in its {len(content)} bytes"]
    assert [r.notes for _, r in zone.lake.records(CSV.table)] == [taken.notes]
    assert (taken.counts.read, zone.take().notes) == (1, [])


def test_a_changed_file_is_a_new_version_and_says_so(zone: Zone) -> None:
    zone.csv("events/a.csv", [good("a"), good("b")])
    zone.take()
    zone.csv("events/a.csv", [good("a"), good("c")])
    taken = zone.take()
    assert any("events/a.csv" in n and "new version" in n for n in taken.notes)
    assert (taken.counts.read, taken.counts.written, taken.counts.duplicate) == (2, 1, 1)
    assert table_rows(zone.lake)["event_id"].sort().to_list() == ["a", "b", "c"]


def test_a_file_that_turns_back_says_something_new_and_doubles_no_event(zone: Zone) -> None:
    for key in ("a", "b", "a"):
        zone.csv("events/a.csv", [good(key), bad(f"{key},never,5,")])
        taken = zone.take()
    assert taken.counts.as_dict() == {
        "read": 2, "written": 0, "dead_lettered": 1, "duplicate": 1, "superseded": 0,
    }  # fmt: skip
    assert table_rows(zone.lake)["event_id"].sort().to_list() == ["a", "b"]
    assert any("events/a.csv" in n and "new version" in n for n in taken.notes), "said nothing of the change"


def test_a_torn_file_is_one_dead_letter_and_the_rest_goes_on(zone: Zone) -> None:
    whole = gzip.compress(b"event_id,event_timestamp,amount,email\n" + os.urandom(50_000).hex().encode())
    zone.csv("events/a.csv", [good("a")])
    torn = zone.put("events/b.csv.gz", whole[:-100])
    zone.csv("events/c.csv", [good("c"), bad()])
    taken = zone.take()
    assert (taken.counts.read, taken.counts.written, taken.counts.dead_lettered) == (4, 2, 2)
    letter = letters(zone.lake).filter(pl.col("row") == 0).to_dicts()[0]
    assert letter["file"] == "events/b.csv.gz"
    assert letter["payload"] is None
    assert letter["violations"][0].startswith("file: ")
    (kept,) = (zone.lake.root / "quarantine" / CSV.name).rglob("b.csv.gz")
    assert kept.read_bytes() == torn.read_bytes()
    assert zone.take().counts.read == 0
    mended = gzip.compress(b"event_id,event_timestamp,amount,email\n" + good("m").text)
    zone.put("events/b.csv.gz", mended)
    assert zone.take().counts.written == 1


def test_a_torn_file_that_cannot_be_copied_is_told_and_stops_nothing(
    zone: Zone,
) -> None:
    zone.put("events/a.csv.gz", gzip.compress(os.urandom(500))[:-20])
    zone.csv("events/b.csv", [good("b")])
    zone.lake.root.mkdir()
    (zone.lake.root / "quarantine").write_text("no folder")
    taken = zone.take()
    assert (taken.counts.written, taken.counts.dead_lettered) == (1, 1)
    assert [n for n in taken.notes if "a.csv.gz" in n and "quarantine" not in n]
    assert zone.take().counts.read == 0


@pytest.mark.parametrize("change", ["removed", "changed"])
def test_a_file_that_is_lost_between_registration_and_reading_is_told(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    zone.csv("events/a.csv", [good("a")])
    lost = zone.csv("events/b.csv", [good("b")])
    zone.csv("events/c.csv", [good("c")])
    append = file_registry.register_file_versions

    def and_lose(*arguments: Any) -> None:
        append(*arguments)
        if change == "removed":
            lost.unlink()
        else:
            zone.csv("events/b.csv", [good("x"), good("y")])

    monkeypatch.setattr(file_registry, "register_file_versions", and_lose)
    taken = zone.take(batch_rows=1)
    monkeypatch.undo()
    assert (taken.counts.read, taken.counts.written, taken.counts.dead_lettered) == (3, 2, 1)
    letter = letters(zone.lake).to_dicts()[0]
    assert (letter["file"], letter["row"]) == ("events/b.csv", 0)
    assert change in letter["violations"][0]
    then = zone.take()
    assert then.counts.written == (2 if change == "changed" else 0)
    zone.csv("events/back.csv", [good("b")])
    assert zone.take().notes == [
        "events/back.csv: was lost before it was taken whole; taken from record 1 on"
    ]
    assert zone.take().counts.read == 0
    keys = ["a", "b", "c", "x", "y"] if change == "changed" else ["a", "b", "c"]
    assert table_rows(zone.lake)["event_id"].sort().to_list() == keys
    assert letters(zone.lake).height == 1, "the account of what happened is gone"


@pytest.mark.parametrize(
    "place", ["a%20b", "100%#?", "y=2026", "8:[00]", "a\\b|c^", "*{x}", "h\u00e4us chen"]
)
def test_a_landing_zone_may_lie_in_any_folder(tmp_path: Path, place: str) -> None:
    zone = Zone(tmp_path / place)
    zone.csv(f"events/{place}/a.csv", [good("a"), bad()])
    zone.put("events/torn.csv.gz", b"\x1f\x8b\x08torn")
    taken = zone.take(lake=Lake(tmp_path / "lake"))
    assert (taken.counts.written, taken.counts.dead_lettered) == (1, 2)


KEYLESS = replace(CSV, contract=replace(CSV.contract, key=(), watermark=None))
"""Of such a source, nothing but the positions keeps a row from being there twice."""


def test_files_of_another_landing_zone_come_back_with_it(
    zone: Zone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        zone.csv(f"events/{n}.csv", [good(f"{n}a"), bad(), good(f"{n}b")])
    with Crash(monkeypatch, file_registry, "register_file_versions", after=True), pytest.raises(Crashed):
        zone.take(KEYLESS)
    other = Zone(tmp_path / "other")
    other.csv("events/other.csv", [good("z")])
    taken = other.take(KEYLESS, zone.lake)
    assert (taken.counts.written, taken.counts.dead_lettered) == (1, 3)
    zone.take(KEYLESS)
    assert zone.take(KEYLESS).counts.read == 0
    assert other.take(KEYLESS, zone.lake).counts.read == 0
    keys = [f"{n}{k}" for n in range(3) for k in "ab"]
    assert table_rows(zone.lake)["event_id"].sort().to_list() == [*keys, "z"]
    assert letters(zone.lake)["row"].to_list() == [0, 0, 0, 2, 2, 2]


@pytest.mark.parametrize("there", ["gone", "back", "copied"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", [1, 2])
def test_a_file_that_is_lost_half_read_goes_on_where_it_was(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, call: int, after: bool, there: str
) -> None:
    """Whether it is there again, under its name or another, when the intake that died is repeated."""
    rows = [bad() if k == "d" else good(k) for k in "abcdefgh"]
    zone.csv("events/0.csv", [good("0")])
    lost = zone.csv("events/a.csv", rows)
    zone.csv("events/b.csv", [good("z")])
    in_pieces(monkeypatch)
    with Crash(monkeypatch, steps.polars_writer, "append_rows", after=True, call=3), pytest.raises(Crashed):
        zone.take(KEYLESS, batch_rows=3)
    assert table_rows(zone.lake)["event_id"].to_list() == ["0", "a", "b", "c", "e"]
    lost.rename(zone.root / "away")
    with (
        Crash(monkeypatch, steps.polars_writer, "append_rows", after=after, call=call),
        pytest.raises(Crashed),
    ):
        zone.take(KEYLESS, batch_rows=3)
    if there != "gone":
        (zone.root / "away").rename(lost if there == "back" else lost.with_name("c.csv"))
    zone.take(KEYLESS, batch_rows=3)
    if there == "gone":
        (zone.root / "away").rename(lost)
    zone.take(KEYLESS, batch_rows=3)
    assert zone.take(KEYLESS).counts.read == 0
    assert table_rows(zone.lake)["event_id"].sort().to_list() == ["0", *"abcefgh", "z"]
    told = [] if (call, after, there) == (1, False, "back") else [0]
    assert letters(zone.lake)["row"].sort().to_list() == [*told, 4]
    check_counts(zone)


def test_a_file_that_vanishes_while_it_is_read_is_taken_whole_later(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = zone.csv("events/a.csv", [good(k) for k in "abcde"])
    zone.csv("events/b.csv", [good("z")])
    read = TextFormat.read

    def fail_half_way(format: TextFormat, path: Path, *arguments: Any) -> Any:
        is_lost = path.samefile(lost)
        for frame in read(format, path, *arguments):
            yield from (frame.slice(i, 1) for i in range(2)) if is_lost else (frame,)
            if is_lost:
                raise LostFile(path, "Input/output error")

    monkeypatch.setattr(TextFormat, "read", fail_half_way)
    with Crash(monkeypatch, dead_letters, "append", after=True), pytest.raises(Crashed):
        zone.take(KEYLESS)
    monkeypatch.undo()
    zone.take(KEYLESS)
    assert zone.take(KEYLESS).counts.read == 0
    assert table_rows(zone.lake)["event_id"].sort().to_list() == [*"abcde", "z"]


def test_a_file_that_cannot_be_opened_is_taken_once_it_can(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone.csv("events/a.csv", [good("a"), good("b")])
    opened = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> Any:
        if path == "a.csv":  # as it is opened in its folder, after it was seen there
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    assert zone.take().counts.dead_lettered == 1
    again = zone.take()
    assert (again.counts.read, again.notes) == (0, [])
    monkeypatch.undo()
    assert zone.take().counts.written == 2
    assert zone.take().counts.read == 0
    assert letters(zone.lake)["violations"].to_list() == [["file: lost from record 1 on: Permission denied"]]


def test_what_was_lost_waits_until_it_was_taken_under_any_name(zone: Zone) -> None:
    def waits() -> list[str]:
        return [w.partition(" ")[0] for w in landing_zone.waiting_files(CSV, zone.seen(CSV), zone.lake)]

    file = zone.csv("events/a.csv", [good("a"), good("b")])
    assert waits() == ["events/a.csv"]
    landing_zone.register_files(CSV, zone.landing, zone.seen(CSV), zone.lake, RUN)
    assert waits() == [CSV.name]
    away = file.rename(zone.root / "away")
    assert zone.take().counts.dead_lettered == 1
    assert waits() == []
    back = away.rename(file.with_name("c.csv"))
    assert waits() == ["events/c.csv"]
    assert zone.take().counts.written == 2
    back.rename(file)
    assert waits() == []
    assert zone.take().counts.read == 0


def test_a_file_that_is_removed_half_read_is_told_once(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = zone.csv("events/a.csv", [good(k) for k in "abcdef"])
    in_pieces(monkeypatch)
    with Crash(monkeypatch, steps.polars_writer, "append_rows", after=True, call=2), pytest.raises(Crashed):
        zone.take(batch_rows=2)
    assert table_rows(zone.lake).height == 4
    lost.unlink()
    zone.csv("events/b.csv", [good("z")])
    with Crash(monkeypatch, dead_letters, "append", after=True), pytest.raises(Crashed):
        zone.take()
    zone.take()
    assert letters(zone.lake)["row"].to_list() == [0]
    assert table_rows(zone.lake)["event_id"].to_list() == [*"abcd", "z"]
    assert [r.counts.missing for _, r in zone.lake.records(CSV.table)] == [0, 0, 0]


@pytest.mark.failure("conflict")
def test_an_intake_that_slept_while_the_log_was_rolled_up_is_fenced(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_archive, "BUNDLE", 50)
    monkeypatch.setattr(log_archive, "KEPT", 50)
    validate = steps.triage

    def sleep(*arguments: Any) -> Any:
        for n in range(200):
            table = zone.lake.open("bronze.events")
            assert table
            commit_files(
                table,
                CommitRecord("intake", "other", RUN.at.isoformat(), sequence=10 + n),
                positions={"o": n},
            )
        assert log_archive.archive_log(
            zone.lake.path("bronze.events"), datetime.now(UTC) + timedelta(hours=2)
        )
        return validate(*arguments)

    zone.csv("events/1.csv", [good("a", 0)])
    zone.take()
    zone.csv("events/2.csv", [good("b", 1)])
    monkeypatch.setattr(steps, "triage", sleep)
    with pytest.raises(CommitConflict, match="many commits were made meanwhile"):
        zone.take()
    monkeypatch.setattr(steps, "triage", validate)
    zone.take()
    check(zone)


def test_new_columns_flow_through_and_old_rows_have_none(zone: Zone) -> None:
    zone.csv("events/a.csv", [good("a")])
    zone.take()
    columns = ("event_id", "event_timestamp", "amount", "email", "color", "size, in cm")
    header = b'event_id,event_timestamp,amount,email,color,"size, in cm"\n'
    zone.put("events/b.csv", header + good("b", 0, "5", "", "red", "7").text + b"\n", [good("b")])
    zone.take()
    assert len(columns) == 6
    rows = table_rows(zone.lake).sort("event_id")
    assert rows.select("color", "size_in_cm__23d4aa9a").rows() == [(None, None), ("red", "7")]


@pytest.mark.parametrize(
    ("one", "other"), [("color", "Color"), ("a b", "a_b"), ("a_b", "a b"), ("A b", "a b"), ("ä", "Ä")]
)
def test_names_that_clash_give_the_same_columns_for_any_split(zone: Zone, one: str, other: str) -> None:
    for i, name in enumerate((one, other)):
        header = f"event_id,event_timestamp,amount,email,{name}\n".encode()
        row = good(f"k{i}", 0, "5", "", name)
        zone.put(f"events/{i}.csv", header + row.text + b"\n", [row])
        zone.take()
    names = [c.lower() for c in table_rows(zone.lake).columns]
    assert len(set(names)) == len(names)
    whole = Lake(zone.root / "whole")
    zone.take(lake=whole)
    same_tables(zone.lake, whole)


def test_an_undeclared_column_of_parquet_binds_no_later_file(zone: Zone) -> None:
    source = replace(CSV, format=Parquet())
    values: list[Any] = [1, "text", 2.5, None, [1, None], {"a": "b"}, b"\xff", [[{"c": 1}]]]
    for n, value in enumerate(values):
        row = {"event_id": f"k{n}", "event_timestamp": MONDAY, "amount": 1.0, "email": None, "more": value}
        zone.landing.joinpath("events").mkdir(parents=True, exist_ok=True)
        pl.DataFrame([row], strict=False).write_parquet(zone.landing / f"events/{n}.parquet")
        if n % 2:
            zone.take(source)
    zone.take(source)
    found = dict(table_rows(zone.lake).select("event_id", "more").rows())
    check_counts(zone)
    texts = ["1", "text", "2.5", None, "[1,null]", '{"a":"b"}', "/w==", '[[{"c":1}]]']
    assert found == {f"k{n}": text for n, text in enumerate(texts)}


def test_a_declared_column_of_parquet_is_validated_in_each_file_s_own_type(zone: Zone) -> None:
    source = replace(CSV, format=Parquet())
    values: list[Any] = [1, "2", 2.5, "much", [1], {"a": 1}, True, None]
    for n, value in enumerate(values):
        row = {"event_id": f"k{n}", "event_timestamp": MONDAY, "amount": value, "email": None}
        zone.landing.joinpath("events").mkdir(parents=True, exist_ok=True)
        pl.DataFrame([row], strict=False).write_parquet(zone.landing / f"events/{n}.parquet")
    zone.take(source)
    check_counts(zone)
    found = dict(table_rows(zone.lake).select("event_id", "amount").rows())
    assert found == {"k0": 1.0, "k1": 2.0, "k2": 2.5, "k7": None}
    assert letters(zone.lake).height == 4


def test_a_file_without_a_column_lets_no_two_others_share_its_type(zone: Zone) -> None:
    """Instants became numbers beside those of another file, and dead letters, if a third file had neither."""
    source = replace(CSV, format=Parquet())
    zone.put("events/.keep", b"")
    for n, fields in enumerate([{"email": None}, {"event_timestamp": 7}, {"event_timestamp": MONDAY}]):
        row = {"event_id": f"k{n}", "amount": 1.0, **fields}
        pl.DataFrame([row]).write_parquet(zone.landing / f"events/{n}.parquet")
    zone.take(source)
    check_counts(zone)
    assert table_rows(zone.lake)["event_id"].to_list() == ["k2"]
    payloads = map(json.loads, letters(zone.lake)["payload"])
    assert [payload.get("event_timestamp") for payload in payloads] == [None, 7]


def test_bytes_of_parquet_are_text_where_a_contract_says_so(zone: Zone) -> None:
    source = replace(CSV, format=Parquet())
    rows = [
        {"event_id": k, "event_timestamp": b"2026-01-05T00:00:00Z", "amount": b"5", "email": e}
        for k, e in ((b"a", "é€".encode()), (b"b", b"\xff"), (b"c", None))
    ]
    zone.put("events/a.parquet", b"")
    pl.DataFrame(rows).write_parquet(zone.landing / "events/a.parquet")
    zone.take(source)
    found = table_rows(zone.lake)
    assert found.select("event_id", "amount", "email").rows() == [("a", 5.0, "é€"), ("c", 5.0, None)]
    assert letters(zone.lake)["violations"].to_list() == [["email: is a string"]]
    (payload,) = letters(zone.lake)["payload"].to_list()
    assert json.loads(payload)["email"].encode(errors="surrogateescape") == b"\xff"
    assert replay(source, zone.lake, RUN).still_dead == 1


def test_types_that_polars_has_no_text_for_flow_through(zone: Zone) -> None:
    source = replace(CSV, format=Parquet())
    row = {
        "event_id": "a",
        "event_timestamp": MONDAY,
        "amount": timedelta(seconds=5),
        "in": [{"b": [b"\xff"]}],
        "took": timedelta(seconds=5),
        "times": [timedelta(seconds=5)],
    }
    zone.put("events/a.parquet", b"")
    pl.DataFrame([row, {**row, "amount": None}]).write_parquet(zone.landing / "events/a.parquet")
    zone.take(source)
    zone.put("events/b.parquet", b"")
    pl.DataFrame([{**row, "event_id": "b"}]).drop("amount").write_parquet(zone.landing / "events/b.parquet")
    zone.take(source)
    texts = ('[{"b": ["/w=="]}]', "PT5S", '["PT5S"]')
    assert table_rows(zone.lake).select("in", "took", "times").rows() == [texts] * 2
    assert letters(zone.lake)["violations"].to_list() == [["amount: is a double"]]


def check_counts(zone: Zone) -> None:
    assert not [r for _, r in zone.lake.records(CSV.table) if r.counts.missing]


def test_a_field_is_never_taken_for_provenance(zone: Zone) -> None:
    names = ("_offset", "_source", "_file", "_row", "_payload", "violations", "event_date", "_ingested_at")
    header = ",".join(("event_id", "event_timestamp", "amount", "email", *names)).encode() + b"\n"
    rows = [good("a", 0, "5", "", *names), good("b", 0, "-5", "", *names), good("c", 0, "5", "", *names)]
    rows[1] = bad(rows[1].text)
    zone.put("events/a.csv", header + b"\n".join(r.text for r in rows) + b"\n", rows)
    zone.take(batch_rows=1)
    check(zone)


OURS = (*PROVENANCE, *CHANGE, *records.OURS)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "debezium"])
def test_a_field_named_like_a_column_of_ours_is_a_column_beside_it(zone: Zone, kind: str) -> None:
    fields = {name: f"my {name}" for name in ("_id", *dict.fromkeys(OURS))}
    rows = [
        {"event_id": k, "event_timestamp": "2026-01-05T00:00:00Z", "amount": a, **fields}
        for k, a in (("a", "5"), ("b", "-5"), ("c", "5"))
    ]
    source = CSV
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        zone.put("events/a", "\n".join(lines).encode())
    elif kind == "json":
        source = replace(CSV, format=JsonLines())
        zone.put("events/a", "\n".join(map(json.dumps, rows)).encode())
    elif kind == "debezium":
        source = CHANGES
        zone.json("events/a", [change("c", row, n) for n, row in enumerate(rows)])
    else:
        source = replace(CSV, format=Parquet())
        zone.put("events/a", b"")
        pl.DataFrame(rows).write_parquet(zone.landing / "events/a")
    taken = zone.take(source)
    assert (taken.counts.written, taken.counts.dead_lettered) == (2, 1)
    found = table_rows(zone.lake)
    assert found.select("event_id", "_source", "_file", "_row", "_offset").rows() == [
        ("a", "events", "events/a", 1, record_offset(1, 1)),
        ("c", "events", "events/a", 3, record_offset(1, 3)),
    ]
    kept = {value for row in found.rows() for value in row if str(value).startswith("my _")}
    assert kept == set(fields.values())
    assert set(found[own_name("_id")]) == {"my _id"}
    lax = tuple(e for e in source.contract.expectations if "greater" not in e.name)
    contract = replace(source.contract, watermark=None, expectations=lax)
    replay(replace(source, contract=contract), zone.lake, RUN)
    again = table_rows(zone.lake)
    assert again.columns == found.columns
    mine = [c for c in again.columns if str(again[c][0]).startswith("my _")]
    assert again.select(mine).n_unique() == 1, "a replay gives other fields than an intake"


MISREAD = {
    "another delimiter": (b"event_id;event_timestamp;amount;email\nb;2026-01-05 00:00:00;5;\n", "';'"),
    "tabs": (b"event_id\tevent_timestamp\nb\t2026-01-05 00:00:00\n", "by '\\t'"),
    "no header": (b"b,2026-01-05 00:00:00,5,x@example.org\n", "has the file no header"),
    "another source's": (b"sku,price\n1,2\n", "another source's"),
    "shouted": (b"EVENT_ID,EVENT_TIMESTAMP\nb,2026-01-05 00:00:00\n", "upper and lower case"),
    "UTF-16 that does not say so": ("event_id,event_timestamp\nb,2026-01-05\n".encode("utf-16-le"), "UTF-16"),
}


@pytest.mark.parametrize("kind", MISREAD)
def test_a_file_that_is_not_as_declared_is_kept_and_said(zone: Zone, kind: str) -> None:
    content, words = MISREAD[kind]
    zone.put("events/a.csv", content, [])
    taken = zone.take()
    assert taken.counts == Counts(read=1, dead_lettered=1)
    (letter,) = dead_letters.read(zone.lake, "bronze.events").to_dicts()
    assert words in letter["violations"][0]
    assert "in quarantine" in taken.notes[0]


def test_lines_that_end_as_on_old_macs_are_lines(zone: Zone) -> None:
    rows = [good(f"r{i}", i) for i in range(5)]
    header = b"event_id,event_timestamp,amount,email"
    zone.put("events/a.csv", b"\r".join([header, *(r.text for r in rows)]) + b"\r", rows)
    assert zone.take().counts == Counts(read=5, written=5)


def test_an_empty_file_and_one_of_a_header_alone_are_taken(zone: Zone) -> None:
    zone.put("events/empty.csv", b"")
    zone.csv("events/header.csv", [])
    taken = zone.take()
    assert taken.counts.missing == 0
    assert table_rows(zone.lake).is_empty()
    version = zone.lake.version(CSV.table)
    assert zone.take().counts.read == 0
    assert zone.lake.version(CSV.table) == version


# change events ------------------------------------------------------------------------------------


CHANGES = replace(
    CSV,
    format=Debezium(("event_id",)),
    contract=replace(CSV.contract, watermark=None, key=(), partitioned_by=()),
)


def change(op: str, row: dict[str, Any] | None, n: int = 1) -> Row:
    image = {"before": row, "after": None} if op == "d" else {"before": None, "after": row}
    source = {"connector": "postgresql", "lsn": n, "ts_ms": 1_700_000_000_000}
    return Row(json.dumps({**image, "source": source, "op": op}).encode(), True)


def test_a_delete_without_its_key_is_a_dead_letter(zone: Zone) -> None:
    whole = {"event_id": "a", "event_timestamp": "2026-01-05T00:00:00Z"}
    deletes: list[dict[str, Any]] = [{"event_id": "a"}, {"amount": 5}, {"event_id": None}]
    rows = [change("c", whole), *(change("d", d) for d in deletes), change("t", None), Row(b"null", True)]
    zone.json("events/a.json", rows)
    zone.take(CHANGES)
    assert table_rows(zone.lake)["_op"].to_list() == ["c", "d", "t", "tombstone"]
    assert letters(zone.lake)["violations"].to_list() == [["event_id: not null"]] * 2
    check_counts(zone)


# severities ---------------------------------------------------------------------------------------


@pytest.mark.failure("data")
def test_a_fail_expectation_stops_the_intake_before_anything_is_written(zone: Zone) -> None:
    source = with_severity("amount: at least 0", "fail")
    zone.csv("events/a.csv", [good("a"), good("secret", 0, "-77"), bad()])
    with pytest.raises(IntakeFailed, match="amount: at least 0") as failed:
        zone.take(source)
    assert "secret" not in str(failed.value)
    assert "77" not in str(failed.value)
    assert table_rows(zone.lake).is_empty()
    assert letters(zone.lake).is_empty()
    zone.take(CSV)
    assert table_rows(zone.lake)["event_id"].to_list() == ["a"]
    assert letters(zone.lake).height == 2


def test_a_warning_is_counted_and_the_row_stays(zone: Zone) -> None:
    source = with_severity("amount: at least 0", "warn")
    zone.csv("events/a.csv", [good("a"), good("b", 0, "-77")])
    taken = zone.take(source)
    assert taken.counts.written == 2
    assert taken.warnings == {"amount: at least 0": 1}


def with_severity(expectation: str, severity: str) -> FileSource:
    from medallion_platform.contracts.contract import Severity

    found = tuple(
        replace(e, severity=Severity(severity)) if e.name == expectation else e
        for e in CSV.contract.expectations
    )
    assert found != CSV.contract.expectations
    return replace(CSV, contract=replace(CSV.contract, expectations=found))


# crashes ------------------------------------------------------------------------------------------


class Crashed(BaseException):
    """The process died here: nothing catches it."""


class Crash:
    """Dies before or after one call of a step."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *, after: bool, call: int = 1
    ) -> None:
        self.module, self.name, self.after, self.call = module, name, after, call
        self.step = getattr(module, name)
        self.calls = 0

    def __enter__(self) -> None:
        setattr(self.module, self.name, self)

    def __exit__(self, *_: object) -> None:
        setattr(self.module, self.name, self.step)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls == self.call and not self.after:
            raise Crashed
        result = self.step(*arguments, **named)
        if self.calls == self.call:
            raise Crashed
        return result


def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in frames of single records, as files larger than memory are."""
    read = TextFormat.read

    def read_in_pieces(*arguments: Any) -> Any:
        for frame in read(*arguments):
            yield from (frame.slice(i, 1) for i in range(frame.height))

    monkeypatch.setattr(TextFormat, "read", read_in_pieces)


STEPS = [
    (file_registry, "register_file_versions"),
    (dead_letters, "append"),
    (steps.polars_writer, "append_rows"),
    (steps, "triage"),
    (steps, "find_duplicates"),
]
crashes = st.tuples(st.sampled_from(STEPS), st.booleans(), st.integers(1, 4))


@settings(quick, max_examples=25)
@given(csv_files(), st.lists(st.tuples(crashes, st.integers(1, 9)), min_size=1, max_size=4), st.data())
def test_after_crashes_between_any_steps_every_record_is_there_once(
    tmp_path_factory: Any,
    given_files: list[tuple[list[Row], tuple[str, ...]]],
    attempts: list[Any],
    data: st.DataObject,
) -> None:
    zone = Zone(tmp_path_factory.mktemp("zone"))
    waiting = list(enumerate(given_files))
    with pytest.MonkeyPatch.context() as monkeypatch:
        if data.draw(st.booleans(), label="pieces"):
            in_pieces(monkeypatch)
        for ((module, name), after, call), batch in attempts:
            for i, (rows, columns) in waiting[: data.draw(st.integers(0, len(waiting)), label="arrive")]:
                zone.csv(f"events/{i}.csv", rows, columns)
                waiting.pop(0)
            try:
                with Crash(monkeypatch, module, name, after=after, call=call):
                    zone.take(batch_rows=batch)
            except Crashed:
                pass
        for i, (rows, columns) in waiting:
            zone.csv(f"events/{i}.csv", rows, columns)
        zone.take(batch_rows=data.draw(st.integers(1, 9), label="batch"))
    check(zone)


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("after", [False, True])
def test_a_file_that_cannot_be_read_is_told_once_after_a_crash(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, step: int, after: bool
) -> None:
    zone.put("events/torn.csv.gz", gzip.compress(os.urandom(1000))[:-20])
    module, name = STEPS[step]
    with Crash(monkeypatch, module, name, after=after), pytest.raises(Crashed):
        zone.take()
    zone.take()
    assert letters(zone.lake)["row"].to_list() == [0]
    assert [r.counts.missing for _, r in zone.lake.records(CSV.table)] == [0]
    assert zone.take().counts.read == 0


@pytest.mark.parametrize("laxer", [True, False])
def test_a_contract_that_changed_between_crash_and_retry_doubles_nothing(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, laxer: bool
) -> None:
    lax = with_severity("amount: at least 0", "warn")
    before, then = (CSV, lax) if laxer else (lax, CSV)
    zone.csv("events/a.csv", [good("a"), good("b", 0, "-1"), bad(), good("c")])
    with Crash(monkeypatch, dead_letters, "append", after=True), pytest.raises(Crashed):
        zone.take(before)
    zone.take(then, batch_rows=1)
    rows, dead = table_rows(zone.lake), letters(zone.lake)
    assert sorted([*rows["_row"], *dead["row"]]) == [1, 2, 3, 4]
    assert all(r.counts.missing == 0 for _, r in zone.lake.records(CSV.table))
    total = [r.counts for _, r in zone.lake.records(CSV.table)]
    assert (sum(c.written for c in total), sum(c.dead_lettered for c in total)) == (
        rows.height,
        dead.height,
    )
    assert dead.height == 2


def test_a_retry_in_smaller_batches_counts_each_dead_letter_once(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch)
    zone.csv("events/a.csv", [bad(), good("a"), bad("b,x,5,"), bad("c,x,5,"), good("b")])
    with Crash(monkeypatch, dead_letters, "append", after=True), pytest.raises(Crashed):
        zone.take(batch_rows=4)
    zone.take(batch_rows=1)
    check(zone)


# two at once --------------------------------------------------------------------------------------


def test_of_two_intakes_at_once_each_is_right_or_fenced(zone: Zone) -> None:
    outcomes: list[str] = []
    for turn in range(4):
        for n in range(2):
            zone.csv(
                f"events/{turn}-{n}.csv",
                [good(f"k{turn}{n}{i}") for i in range(3)] + [bad(f"{turn}{n},x,5,")],
            )
        seen, barrier = zone.seen(CSV), threading.Barrier(2)

        def run(seen: Any = seen, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                zone.take_seen(CSV, seen, zone.lake, batch_rows=2)
                outcomes.append("done")
            except CommitConflict:
                outcomes.append("fenced")

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(outcomes) == 8, "an intake died of something else than the fence"
    zone.take()
    check(zone)
    assert expected(zone, [CSV])[CSV.name].duplicate == 0


@pytest.mark.failure("permanent")
def test_the_spark_engine_refuses_a_source_without_topics(zone: Zone) -> None:
    from medallion_platform.pipeline.intake import spark_engine

    none: Any = None  # no session: it is refused before Spark is asked for anything
    zone.csv("events/1.csv", [good("a")])
    arrived = landing_zone.landed_files(CSV, zone.landing, zone.seen(CSV), zone.lake, RUN)
    with pytest.raises(IntakeFailed, match="reads Kafka topics only"):
        spark_engine.intake(arrived, zone.lake, none, RUN)
    with pytest.raises(IntakeFailed, match="reads Kafka topics only"):
        spark_engine.stream(CSV, zone.lake, none, lambda: RUN, threading.Event(), none)
    assert not zone.lake.exists(CSV.table)
