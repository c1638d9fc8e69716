"""Undeclared fields: which column each becomes, and how many get one."""

from __future__ import annotations

import cProfile
import json
import pstats
import string
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from medallion_platform.pipeline.intake import undeclared as bounds
from medallion_platform.pipeline.intake.column_names import LONGEST, PLATFORM, column_of, folded, own_name
from medallion_platform.pipeline.intake.undeclared import FURTHER, MOST, undeclared_columns
from medallion_platform.queries.preview import preview_rows
from medallion_platform.sources.formats import jsonlines
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.parquet import Parquet
from medallion_platform.transforms.history import current, versions

from . import shop
from .shop import bring_all, take_all
from .toy import CSV, EVENTS, JSON, Zone, letters, table_rows

TRICKY = (
    *("utm.source", "utm_source", "a`b", 'a"b', "*", "^email$", "^.*$", "we\0ird"),
    *("", " ", "_", "__", "_ref"),
    *("ref", "ref_", "is_current", "Is_Current", "effective_from", "a\nb", "größe", "e\u0301", "\u00e9"),
    *("x" * 5000, "2024", "ref__089d2d86", "\u017f", "s", "\u212a", "k", "{}", "\\"),
    *("_op", "_row", "_row_", "_further", "event_date"),
    *("EVENT_ID", "select", "a#1", "[0]", "$", "😀", "a/b", "%20", "violations", "literal", "len", "count"),
)  # fmt: skip
FIELDS = st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.text(
    "aA_.*^$", max_size=4
)  # fmt: skip
BASE = {"event_id": "a", "event_timestamp": "2026-01-05T00:00:00Z"}
quick = settings(deadline=None, max_examples=150)


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


@quick
@given(st.lists(FIELDS, unique=True, max_size=30))
def test_a_column_is_legal_free_and_of_one_field_alone(fields: list[str]) -> None:
    taken = {"amount", "event_date"}
    columns = {field: column_of(field, taken) for field in fields}
    for field, column in columns.items():
        assert f"a{column}".isidentifier() and not column.startswith("_") and len(column) <= LONGEST
        assert folded(column) not in taken | PLATFORM
        assert column == column_of(field, taken, set(columns.values())), "it depends on what came before"
    for one in fields:
        for other in fields:
            if folded(columns[one]) == folded(columns[other]):
                assert one.lower() == other.lower(), "only case makes two fields one"


@quick
@given(
    st.lists(st.dictionaries(FIELDS, st.text(string.ascii_letters, min_size=1, max_size=3)), max_size=4),
    st.data(),
)
def test_no_value_is_lost_and_batches_do_not_matter(rows: list[dict[str, str]], data: st.DataObject) -> None:
    def columns(part: list[dict[str, str]], known: list[str]) -> pl.DataFrame:
        names = {name for row in part for name in row}
        order = data.draw(st.permutations(sorted(names)))
        fields = {name: pl.Series([row.get(name) for row in part], dtype=pl.String) for name in order}
        return pl.DataFrame(list(undeclared_columns(fields, None, ("event_id",), known).values()))

    whole = columns(rows, [])
    for i, row in enumerate(rows):
        alone = columns([row], [])
        kept = {folded(c): v for c, v in alone.row(0, named=True).items()} if row else {}
        there = (
            {folded(c): v for c, v in whole.row(i, named=True).items() if v is not None}
            if whole.width
            else {}
        )
        assert kept == there
        assert sorted(kept.values()) == sorted(row.values())


def wide(n: int, prefix: str = "k") -> dict[str, str]:
    return {f"{prefix}{i}": str(i) for i in range(n)}


def put(zone: Zone, name: str, rows: list[dict[str, Any]]) -> Any:
    zone.put(f"clicks/{name}", "\n".join(json.dumps({**BASE, **row}) for row in rows).encode())
    return zone.take(JSON)


def test_a_record_of_too_many_fields_adds_no_column_and_keeps_them(zone: Zone) -> None:
    taken = put(zone, "a", [{"color": "red", "event_id": "n"}, wide(3_000)])
    rows = table_rows(zone.lake).sort("event_id")
    assert [c for c in rows.columns if c not in EVENTS.by_name and not c.startswith("_")] == [
        "event_date",
        "color",
    ]
    assert json.loads(rows[FURTHER][0]) == wide(3_000)
    assert rows[FURTHER][1] is None
    assert taken.further == taken.record.further == 1
    assert "1 record with" in taken.notes[0] and FURTHER in taken.notes[0]


def test_work_grows_as_the_columns_of_a_file_do(tmp_path: Path) -> None:
    """Counted in calls, which are the same each time: twice the columns are not four times the work."""

    def calls(width: int) -> int:
        zone = Zone(tmp_path / str(width))
        fields = BASE | {f"c{i}": "x" for i in range(width)}
        for key in "ab":
            rows = (fields, (fields | {"event_id": key}).values())
            zone.put(f"events/{key}.csv", "\n".join(map(",".join, rows)).encode())
        seen = zone.seen(CSV)
        with cProfile.Profile() as profile:
            assert zone.take_seen(CSV, seen, zone.lake).counts.written == 2
        return cast(Any, pstats.Stats(profile)).total_calls

    calls(10)  # what is imported or compiled once
    assert calls(2_000) < 2.5 * calls(1_000)


