"""The report of an incident, by real runs of Dagster; without Spark."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyspark.sql.functions as F
import pytest
from pyspark.sql import SparkSession

from medallion_platform.errors import Kind
from medallion_platform.healing.evidence import Evidence
from medallion_platform.healing.incident import Incident
from medallion_platform.lakehouse import memory_uses
from medallion_platform.lakehouse.memory_uses import MemoryUse
from medallion_platform.orchestration import memory_reports
from medallion_platform.orchestration.incident_report import LINES, report_incident
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.made_with import MADE_WITH, made_with
from medallion_platform.orchestration.retries import only_attempt
from medallion_platform.orchestration.work import RUN_EXECUTORS, work_on
from medallion_platform_tests.lakehouse.small_lake import SmallLake
from medallion_platform_tests.orchestration.one_op import run_one_op

TABLE, GIB = "silver.orders", 1 << 30


@pytest.fixture
def small(tmp_path: Path) -> SmallLake:
    return SmallLake(str(tmp_path / "lake"))


def fail() -> None:
    raise ValueError("jane.roe@example.com is no number, nor is +49 170 5550123")


def failed_run(
    on: dg.DagsterInstance, small: SmallLake, memory: str = "2g", work: Callable[[], None] = fail
) -> dg.DagsterRun:
    """A run that tells of another table, too, and fails at the work on the table."""
    lakehouse = Lakehouse(lake_root=str(small.lake.root), landing="", feature_repo="", spark_memory=memory)

    def body(context: dg.OpExecutionContext) -> None:
        with only_attempt(context, TABLE):
            for number in range(2 * LINES):
                context.log.info(f"gold.days: {number}")
                context.log.info(f"{TABLE}: {number}")
            work_on(context, lakehouse, TABLE, work)

    return run_one_op(on, body)


def incident_of(run_id: str) -> Incident:
    now = datetime.now(UTC)
    evidence = Evidence(f"run/{run_id}/{TABLE}", now, "refresh", TABLE, run_id)
    return Incident("abc-1", TABLE, "abc", Kind.OOM, now, now, evidence=(evidence,))


def test_the_last_lines_are_about_the_table_or_the_run_and_show_nobody_s_data(
    on: dg.DagsterInstance, small: SmallLake
) -> None:
    run = failed_run(on, small)
    log = report_incident(small.lake, on, incident_of(run.run_id)).log
    assert len(log) == LINES
    assert not any("gold.days" in line for line in log)
    assert any(f"{TABLE}: {2 * LINES - 1}" in line for line in log)
    told = "\n".join(log)
    assert "is no number" in told, "why it failed"
    assert "jane.roe" not in told and "5550123" not in told


def test_what_the_run_of_the_last_write_worked_with_is_compared(
    on: dg.DagsterInstance, small: SmallLake
) -> None:
    good, bad = failed_run(on, small, "2g"), failed_run(on, small, "3g")
    small.take_in()
    small.refresh(TABLE, "bronze.orders", good.run_id)
    on.add_run_tags(good.run_id, {MADE_WITH: json.dumps({**made_with(good), "pyspark": "4.1.0"})})
    report = report_incident(small.lake, on, incident_of(bad.run_id))
    assert [(c.of, c.before, c.now) for c in report.changes] == [
        ("MEDALLION_SPARK_MEMORY", "2g", "3g"),
        ("pyspark", "4.1.0", made_with(bad)["pyspark"]),
    ]
    assert report.last_write and report.last_write.run_id == good.run_id
    on.delete_run(good.run_id)
    assert report_incident(small.lake, on, incident_of(bad.run_id)).changes == (), "it is forgotten"


def test_the_memory_of_the_run_for_the_table_is_told(
    on: dg.DagsterInstance, small: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_EXECUTORS, "0")
    monkeypatch.setattr(memory_reports, "memory_limit", lambda: 4 * GIB)
    run = failed_run(on, small)
    incident = incident_of(run.run_id)
    assert report_incident(small.lake, on, incident).figures == {
        "driver_memory_limit_bytes": 4 * GIB,
        "most_memory_bytes": 16 * GIB,
    }
    use = MemoryUse(TABLE, run.run_id, datetime.now(UTC), "executor", 2 * GIB, GIB, "killed")
    others = [replace(use, table="gold.days", limit=1), replace(use, run_id="another", limit=1)]
    memory_uses.append(small.lake, [use, *others])
    assert report_incident(small.lake, on, incident).figures == {
        "driver_memory_limit_bytes": 4 * GIB,
        "most_memory_bytes": 16 * GIB,
        "executor_memory_limit_bytes": 2 * GIB,
        "executor_memory_peak_bytes": GIB,
    }


def test_the_stage_of_spark_at_which_it_failed_is_told(
    on: dg.DagsterInstance, small: SmallLake, spark: SparkSession
) -> None:
    def work() -> None:
        spark.range(0, 100, 1, 3).select(F.raise_error(F.lit("jane"))).write.format("noop").mode(
            "overwrite"
        ).save()

    incident = incident_of(failed_run(on, small, work=work).run_id)
    report = report_incident(small.lake, on, incident)
    assert report.operators == ("Range", "Project")
    assert report.figures["stage_tasks"] == 3
    other = replace(incident, table="gold.days")
    assert report_incident(small.lake, on, other).operators == ()
    own = report_incident(small.lake, on, incident_of(failed_run(on, small).run_id))
    assert own.operators == (), "that run failed at no stage"


def test_of_a_damaged_log_and_a_forgotten_run_only_the_advice_is_left(
    on: dg.DagsterInstance, small: SmallLake
) -> None:
    small.round()
    for commit in (Path(small.lake.path(TABLE)) / "_delta_log").glob("*.json"):
        commit.write_text("damaged")
    report = report_incident(SmallLake(str(small.lake.root)).lake, on, incident_of("forgotten"))
    assert (report.last_write, report.changes, report.figures, report.log) == (None, (), {}, ())
    assert [about for about, _ in report.lines()] == ["do"]
