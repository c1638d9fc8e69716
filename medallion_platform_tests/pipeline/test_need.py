"""What a table needs of a run, by the logs: never less than its refresh then opens."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from medallion_platform.lakehouse import spark_tables
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.lake import Lake, Size
from medallion_platform.pipeline import need as needs_module
from medallion_platform.pipeline.answer_cache import AnswerCache
from medallion_platform.pipeline.need import (
    Need,
    after_inputs,
    largest_partition,
    needs_of_tables,
    partitions_changing,
)
from medallion_platform.pipeline.out_of_date import out_of_date_tables
from medallion_platform.pipeline.refresh.plan import upstream_days
from medallion_platform.pipeline.table import daily, weekly
from medallion_platform_tests.pipeline.shop import SHOP, bring, change, event, take_all
from medallion_platform_tests.pipeline.test_plan import DAYS, MONDAY, declared
from medallion_platform_tests.pipeline.toy import Zone

COLUMNS = {"silver.up": "day", "silver.other": None}


def needs(lake: Lake, cache: AnswerCache | None = None) -> dict[str, Need]:
    seen = lake.snapshot()
    return needs_of_tables(SHOP, seen, out_of_date_tables(SHOP, seen, cache), cache)


def bytes_of(lake: Lake, table: str) -> int:
    opened = lake.open(table)
    return sum(opened.get_add_actions(flatten=True)["size_bytes"].to_pylist()) if opened else 0


# arithmetic ---------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(0, 40), st.integers(0, 10**12), max_size=12),
    st.integers(0, 9),
    st.sampled_from([daily("day"), weekly("day")]),
    st.integers(0, 10**12),
)
def test_no_partition_is_made_from_more_than_the_largest(
    days: dict[int, int], lookback_days: int, partition: Any, lookup: int
) -> None:
    t = declared("replace_partitions", partition, lookback_days, more=True)
    up = {str(MONDAY + timedelta(days=n)): size for n, size in days.items()}
    sizes = {"silver.up": up, "silver.other": {UNPARTITIONED: lookup}}
    made_from = [
        sum(
            up.get(day, 0)
            for day in upstream_days(t, "silver.up", {str(partition.of(MONDAY + timedelta(n)))})
        )
        for n in range(60)
    ]
    assert largest_partition(t, COLUMNS, sizes) == lookup + max(made_from)


def test_a_table_without_partitions_is_made_from_all() -> None:
    sizes = {"silver.up": {DAYS[0]: 3, DAYS[1]: 4}}
    assert largest_partition(declared("replace_partitions", None), COLUMNS, sizes) == 7


@pytest.mark.parametrize(
    ("own", "upstream", "lookback_days", "changing"),
    [
        (None, [DAYS[3]], 0, {DAYS[3]}),
        ([DAYS[5]], [DAYS[3]], 1, {DAYS[3], DAYS[4], DAYS[5]}),
        (None, None, 0, None),
        (None, [UNPARTITIONED], 0, set()),
    ],
)
def test_what_changes_with_an_input(
    own: Collection[str] | None,
    upstream: Collection[str] | None,
    lookback_days: int,
    changing: set[str] | None,
) -> None:
    t = declared("replace_partitions", lookback_days=lookback_days)
    known = {"silver.up": upstream, **({} if own is None else {t.name: own})}
    assert partitions_changing(t, known) == changing
    assert partitions_changing(declared("replace_partitions", None), known) is None
    assert partitions_changing(t, {**known, t.name: None}) is None


@pytest.mark.parametrize(
    ("adds", "partitions", "due"),
    [
        (True, set(DAYS[:1]), 5 + 7),
        (False, set(DAYS[:2]), 2 * 30 + 7),
        (False, set(DAYS), 100 + 7),
        (False, None, 100 + 7),
    ],
)
def test_what_follows_an_input_reads_what_that_changes(
    adds: bool, partitions: set[str] | None, due: int
) -> None:
    assert after_inputs(Need("gold", 5, 30, 100), 7, partitions, adds=adds) == Need("gold", due, 30, 100)


# a real lake --------------------------------------------------------------------------------------


def test_before_anything_arrived_nothing_is_needed(tmp_path: Path) -> None:
    assert needs(Zone(tmp_path).lake) == {
        name: Need(name.partition(".")[0])  # type: ignore[arg-type]
        for name in SHOP.names
    }


def test_a_first_refresh_needs_all_of_its_inputs_and_what_follows_it_needs_what_it_makes(
    tmp_path: Path,
) -> None:
    zone = Zone(tmp_path)
    zone.json("events/1.json", [event(f"{n}", n % 2, amount=n) for n in range(50)])
    zone.json("users/1.json", [change("u", 1, 0, "a")])
    take_all(zone)
    found, events = needs(zone.lake), bytes_of(zone.lake, "bronze.events")
    assert found["bronze.events"] == Need("bronze")
    assert found["silver.users"].due_bytes == bytes_of(zone.lake, "bronze.users") > 0
    assert found["silver.events"].whole_bytes == events
    assert events > found["silver.events"].partition_bytes > events // 2 - 1000
    assert found["silver.events"].due_bytes >= events
    assert found["gold.weeks"].due_bytes == found["gold.days"].due_bytes >= events


def test_what_was_added_is_the_difference_of_what_there_is(tmp_path: Path) -> None:
    """Also where the commits are folded in one after the other."""
    zone, name = Zone(tmp_path), "bronze.events"
    sizes, versions = [], []
    for turn in range(3):
        zone.json(f"events/{turn}.json", [event(f"{turn} {n}", n % (turn + 1)) for n in range(9)])
        take_all(zone)
        sizes.append(zone.lake.sizes(name, "event_date"))
        versions.append(zone.lake.version(name))
        zone.lake.sizes_added(name, versions[0], "event_date")
    assert sum(size.bytes for size in sizes[2].values()) == bytes_of(zone.lake, name)
    assert sum(size.rows for size in sizes[2].values()) == zone.lake.rows(name) == 27
    for before, version in zip(sizes, versions, strict=True):
        added = zone.lake.sizes_added(name, version, "event_date")
        assert {d: before.get(d, Size()) + added.get(d, Size()) for d in sizes[2]} == sizes[2]
    assert zone.lake.sizes(name)[UNPARTITIONED].bytes == bytes_of(zone.lake, name)


def test_nothing_is_looked_at_again_while_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, cache, looked = Zone(tmp_path), AnswerCache(), list[str]()
    zone.json("events/1.json", [event("a", 0)])
    take_all(zone)
    seen = zone.lake.snapshot()
    late = out_of_date_tables(SHOP, seen, cache)
    found = needs_of_tables(SHOP, seen, late, cache)

    def watched(name: str, of: Any) -> Any:
        return lambda *given, **named: (looked.append(name), of(*given, **named))[1]

    for name in ("sizes", "sizes_added", "open", "records"):
        monkeypatch.setattr(Lake, name, watched(name, getattr(Lake, name)))
    monkeypatch.setattr(needs_module, "planned", watched("planned", needs_module.planned))
    assert needs_of_tables(SHOP, seen, late, cache) == found
    assert looked == []
    zone.json("users/1.json", [change("u", 1, 0, "a")])
    take_all(zone)
    assert needs(zone.lake, cache) != found
    assert "planned" in looked


def test_a_need_is_no_less_than_what_the_refresh_opens(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, int] = {}

    def watched(of: Any) -> Any:
        def read(*given: Any, **named: Any) -> DataFrame:
            frame = of(*given, **named)
            for uri in frame.inputFiles():
                file = Path(unquote(urlparse(uri).path))
                opened[str(file)] = file.stat().st_size
            return frame

        return read

    monkeypatch.setattr(spark_tables, "read", watched(spark_tables.read))
    monkeypatch.setattr(spark_tables, "appended", watched(spark_tables.appended))
    zone = Zone(tmp_path)
    for turn in range(3):
        zone.json(f"events/{turn}.json", [event(f"{turn} {n}", 3 * turn, amount=n) for n in range(20)])
        zone.json(f"users/{turn}.json", [change(f"u{turn}", turn, 0, "a")])
        take_all(zone)
        for t in SHOP.in_order:
            opened.clear()
            due = needs(zone.lake)[t.name].due_bytes
            done = bring(t, zone.lake, spark)
            assert due >= sum(opened.values()), (turn, t.name, done.reason)
            assert opened or done.record is None
        assert all(need.due_bytes == 0 for need in needs(zone.lake).values())
