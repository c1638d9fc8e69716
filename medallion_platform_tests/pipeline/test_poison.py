"""Records that end whatever takes them in: found by halves in few deaths, they alone."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.contracts.codes import Code
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.pipeline.intake import poison, polars_engine
from medallion_platform.pipeline.intake.poison import Attempt, Notes, batches_of, behind, deaths, size
from medallion_platform.pipeline.intake.replay import parse_table_again, replay
from medallion_platform.sources.arrivals import Batch, Divisible, PositionOf, Range
from medallion_platform.sources.connectors.files import FileSource, record_offset
from medallion_platform.sources.formats.csv import Csv, CsvParser
from medallion_platform.sources.formats.jsonlines import JsonLinesParser
from medallion_platform.sources.formats.parquet import Parquet

from .toy import CSV, FIELDS, JSON, MONDAY, RUN, Row, Zone, good, json_good, letters, table_rows


class _Dies(BaseException):
    """The end of a process in which nothing more is executed."""


@dataclass
class _Logs:
    """Logs of so many records, some of which end whatever reads them."""

    held: Mapping[str, int]
    fatal: frozenset[tuple[str, int]]
    taken: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    dead: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    source: object = None
    pieces: str = "logs"
    notes: Sequence[str] = ()

    def position(self, log: str) -> int | None:
        return sum(1 for name, _ in (*self.taken, *self.dead) if name == log) or None

    def waiting(self, position: PositionOf) -> list[str]:
        return list(self.begins(position))

    def begins(self, position: PositionOf) -> Mapping[str, int]:
        return {log: position(log) or 0 for log, end in self.held.items() if (position(log) or 0) < end}

    def ahead(self, position: PositionOf, rows: int) -> Sequence[Range]:
        begins = self.begins(position).items()
        return [Range(log, begin, min(begin + rows, self.held[log])) for log, begin in begins]

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        while ahead := self.ahead(position, rows):
            yield from self.within([ahead[0]], position, rows, size)

    def within(self, ranges: Sequence[Range], position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        for of in ranges:
            assert of.begin == (position(of.log) or 0)
            for begin in range(of.begin, of.end, rows):
                found = [(of.log, n) for n in range(begin, min(begin + rows, of.end))]
                if self.fatal & set(found):
                    raise _Dies
                self.taken += found
                yield Batch(pl.DataFrame(), (), {of.log: found[-1][1] + 1})

    def unparsed(self, fatal: Range, position: PositionOf) -> Iterator[Batch]:
        assert fatal.end - fatal.begin == 1
        self.dead.append((fatal.log, fatal.begin))
        yield Batch(pl.DataFrame(), (), {fatal.log: fatal.end})


class _Memory(Notes):
    """Notes that outlive a process."""

    def __init__(self, kept: list[bytes]) -> None:
        self.kept, self._written = kept, False

    def read(self) -> Attempt | None:
        return None if self._written else Attempt.from_json(self.kept[-1])

    def _put(self, text: bytes) -> None:
        self.kept.append(text)


held = st.dictionaries(st.sampled_from("abc"), st.integers(0, 70), min_size=1)


@given(st.data(), held, st.integers(1, 100))
def test_any_fatal_records_are_isolated_alone_in_few_deaths(
    data: st.DataObject, held: dict[str, int], rows: int
) -> None:
    every = [(log, n) for log, end in held.items() for n in range(end)]
    fatal = frozenset(data.draw(st.lists(st.sampled_from(every), max_size=6)) if every else ())
    logs, kept, died = _Logs(held, fatal), [b""], 0
    assert isinstance(logs, Divisible)
    # The first death in a batch behind others leaves no note; all logs are suspected at first.
    most = len(fatal) * (5 + max(math.ceil(math.log2(rows * len(held))), 1))
    while died <= most:
        try:
            for _ in batches_of(logs, _Memory(kept), logs.position, rows, 1, suspects_only=False):
                pass
            break
        except _Dies:
            died += 1
    assert sorted(logs.dead) == sorted(fatal)
    assert sorted(logs.taken) == sorted(set(every) - fatal)
    assert died <= most


@given(held, st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 70), st.integers(0, 70))))
def test_halves_and_the_rest_are_all_of_it(held: dict[str, int], more: list[tuple[str, int, int]]) -> None:
    ranges = tuple(Range(log, min(a, b), max(a, b)) for log, a, b in more if a != b)
    half = poison.first_half(ranges)
    assert size(half) == (size(ranges) + 1) // 2
    assert behind([Range(log, 0, end) for log, end in held.items()], held.get) == ()


@pytest.mark.parametrize("ends", [1, 2, 5])
def test_processes_that_die_of_something_else_cost_no_record(ends: int) -> None:
    """As those of a node that is drained: what they left is taken in, if in pieces."""
    held, kept = {"a": 50, "b": 3}, [b""]
    everything = frozenset((log, n) for log, end in held.items() for n in range(end))
    logs = _Logs(held, everything)
    for n in range(ends + 1):
        logs.fatal = everything if n < ends else frozenset()
        with suppress(_Dies):
            for _ in batches_of(logs, _Memory(kept), logs.position, 100, 1, suspects_only=False):
                pass
    assert logs.dead == []
    assert set(logs.taken) == everything


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"ranges": [1], "deaths": 2, "part": true}', b'{"deaths": 2}', b"\xff"],
)
def test_a_note_that_is_none_says_nothing(text: bytes) -> None:
    assert Attempt.from_json(text) is None


def test_a_note_is_read_as_it_was_written() -> None:
    attempt = Attempt((Range("a", 3, 9), Range("b", 0, 1)), 4, part=True)
    assert Attempt.from_json(attempt.to_json()) == attempt


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


@pytest.fixture
def fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever parses a certain record dies: no note is withdrawn, as where nothing more is executed."""

    def dies(read: Any) -> Any:
        def reads(given: Any, block: Any, *more: Any) -> Any:
            content = block.read_bytes() if isinstance(block, Path) else bytes(block.text)
            if b"fatal" in content:
                monkeypatch.setattr(Notes, "withdraw", lambda _: None)
                raise _Dies
            return read(given, block, *more)

        return reads

    monkeypatch.setattr(JsonLinesParser, "parse", dies(JsonLinesParser.parse))
    monkeypatch.setattr(CsvParser, "parse", dies(CsvParser.parse))
    monkeypatch.setattr(Parquet, "read", dies(Parquet.read))


