"""A small installation for tests: contracts, sources, a landing zone, and the account of an intake."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyspark.sql.types as T
from hypothesis import strategies as st

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.files import FileSource, record_offset
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.jsonlines import JsonLines

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
RUN = Run("test", NOW)
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
FIELDS = ("event_id", "event_timestamp", "amount", "email")


class Events(ContractModel):
    """Events of a shop."""

    event_id: T.StringType = Field(str_length={"max_value": 40})
    event_timestamp: T.TimestampType = Field()
    amount: T.DoubleType = Field(ge=0, nullable=True)
    email: T.StringType = Field(nullable=True)

    class Config:
        metadata = {  # noqa: RUF012
            "key": ["event_id"],
            "event_time": "event_timestamp",
            "watermark": timedelta(minutes=10),
            "partitioned_by": ["event_date"],
        }


EVENTS = Events.contract
CSV = FileSource("events", "bronze.events", EVENTS, Csv(), "toy", claims=("events/**",))
JSON = FileSource("clicks", "bronze.events", EVENTS, JsonLines(), "toy", claims=("clicks/**",))


@dataclass(frozen=True)
class Row:
    """A record as it lies in a file, and what is known of it from having written it."""

    text: bytes
    good: bool
    key: str = ""
    time: datetime = MONDAY
    fields: dict[str, str | None] = field(default_factory=dict)


@dataclass
class Zone:
    """A landing zone with a lake beside it; files get older modification times in order of arrival."""

    root: Path
    clock: int = 0
    rows: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        return Lake(self.root / "lake")

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    def put(self, path: str, content: bytes, rows: Sequence[Row] = ()) -> Path:
        """A file as it arrives now; `rows` is what a reader should find in it."""
        file = self.landing / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self.clock += 1
        at = MONDAY.timestamp() + self.clock
        os.utime(file, (at, at))
        self.rows[path] = list(rows)
        return file

    def csv(self, path: str, rows: Sequence[Row], columns: Sequence[str] = FIELDS) -> Path:
        """A CSV file of these rows."""
        text = b"\n".join([",".join(columns).encode(), *(r.text for r in rows)]) + b"\n"
        return self.put(path, text, rows)

    def json(self, path: str, rows: Sequence[Row]) -> Path:
        """A file of JSON lines of these rows."""
        return self.put(path, b"".join(r.text + b"\n" for r in rows), rows)

    def seen(self, source: FileSource) -> Sequence[landing_scan.FileInfo]:
        """What an intake of the source would be given."""
        return landing_scan.scan_landing_zone(self.landing, [source], NOW, 0).claimed[source.name]

    def take(self, source: FileSource = CSV, lake: Lake | None = None, **options: Any) -> IntakeResult:
        """Run the source's intake."""
        return self.take_seen(source, self.seen(source), lake or self.lake, **options)

    def take_seen(
        self,
        source: FileSource,
        seen: Sequence[landing_scan.FileInfo],
        lake: Lake,
        run: Run = RUN,
        **options: Any,
    ) -> IntakeResult:
        """Run the source's intake of what was seen before."""
        return intake(landing_zone.landed_files(source, self.landing, seen, lake, run), lake, run, **options)


def good(key: str, minutes: float = 0, amount: str = "5", email: str = "", *more: str) -> Row:
    """A CSV record that keeps its contract."""
    time = MONDAY + timedelta(minutes=minutes)
    values = (key, time.isoformat(), amount, email, *more)
    return Row(",".join(values).encode(), True, key, time)


def bad(text: bytes | str = b"e0,never,5,") -> Row:
    """A CSV record that breaks its contract, or is none."""
    return Row(text if isinstance(text, bytes) else text.encode(), False)


def table_rows(lake: Lake, table: str = CSV.table) -> pl.DataFrame:
    """A bronze table without what each run writes differently, in order."""
    found = lake.open(table)
    if found is None:
        return pl.DataFrame({"_offset": [], "_source": [], "_payload": []})
    rows = pl.scan_delta(found).collect().drop("_ingested_at")
    return rows.sort("_source", "_offset")


def letters(lake: Lake, table: str = CSV.table) -> pl.DataFrame:
    """A table's dead letters without what each run writes differently, in order."""
    return dead_letters.read(lake, table).drop("at", "run_id").sort("source", "offset", "payload")


@dataclass(frozen=True)
class Outcome:
    """Where each record of a source should be: offsets in the table, in the dead letters, nowhere."""

    table: list[int]
    dead: list[int]
    duplicate: int


def expected(
    zone: Zone, sources: Iterable[FileSource], watermark: timedelta | None = None
) -> dict[str, Outcome]:
    """A naive replay of what the file registries say was taken, one row after the other."""
    watermark = watermark or EVENTS.watermark
    assert watermark
    accepted: dict[str, list[datetime]] = {}
    found = {}
    for source in sources:
        table, dead, twice = [], [], 0
        for file in file_registry.read_registry(zone.lake, source.name).iter_rows(named=True):
            if file["state"] == landing_scan.REPEATED:
                continue
            for n, row in enumerate(zone.rows[file["path"]], 1):
                offset = record_offset(file["sequence"], n)
                if not row.good:
                    dead.append(offset)
                elif any(abs(row.time - t) <= watermark for t in accepted.setdefault(row.key, [])):
                    twice += 1
                else:
                    accepted[row.key].append(row.time)
                    table.append(offset)
        found[source.name] = Outcome(table, dead, twice)
    return found


