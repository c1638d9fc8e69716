"""What the next run would do, told before it does it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.explain import Action, Cause, Explanation, Size, Why, explain
from medallion_platform.pipeline.refresh.plan import Upstreams, plan_refresh
from medallion_platform.pipeline.table import Table
from medallion_platform.queries.plans import plans
from medallion_platform_tests.pipeline.shop import EVENTS, bring, event, no_spark
from medallion_platform_tests.pipeline.test_plan import DAYS, declared, made, up
from medallion_platform_tests.pipeline.test_refresh import arrive
from medallion_platform_tests.pipeline.test_refresh import declared as numbers
from medallion_platform_tests.pipeline.toy import Zone

READ, WRITTEN = Size(7, 700), Size(3, 300)


def told(t: Table, last: Any, upstreams: Upstreams, **more: Any) -> Explanation:
    plan = plan_refresh(t, last, upstreams, existing=DAYS, **more)
    columns = {"silver.up": "day" if t.partition else None}
    context = RefreshContext(t, Lake("/nowhere"), no_spark, columns, last, upstreams, plan=plan)
    return explain(context, frozenset(DAYS[:1]), READ, WRITTEN, asked_for="rebuild" in more)


def test_a_table_that_is_up_to_date_reads_nothing() -> None:
    t = declared()
    assert told(t, made(t), up()) == Explanation("gold.t", Action.NOTHING)


def test_the_upstream_that_changed_is_named_with_its_versions() -> None:
    t = declared()
    found = told(t, made(t), up({DAYS[0]}))
    assert found.action is Action.APPEND
    assert found.causes == (Cause(Why.UPSTREAM_CHANGED, "silver.up", 0, 5),)
    assert (found.partitions, found.reads, found.rewrites) == (frozenset(DAYS[:1]), READ, WRITTEN)
    assert str(found.causes[0]) == "upstream changed: silver.up 0 → 5"


@pytest.mark.parametrize(
    ("incremental", "action"),
    [("replace_partitions", Action.REPLACE_PARTITIONS), ("append", Action.APPEND)],
)
def test_the_action_is_the_plan_s(incremental: str, action: Action) -> None:
    t = declared(incremental)
    assert told(t, made(t), up({DAYS[0]})).action is action


def test_causes_other_than_rows() -> None:
    t = declared()
    old = made(t)
    other = replace(old, position={**old.position, "code": {"*": 1}})
    assert told(t, other, up()).causes == (Cause(Why.CODE_CHANGED),)
    assert told(t, None, up()).causes == (Cause(Why.FIRST_TIME),)
    gone = Upstreams({"silver.up": 5}, {"silver.up": None})
    assert told(t, old, gone).causes == (Cause(Why.LOG_GONE, "silver.up", 0, 5),)
    assert told(t, old, up(), rebuild=True) == Explanation(
        "gold.t", Action.REBUILD, (Cause(Why.ASKED_FOR),), frozenset(DAYS[:1]), READ, WRITTEN
    )


def test_it_is_what_the_refresh_then_does(tmp_path: Path, spark: SparkSession) -> None:
    zone, t = Zone(tmp_path), numbers()

    def doubled(events: DataFrame) -> DataFrame:
        return t.transform(events).withColumn("amount", t.transform(events)["amount"] * 2)

    follows = replace(numbers(), name="gold.numbers", inputs={"events": replace(t.main[1], table=t.name)})
    catalog = Catalog((EVENTS,), (t, follows))

    def planned(known: Catalog = catalog) -> list[Explanation]:
        return plans(known, zone.lake)

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
