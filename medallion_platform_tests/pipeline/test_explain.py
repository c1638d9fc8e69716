"""What the next run would do, told before it does it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.lake import Lake, Size
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.explain import (
    Action,
    Cause,
    Explanation,
    Why,
    causes,
    explain_plan,
    planned_action,
)
from medallion_platform.pipeline.refresh.plan import Upstreams, plan_refresh
from medallion_platform.pipeline.table import Table
from medallion_platform.queries.plans import plans_of_tables
from medallion_platform_tests.pipeline.shop import EVENTS, bring, event, no_spark
from medallion_platform_tests.pipeline.test_plan import DAYS, declared, made, up
from medallion_platform_tests.pipeline.test_refresh import arrive
from medallion_platform_tests.pipeline.test_refresh import declared as numbers
from medallion_platform_tests.pipeline.toy import Zone


def context(t: Table, last: CommitRecord | None, upstreams: Upstreams, **more: Any) -> RefreshContext:
    return RefreshContext(t, Lake("/nowhere"), no_spark, {}, last, upstreams, **more)


def why(t: Table, last: CommitRecord | None, upstreams: Upstreams, **more: Any) -> list[Cause]:
    return list(causes(context(t, last, upstreams, **more)))


def test_a_table_that_is_up_to_date_reads_nothing() -> None:
    t = declared()
    upstreams = up()
    plan = plan_refresh(t, made(t), upstreams, existing=DAYS)
    assert explain_plan(context(t, made(t), upstreams, plan=plan)) == Explanation("gold.t", Action.NOTHING)
    assert why(t, made(t), upstreams) == []


def test_the_upstream_that_changed_is_named_with_its_versions() -> None:
    t = declared()
    found = why(t, made(t), up({DAYS[0]}))
    assert found == [Cause(Why.UPSTREAM_CHANGED, "silver.up", 0, 5)]
    assert str(found[0]) == "upstream changed: silver.up 0 → 5"


@pytest.mark.parametrize(
    ("incremental", "action"),
    [("replace_partitions", Action.REPLACE_PARTITIONS), ("append", Action.APPEND)],
)
def test_the_action_is_the_plan_s(incremental: str, action: Action) -> None:
    t = declared(incremental)
    assert planned_action(plan_refresh(t, made(t), up({DAYS[0]}), existing=DAYS)) is action
    assert planned_action(plan_refresh(t, None, up())) is Action.REBUILD


def test_a_merge_is_named_as_such() -> None:
    t = declared("merge_by_key", None)
    assert planned_action(plan_refresh(t, made(t), up({UNPARTITIONED}))) is Action.MERGE_BY_KEY


def test_causes_other_than_rows() -> None:
    t = declared()
    old = made(t)
    other = replace(old, position={**old.position, "code": {"*": 1}})
    assert why(t, other, up()) == [Cause(Why.CODE_CHANGED)]
    assert why(t, None, up()) == [Cause(Why.FIRST_TIME)]
    gone = Upstreams({"silver.up": 5}, {"silver.up": None})
    assert why(t, old, gone) == [Cause(Why.LOG_GONE, "silver.up", 0, 5)]
    assert why(t, old, up(), recovering=True) == [Cause(Why.REFRESH_DIED)]
    assert str(Cause(Why.REFRESH_DIED)) == "refresh died"
    stale = replace(old, stale_partitions=DAYS[:1])
    assert why(t, stale, up()) == [Cause(Why.LOOKUP_WAS_STALE)]
    assert str(Cause(Why.LOOKUP_WAS_STALE)) == "lookup was stale"


def test_it_is_what_the_refresh_then_does(tmp_path: Path, spark: SparkSession) -> None:
    zone, t = Zone(tmp_path), numbers()

    def doubled(events: DataFrame) -> DataFrame:
        return t.transform(events).withColumn("amount", t.transform(events)["amount"] * 2)

    follows = replace(
        numbers(), name="gold.numbers", inputs={"events": replace(t.main_upstream, table=t.name)}
    )
    catalog = Catalog((EVENTS,), (t, follows))

    def planned(known: Catalog = catalog) -> list[Explanation]:
        return plans_of_tables(known, zone.lake)

    assert [(p.action, p.causes) for p in planned()] == [
        (Action.WAITS, (Cause(Why.INPUT_MISSING, "bronze.events"),)),
        (Action.WAITS, (Cause(Why.INPUT_MISSING, "silver.numbers"),)),
    ]
    arrive(zone, event("a", 0, amount=1), event("b", 1, amount=2))
    first, _ = planned()
    assert (first.action, first.causes, first.partitions) == (
        Action.REBUILD,
        (Cause(Why.FIRST_TIME),),
        frozenset({"2026-01-05", "2026-01-06"}),
    )
    done = bring(t, zone.lake, spark, catalog)
    assert done.record
    assert first.reads
    assert first.reads.rows == done.record.counts.read == 2
    assert first.reads.bytes > 0

    assert [p.action for p in planned()] == [Action.NOTHING, Action.REBUILD]
    before = zone.lake.version("bronze.events")
    arrive(zone, event("c", 1, amount=3))
    second, behind = planned()
    assert second.action is Action.APPEND
    assert second.causes == (
        Cause(Why.UPSTREAM_CHANGED, "bronze.events", before, zone.lake.version("bronze.events")),
    )
    assert (second.partitions, second.rewrites) == (frozenset({"2026-01-06"}), Size())
    assert behind.causes == (Cause(Why.FIRST_TIME), Cause(Why.FOLLOWS, t.name))
    done = bring(t, zone.lake, spark, catalog)
    assert done.record
    assert second.reads
    assert second.reads.rows == done.record.counts.read == 1

    changed = Catalog((EVENTS,), (replace(t, transform=doubled),))
    (third,) = planned(changed)
    assert (third.action, third.causes) == (Action.REBUILD, (Cause(Why.CODE_CHANGED),))
    assert third.rewrites
    assert (third.rewrites.rows, third.reads and third.reads.rows) == (3, 3)