def check(zone: Zone, *sources: FileSource) -> None:
    """Every acknowledged record is where a naive replay puts it, once, and the counts say so."""
    sources = sources or (CSV,)
    lake = zone.lake
    rows, dead = table_rows(lake), letters(lake)
    want = expected(zone, sources)
    for source in sources:
        outcome = want[source.name]
        assert rows.filter(pl.col("_source") == source.name)["_offset"].to_list() == outcome.table
        assert dead.filter(pl.col("source") == source.name)["offset"].to_list() == outcome.dead
    records = [r for _, r in lake.records(CSV.table)]
    assert not [r for r in records if r.counts.missing]
    total = sum((r.counts for r in records[1:]), records[0].counts)
    assert total.written == rows.height
    assert total.dead_lettered == dead.height
    assert total.duplicate == sum(o.duplicate for o in want.values())
    texts = {
        record_offset(f["sequence"], n): row.text
        for source in sources[:1]
        for f in file_registry.read_registry(lake, source.name).iter_rows(named=True)
        for n, row in enumerate(zone.rows[f["path"]], 1)
    }
    for row in rows.filter(pl.col("_source") == sources[0].name).iter_rows(named=True):
        assert row["_payload"].encode() == texts[row["_offset"]]
    for letter in dead.filter(pl.col("source") == sources[0].name).iter_rows(named=True):
        assert letter["payload"] == texts[letter["offset"]]
        assert letter["violations"]
        assert len(letter["broken"]) == (len(letter["violations"]) if letter["code"] == "violates" else 0)


def same_tables(one: Lake, other: Lake, table: str = CSV.table) -> None:
    """The same rows and dead letters, whatever columns came in whatever order."""
    mine, theirs = table_rows(one, table), table_rows(other, table)
    assert sorted(mine.columns) == sorted(theirs.columns)
    assert mine.select(sorted(mine.columns)).equals(theirs.select(sorted(mine.columns)))
    assert letters(one, table).equals(letters(other, table))


# dirty input --------------------------------------------------------------------------------------

keys = st.sampled_from(["a", "b", "c", "d", "e", "f"])
minutes = st.sampled_from([0, 5, 8, 10, 10.000001 / 1, 16, 1435, 1441, 3000])
emails = st.sampled_from(["", "x@y.z", '"a,b"', '"a\nb"', '"say ""hi"""', "é€😀"])
good_rows = st.builds(good, keys, minutes, st.sampled_from(["5", "0", "", "1e3", "0.1"]), emails)
BAD = [
    b"a,never,5,",
    b"a,,5,",
    b",2026-01-05T00:00:00Z,5,",
    b"a,2026-01-05T00:00:00Z,-1,",
    b"a,2026-01-05T00:00:00Z,much,",
    b"a,2026-01-05T00:00:00Z",
    b"a,2026-01-05T00:00:00Z,5,x,y,z",
    b"a,2026-01-05T00:00:00Z,5,\xff\xfe",
    b"a,2026-02-30T00:00:00Z,5,",
    b"k" * 41 + b",2026-01-05T00:00:00Z,5,",
]
csv_rows = good_rows | st.sampled_from(BAD).map(bad)


def _with(row: Row, color: str) -> Row:
    return replace(row, text=row.text + b"," + color.encode()) if row.good else bad(b"a")


@st.composite
def csv_files(draw: st.DrawFn) -> list[tuple[list[Row], tuple[str, ...]]]:
    """A few files, some with a column more than the contract."""
    found = []
    for rows in draw(st.lists(st.lists(csv_rows, max_size=7), min_size=1, max_size=4)):
        if draw(st.booleans()):
            colors = st.sampled_from(["red", "", "blue"])
            found.append(([_with(r, draw(colors)) for r in rows], (*FIELDS, "color")))
        else:
            found.append((rows, FIELDS))
    return found


def json_good(key: str, minutes: float, amount: Any, more: dict[str, Any]) -> Row:
    time = MONDAY + timedelta(minutes=minutes)
    told = {"event_id": key, "event_timestamp": time.isoformat(), "amount": amount, **more}
    return Row(json.dumps(told, ensure_ascii=False).encode(), True, key, time)


json_rows = st.builds(
    json_good,
    keys,
    minutes,
    st.sampled_from([5, 0.5, None, "7"]),
    st.sampled_from([{}, {"email": "x@y.z"}, {"color": "red"}, {"nested": {"a": [1, None]}}]),
) | st.sampled_from(
    [
        b"{",
        b"[1]",
        b"7",
        b'{"event_id": null, "event_timestamp": "2026-01-05T00:00:00Z"}',
        b'{"event_id": "a", "event_timestamp": "2026-01-05T00:00:00Z", "amount": -1}',
        b'{"event_id": "a", "event_timestamp": "2026-01-05T00:00:00Z", "email": "\xff"}',
        b'{"event_id": "a"}',
    ]
).map(bad)  # fmt: skip
json_files = st.lists(st.lists(json_rows, max_size=7), min_size=1, max_size=4)


def count(rows: Iterable[Any]) -> Counter[Any]:
    """How often each of them occurs."""
    return Counter(rows)