def test_a_name_is_no_pattern_for_values_of_any_type(zone: Zone) -> None:
    names = ("^b.*$", "*", "", "a.b")
    values: list[Any] = [b"\xff", timedelta(seconds=5), [timedelta(seconds=5)], {"a": b"\xff"}, 2.5]
    for i, value in enumerate(values):
        zone.put(f"clicks/{i}", b"")
        row = {**BASE, "event_id": str(i), **dict.fromkeys(names, value)}
        pl.DataFrame([row]).write_parquet(zone.landing / f"clicks/{i}")
    zone.take(replace(JSON, format=Parquet()))
    found = table_rows(zone.lake).sort("event_id").select(map(own_name, names))
    assert found.rows() == [(t,) * 4 for t in ("/w==", "PT5S", '["PT5S"]', '{"a": "/w=="}', "2.5")]


def test_any_name_is_kept_beyond_the_bound(zone: Zone) -> None:
    row = {**{name: f"v{i}" for i, name in enumerate(TRICKY)}, **wide(MOST)}
    put(zone, "a", [row])
    assert json.loads(table_rows(zone.lake)[FURTHER][0]) == row


def test_declared_fields_are_seen_behind_thousands_of_others(zone: Zone) -> None:
    row = {**wide(jsonlines.MOST_NAMES + 10), **BASE, "amount": 5}
    zone.put("clicks/a", json.dumps(row).encode())
    zone.take(JSON)
    assert table_rows(zone.lake).select("event_id", "amount").rows() == [("a", 5.0)]


def test_a_table_has_a_bound_and_uses_what_it_has(zone: Zone) -> None:
    keys = [{"event_id": f"e{i}", f"key {i}": "v"} for i in range(MOST + 200)]
    put(zone, "a", keys)
    first = table_rows(zone.lake)
    undeclared = [c for c in first.columns if c not in (*EVENTS.by_name, "event_date") and c[0] != "_"]
    assert len(undeclared) == MOST
    assert first.height - first[FURTHER].null_count() == 200
    put(zone, "b", [{**row, "event_id": f"f{row['event_id']}"} for row in keys])
    again = table_rows(zone.lake)
    assert again.columns == first.columns
    assert all(again[c].drop_nulls().len() == 2 for c in undeclared)
    found = [json.loads(text) for text in again[FURTHER].drop_nulls()]
    assert len(found) == 400 and all(list(f.values()) == ["v"] for f in found)


def test_a_table_with_more_columns_than_the_bound_keeps_them(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST", 2_000)
    put(zone, "a", [wide(MOST + 100)])
    monkeypatch.undo()
    put(zone, "b", [{**wide(MOST + 100), "event_id": "b", "more": "x"}])
    row = table_rows(zone.lake).filter(pl.col("event_id") == "b")
    assert [row[k][0] for k in wide(MOST + 100)] == list(wide(MOST + 100).values())
    assert json.loads(row[FURTHER][0]) == {"more": "x"}


@pytest.mark.parametrize("kind", ["csv", "parquet", "debezium"])
def test_other_formats_are_bounded_too(zone: Zone, kind: str) -> None:
    row = {**BASE, **wide(MOST + 1)}
    source = CSV
    if kind == "csv":
        zone.put("events/a", "\n".join([",".join(row), ",".join(row.values())]).encode())
    elif kind == "parquet":
        source = replace(CSV, format=Parquet())
        zone.put("events/a", b"")
        pl.DataFrame([row]).write_parquet(zone.landing / "events/a")
    else:
        contract = replace(EVENTS, watermark=None, key=(), partitioned_by=())
        source = replace(CSV, format=Debezium(("event_id",)), contract=contract)
        event = {"op": "c", "after": row, "source": {"connector": "postgresql", "lsn": 1, "ts_ms": 1}}
        zone.put("events/a", json.dumps(event).encode())
    taken = zone.take(source)
    assert (taken.counts.written, taken.further) == (1, 1)
    assert json.loads(table_rows(zone.lake)[FURTHER][0]) == wide(MOST + 1)


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_any_name_is_taken_in(zone: Zone, kind: str) -> None:
    row = {**BASE, **{name: f"v{i}" for i, name in enumerate(TRICKY)}}
    source = JSON
    zone.put("clicks/a", json.dumps(row).encode() + b"\n" + json.dumps({**row, "amount": -1}).encode())
    if kind == "parquet":
        source = replace(JSON, format=Parquet())
        pl.DataFrame([{**row, "amount": n} for n in (1.0, -1.0)]).write_parquet(zone.landing / "clicks/a")
    taken = zone.take(source)
    assert (taken.counts.written, taken.counts.dead_lettered) == (1, 1)
    found = table_rows(zone.lake)
    values = {v for v in found.row(0) if isinstance(v, str)}
    assert {f"v{i}" for i in range(len(TRICKY))} <= values
    payload = json.loads(letters(zone.lake)["payload"][0])
    assert {k: payload[k] for k in TRICKY} == {k: row[k] for k in TRICKY}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    "header",
    [
        ["EMAIL", "email", "Email"],
        ["email", "email", "email"],
        ["email", "email_2", "email", "email_", "email (2)"],
        ["email_", "email", "email", "email_2", "EMAIL"],
    ],
)
def test_a_name_that_comes_again_takes_no_other_field_s_place(
    zone: Zone, kind: str, header: list[str]
) -> None:
    """A declared column holds the first field of exactly its name; no value is lost."""
    values = [f"{i}@x" for i in range(len(header))]
    names, row = [*BASE, *header], [*BASE.values(), *values]
    if kind == "csv":
        source = CSV
        zone.put("events/a", ",".join(names).encode() + b"\n" + ",".join(row).encode())
    else:
        source = replace(CSV, format=Parquet())
        path = zone.put("events/a", b"")
        pq.write_table(pa.table([[v] for v in row], names=names), path)
    assert zone.take(source).counts.written == 1
    found = table_rows(zone.lake)
    assert found["email"].item() == values[header.index("email")]
    for declared in ("email_2", "email_"):
        if declared in header:
            assert found[declared].item() == values[header.index(declared)]
    assert set(values) <= set(map(str, found.row(0)))


