"""Rows enriched from a history: as of their own time, told when the history was behind, mended after."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from pyspark.sql import SparkSession

from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh.explain import Action, Cause, Why
from medallion_platform.pipeline.refresh.plan import code_version
from medallion_platform.queries.plans import plans_of_tables

from .shop import EVENTS, SHOP, USERS, bring, change, content, dead, event, events, history, rebuilt
from .toy import Zone, bad


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


def segments(zone: Zone) -> dict[str, tuple[str | None, bool]]:
    rows = pl.read_delta(zone.lake.path("silver.events"))
    return {r["event_id"]: (r["segment"], r["_stale_dimension"]) for r in rows.to_dicts()}


def test_a_history_and_the_rows_that_it_enriches(zone: Zone, spark: SparkSession) -> None:
    zone.json("users/1.json", [change("u1", 1, 0, "gold"), change("u2", 2, 0, "silver")])
    zone.json("events/1.json", [event("a", 0, user_id="u1"), event("b", 5, user_id="u1"), event("c", 5)])
    zone.take(USERS)
    zone.take(EVENTS)
    bring(history, zone.lake, spark)
    bring(events, zone.lake, spark)
    assert segments(zone) == {"a": ("gold", False), "b": ("gold", False), "c": (None, False)}

    # Upkeep and rows without consequence move the upstream's version: the history is not behind.
    found = zone.lake.open("bronze.users")
    assert found
    zone.json("users/2.json", [bad(b"{")])
    zone.take(USERS)
    found = zone.lake.open("bronze.users")
    assert found
    found.optimize.compact()
    assert bring(history, zone.lake, None).reason == "up to date"
    zone.json("events/2.json", [event("d", 1, user_id="u2")])
    zone.take(EVENTS)
    bring(events, zone.lake, spark)
    assert segments(zone)["d"] == ("silver", False)
    assert bring(events, zone.lake, None).reason == "up to date"

    # A history that is behind serves as it is, and says so.
    zone.json("users/3.json", [change("u1", 3, 4, "platinum")])
    zone.take(USERS)
    zone.json("events/3.json", [event("e", 6, user_id="u1")])
    zone.take(EVENTS)
    bring(events, zone.lake, spark)
    assert segments(zone)["e"] == ("gold", True)

    # As long as it is behind, what it served would become the same again: automation would never stop.
    assert bring(events, zone.lake, None).reason == "up to date"

    # When it is back, what it changes is recomputed and nothing else; the plan says so beforehand.
    both = Catalog((EVENTS, USERS), (history, events))
    first, then = plans_of_tables(both, zone.lake)
    assert (first.action, [c.why for c in first.causes]) == (Action.MERGE_BY_KEY, [Why.UPSTREAM_CHANGED])
    assert first.rewrites and first.rewrites.rows == zone.lake.rows(history.name) > 0
    assert first.reads and first.reads.rows == zone.lake.rows("bronze.users")
    assert [c.why for c in then.causes] == [Why.FOLLOWS]
    before = zone.lake.version(history.name)
    bring(history, zone.lake, spark)
    _, then = plans_of_tables(both, zone.lake)
    moved = Cause(Why.LOOKUP_MOVED, history.name, before, zone.lake.version(history.name))
    assert (then.action, then.causes) == (Action.UNSURE, (moved, Cause(Why.LOOKUP_WAS_STALE)))
    done = bring(events, zone.lake, spark)
    assert done.record
    assert set(done.record.partitions) == {"2026-01-10", "2026-01-11"}
    assert segments(zone) == {
        "a": ("gold", False),
        "b": ("platinum", False),
        "c": (None, False),
        "d": ("silver", False),
        "e": ("platinum", False),
    }
    assert bring(events, zone.lake, None).reason == "up to date"

    # A change that concerns no row is looked at once.
    zone.json("users/4.json", [change("u9", 9, 0, "gold")])
    zone.take(USERS)
    bring(history, zone.lake, spark)
    bring(events, zone.lake, spark)
    bring(events, zone.lake, None)
    fresh = rebuilt(zone.lake, spark, zone.root / "fresh", both)
    for t in (history, events):
        assert content(fresh, t.name) == content(zone.lake, t.name)
        assert dead(fresh, t.name) == dead(zone.lake, t.name)


def test_a_row_that_its_lookup_made_bad_comes_back_when_the_lookup_is_better(
    zone: Zone, spark: SparkSession
) -> None:
    zone.json("users/1.json", [change("u1", 1, 0, "forbidden")])
    zone.json("events/1.json", [event("a", 1, user_id="u1"), event("b", 2, user_id="u2")])
    zone.take(USERS)
    zone.take(EVENTS)
    bring(history, zone.lake, spark)
    bring(events, zone.lake, spark)
    assert segments(zone) == {"b": (None, False)}
    assert dead(zone.lake, events.name).total() == 1
    zone.json("users/2.json", [change("u1", 2, 0, "gold")])
    zone.take(USERS)
    bring(history, zone.lake, spark)
    bring(events, zone.lake, spark)
    assert segments(zone) == {"a": ("gold", False), "b": (None, False)}
    assert dead(zone.lake, events.name).total() == 0


def test_the_version_of_code_is_the_same_in_every_process() -> None:
    """Otherwise each process would make all tables anew."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.shop import SHOP\n"
        "from medallion_sample.catalog import catalog_of\n"
        "from medallion_platform.pipeline.refresh.plan import code_version\n"
        "print([code_version(t) for c in (SHOP, catalog_of({})) for t in c.tables])"
    )
    root = str(Path(__file__).resolve().parents[1])
    told = {
        subprocess.run(
            [sys.executable, "-c", program, root],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert len({code_version(t) for t in SHOP.tables}) == len(SHOP.tables)