def deaths_until_taken(zone: Zone, source: FileSource, **options: int) -> int:
    """How many processes die until one takes in all."""
    for died in range(60):
        try:
            zone.take(source, **options)
        except _Dies:
            continue
        return died
    raise AssertionError


def records(count: int, fatal: Sequence[int]) -> list[Row]:
    return [json_good(f"k{n}", n, 5, {"note": "fatal"} if n in fatal else {}) for n in range(count)]


def check_counts(zone: Zone, read: int, dead: int, duplicate: int = 0) -> None:
    counts = [r.counts for _, r in zone.lake.records("bronze.events")]
    assert not [c for c in counts if c.missing]
    total = sum(counts[1:], counts[0])
    assert (total.read, total.dead_lettered, total.duplicate) == (read, dead, duplicate)
    assert table_rows(zone.lake).height == read - dead - duplicate


@pytest.mark.usefixtures("fatal")
@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_a_line_is_isolated_and_can_be_replayed(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    rows = records(40, [7, 8, 39])
    zone.json("clicks/0.json", records(3, []))
    zone.json("clicks/1.json", rows)
    zone.json("clicks/2.json", [json_good("later", 3000, 1, {})])
    assert deaths_until_taken(zone, JSON, batch_rows=batch_rows) <= 3 * (5 + 6)
    dead = letters(zone.lake)
    assert dead["code"].to_list() == [Code.POISON] * 3
    assert dead["violations"].to_list() == [["record: ended every process that read it"]] * 3
    assert dead["payload"].to_list() == [rows[n].text for n in (7, 8, 39)]
    assert dead["offset"].to_list() == [record_offset(2, n + 1) for n in (7, 8, 39)]
    assert deaths(zone.lake, "bronze.events") == 0
    check_counts(zone, 44, 3, duplicate=3)  # of the first file
    parse_table_again(JSON, zone.lake, RUN)  # reads none of them
    monkeypatch.undo()  # whoever reads them is corrected
    assert replay(JSON, zone.lake, RUN).counts.written == 3
    assert letters(zone.lake).is_empty()
    assert table_rows(zone.lake).height == 41


@pytest.mark.usefixtures("fatal")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_record_of_any_text_is_isolated(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, encoding: str, *, compressed: bool
) -> None:
    """Also one over several lines, in a file with a header."""
    source = replace(CSV, format=Csv(encoding=encoding))
    lines = [good(f"k{n}", n, email='"a\nfatal\u00e9"' if n == 4 else "").text.decode() for n in range(9)]
    text = "\n".join([",".join(FIELDS), *lines]).encode(encoding)
    zone.put("events/0.csv.gz" if compressed else "events/0.csv", gzip.compress(text) if compressed else text)
    assert deaths_until_taken(zone, source) <= 5 + 4
    (dead,) = letters(zone.lake).to_dicts()
    assert (dead["code"], dead["row"]) == (Code.POISON, 5)
    check_counts(zone, 9, 1)
    monkeypatch.undo()
    assert replay(source, zone.lake, RUN).counts.written == 1
    assert table_rows(zone.lake)["email"].to_list()[4] == "a\nfatal\u00e9"


@pytest.mark.usefixtures("fatal")
def test_a_file_that_cannot_be_divided_is_isolated_as_a_whole(zone: Zone) -> None:
    source = replace(CSV, format=Parquet(), claims=("events/**",))
    for n, note in enumerate(["", "fatal", ""]):
        times = [MONDAY + timedelta(hours=n, minutes=m) for m in range(3)]
        frame = pl.DataFrame(
            {"event_id": [f"{n}{m}" for m in range(3)], "event_timestamp": times, "email": note}
        )
        frame.write_parquet(zone.put(f"events/{n}.parquet", b""), compression="uncompressed")
    assert deaths_until_taken(zone, source) == 2 + 4
    (dead,) = letters(zone.lake).to_dicts()
    assert (dead["code"], dead["row"], dead["file"]) == (Code.POISON, 0, "events/1.parquet")
    told = json.loads(dead["detail"])
    assert told["from_row"] == 1
    assert (
        Path(str(zone.lake.root), told["kept"]).read_bytes()
        == (zone.landing / "events/1.parquet").read_bytes()
    )
    assert table_rows(zone.lake)["event_id"].to_list() == [f"{n}{m}" for n in (0, 2) for m in range(3)]


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.POISON])
def test_what_lives_to_fail_has_not_died_of_its_records(zone: Zone, kind: Kind) -> None:
    """But for a process of another's that did."""
    zone.json("clicks/0.json", records(3, []))

    def fails(*_: object) -> None:
        raise MedallionError("it fails", kind=kind)

    for times in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(polars_engine, "triage", fails)
            with pytest.raises(MedallionError):
                zone.take(JSON)
        assert deaths(zone.lake, "bronze.events") == (times if kind is Kind.POISON else 0)


def test_a_file_that_goes_before_its_record_is_isolated_is_lost(
    zone: Zone, fatal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zone.json("clicks/0.json", records(1, [0]))
    for _ in range(3):
        with pytest.raises(_Dies):
            zone.take(JSON)
    seen = zone.seen(JSON)
    path.unlink()
    zone.take_seen(JSON, seen, zone.lake)
    (dead,) = letters(zone.lake).to_dicts()
    assert dead["code"] == Code.LOST