def test_a_batch_of_awkward_values_stops_nothing(zone: Zone) -> None:
    texts = ["a\0b", "1e400", "9" * 5000, "[" * 10_000 + "]" * 10_000, '"\\ud800"']
    lines = [json.dumps({**BASE, "event_id": "0", "email": texts[0]})]
    lines += [
        json.dumps({**BASE, "event_id": str(i)})[:-1] + f',"amount":{t}}}' for i, t in enumerate(texts[1:])
    ]
    lines += [
        json.dumps({**BASE, "event_id": f"u{i}"})[:-1] + f',"more":{t}}}' for i, t in enumerate(texts[1:])
    ]
    zone.put("clicks/a", "\n".join(lines).encode())
    taken = zone.take(JSON)
    assert taken.counts.missing == 0
    assert (taken.counts.written, taken.counts.dead_lettered) == (3, 6)


def test_what_is_shown_has_the_undeclared_columns_masked_where_they_look_personal(zone: Zone) -> None:
    told = {
        "color": "red",
        "price": "60417.35",
        "on": "2031-04-17",
        "mail": "planted@x.org",
        "tel": "+43 660 1234567",
    }
    put(zone, "a", [{**told, "^t": "caret"}])
    found = preview_rows(zone.lake, EVENTS, JSON.table, 5)
    assert found is not None
    assert found.select("color", "price", "on").rows() == [("red", "60417.35", "2031-04-17")]
    assert found.select("mail", "tel").rows() == [("pla***@x.org", "***")]
    assert "caret" in found.row(0)
    assert not [c for c in found.columns if c.startswith("_")]


NAMES = {name: f"v{i}" for i, name in enumerate(TRICKY) if name not in ("event_date", "EVENT_ID")}


def test_refreshes_go_on_whatever_the_names_are(zone: Zone, spark: SparkSession) -> None:
    zone.json("events/a.json", [shop.event("a", 0, amount=1, **NAMES)])
    zone.json("users/a.json", [shop.change("u", 1, 0, "s")])
    take_all(zone)
    # A table of before has columns under the names that fields had.
    old = DeltaTable(zone.lake.path("bronze.events"))
    old.alter.add_columns([pl_field(n) for n in ("utm.source", "a`b", "*", "^old$")])
    zone.json("events/b.json", [shop.event("b", 0, amount=1, **NAMES)])
    take_all(zone)
    bring_all(zone.lake, spark)
    silver = pl.read_delta(zone.lake.path("silver.events"))
    b = silver.filter(pl.col("event_id") == "b").to_dicts()[0]
    assert b["utm.source"] == NAMES["utm.source"] and b["*"] == NAMES["*"]
    assert silver.filter(pl.col("event_id") == "a")[own_name("utm.source")].to_list() == [NAMES["utm.source"]]
    assert set(NAMES.values()) <= {v for v in b.values() if isinstance(v, str)}


def pl_field(name: str) -> Any:
    from deltalake import Field

    return Field(name, "string", nullable=True)


def test_a_history_of_a_row_with_any_names(spark: SparkSession) -> None:
    told = {"id": "1", "is_current": "mine", "changed_at": "mine too", "a.b": "x", "a`b": "y"}
    changes = [{**told, "_op": "c", "_sequence": "1", "_changed_at": "2026-01-05T00:00:00Z"}]
    frame = spark.createDataFrame(changes)
    row = versions(frame, "id").collect()[0].asDict()
    assert (row["is_current"], row[own_name("is_current")], row["a.b"], row["a`b"]) == (
        True,
        "mine",
        "x",
        "y",
    )
    assert current(frame, "id").collect()[0].asDict()[own_name("changed_at")] == "mine too"
