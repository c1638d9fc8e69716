"""What failed runs are evidence of; and how a look remembers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._utils import get_run_crash_explanation

from medallion_platform.errors import ErrorChain, Kind
from medallion_platform.healing.classify import classify
from medallion_platform.healing.decide import Asked, Want
from medallion_platform.healing.incident import Event
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.failed_runs import FailedRun, evidence_of, failed_runs
from medallion_platform.orchestration.failures import TableFailure, report_failure
from medallion_platform.orchestration.healing import Memory, asked_of, decide_and_record, without_untouched
from medallion_platform.orchestration.memory_reports import ENDED_BY, WORKING_ON
from medallion_platform.pipeline.intake.poison import Attempt, Notes
from medallion_platform.sources.arrivals import Range

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
FULL, AWAY = (TableFailure("why", ErrorChain(kind)) for kind in (Kind.DISK, Kind.NETWORK))
ASKED = {
    "bronze.events": Asked(NOON, Want("intake", "s"), "intake 1"),
    "silver.events": Asked(NOON, Want("refresh", "s"), "catch_up 1"),
    "gold.days": Asked(NOON, Want("refresh", "s"), "catch_up 1"),
    "serving.users": Asked(NOON, Want("publish", "s"), "catch_up 1"),
}


def run(key: str = "catch_up 1", **named: object) -> FailedRun:
    return FailedRun("1", key, NOON, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failed", "told"),
    [
        (run(failures={"silver.events": FULL}), {"silver.events": Kind.DISK}),
        (run(failures={"silver.events": FULL}, working_on="gold.days"), {"silver.events": Kind.DISK}),
        (run(working_on="gold.days"), {"gold.days": Kind.UNKNOWN}),
        (
            run(failures={"catch_up": AWAY}),
            dict.fromkeys(("silver.events", "gold.days", "serving.users"), Kind.NETWORK),
        ),
        (run("intake 1"), {"bronze.events": Kind.UNKNOWN}),
        (run(""), {}),
        (run("", failures={"gold.days": FULL}), {"gold.days": Kind.DISK}),
    ],
)
def test_a_failed_run_is_evidence_of_the_tables_that_it_names_or_worked_on_or_was_asked_for(
    failed: FailedRun, told: dict[str, Kind]
) -> None:
    found = evidence_of(failed, asked_of(failed, ASKED))
    assert {e.table: e.chain.said for e in found} == told
    assert len({e.occurrence for e in found}) == len(found)
    works = {"bronze": "intake", "serving": "publish"}
    assert all(e.work == works.get(e.table.partition(".")[0], "refresh") for e in found)


@pytest.mark.parametrize(
    ("failed", "told"),
    [
        (run("", job="maintenance", failures={"silver.events": FULL}), ("maintenance", "silver.events")),
        (run("", job="maintenance", failures={"forget_old_runs": FULL}), ("maintenance", "forget_old_runs")),
        (run("", job="maintenance"), ("maintenance", "maintenance")),
        (run("", job="back_up", failures={"backup": FULL}), ("backup", "backup")),
        (run("", job="back_up", ended_by="oom"), ("backup", "backup")),
        (run("", job="__ASSET_JOB", failures={"backup": FULL}), ("backup", "backup")),
    ],
)
def test_a_failed_run_of_maintenance_or_of_a_backup_fails_no_table(
    failed: FailedRun, told: tuple[str, str]
) -> None:
    (found,) = evidence_of(failed, set())
    assert (found.work, found.table) == told
    assert found.ended_by == failed.ended_by


def test_what_a_run_had_not_begun_when_something_ended_it_has_not_failed() -> None:
    died, failed = run(working_on="gold.days"), run(failures={"gold.days": FULL}, working_on="gold.days")
    assert without_untouched(ASKED, [died]).keys() == {"bronze.events", "gold.days"}
    assert without_untouched(ASKED, [failed]) == ASKED
    assert without_untouched(ASKED, [run()]) == ASKED, "it may have been any of them"


def test_failed_runs_are_read_once_and_without_a_position_the_newest(tmp_path: Path) -> None:
    @dg.op
    def fails() -> None:
        raise OSError

    @dg.job
    def job() -> None:
        fails()

    with runs.open_instance(tmp_path) as on:
        assert failed_runs(on, None) == ([], 0)
        job.execute_in_process(instance=on, raise_on_error=False)
        dead = on.create_run_for_job(
            job, status=dg.DagsterRunStatus.STARTED, tags={WORKING_ON: "gold.days", ENDED_BY: "killed"}
        )
        on.report_run_failed(dead)
        again = on.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        on.add_run_tags(again.run_id, {"dagster/will_retry": "true"})
        on.report_run_failed(again)
        found, position = failed_runs(on, None)
        assert [(run.working_on, run.ended_by) for run in found] == [("", ""), ("gold.days", "killed")]
        assert failed_runs(on, position) == ([], position)
        later = on.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        on.report_run_failed(later)
        (run,), _ = failed_runs(on, position)
        assert run.run_id == later.run_id
        assert run.seconds is None, "it never began"
        assert [run.seconds is not None and run.seconds >= 0 for run in found] == [True, False]


def test_a_process_that_was_ended_is_told_apart_by_what_the_code_server_saw(tmp_path: Path) -> None:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def job() -> None:
        nothing()

    with runs.open_instance(tmp_path) as on:
        for ended in (-9, -11, 1, None):
            dead = on.create_run_for_job(
                job, status=dg.DagsterRunStatus.STARTED, tags={WORKING_ON: "gold.days"}
            )
            if ended is not None:  # as its code server tells it
                on.report_engine_event(get_run_crash_explanation("Run execution process", ended), dead)
            on.report_run_failed(dead)
        found, _ = failed_runs(on, None)
    kinds = [classify(e).kind for run in found for e in evidence_of(run, ())]
    assert kinds == [Kind.EVICTED, Kind.POISON, Kind.UNKNOWN, Kind.UNKNOWN]
    assert [run.exit_code for run in found] == [-9, -11, 1, None]


@pytest.mark.parametrize("table", ["bronze.events", "silver.events"])
def test_runs_that_died_where_an_intake_began_died_over_its_records(tmp_path: Path, table: str) -> None:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def job() -> None:
        nothing()

    lake, memory, kinds = Lake(tmp_path / "lake"), Memory(), list[list[str]]()
    wanted = {table: Want("intake" if table == "bronze.events" else "refresh", "1")}
    with runs.open_instance(tmp_path / "dagster") as on:
        for deaths in range(3):
            Notes(lake, "bronze.events").write(Attempt((Range("events", 0, 0),), deaths))
            dead = on.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={WORKING_ON: table})
            on.report_engine_event(get_run_crash_explanation("Run execution process", -9), dead)
            on.report_run_failed(dead)
            turn = decide_and_record(on, lake, wanted, (), memory, NOON)
            memory = turn.memory
            kinds.append([row.kind for row in turn.decisions.rows if row.event == Event.DETECTED])
    again = ["poison", "poison"] if table == "bronze.events" else ["evicted", "evicted"]
    assert kinds == [["evicted"], *([kind] for kind in again)]


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "3", '{"silver.x": ["state", 1, "now", false]}'])
def test_a_look_that_remembers_nothing_or_an_older_version_s_begins_anew(text: str | None) -> None:
    assert Memory.from_text(text) == Memory()


def test_a_look_remembers_what_the_one_before_it_did() -> None:
    memory = Memory(ASKED, 7, {"gold.days": "it failed"})
    assert Memory.from_text(memory.to_text()) == memory


def test_a_run_that_hit_many_tables_names_some_of_its_incidents(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    wanted = {f"silver.t{n:03}": Want("refresh", "1") for n in range(200)}

    @dg.op
    def fails(context) -> None:  # type: ignore[no-untyped-def]  # its name is no type of this function
        raise report_failure(context, dict.fromkeys(wanted, FULL))

    @dg.job
    def job() -> None:
        fails()

    with runs.open_instance(tmp_path / "dagster") as on:
        done = job.execute_in_process(instance=on, raise_on_error=False)
        turn = decide_and_record(on, lake, wanted, (), Memory(), NOON)
        run = on.get_run_by_id(done.run_id)
    assert len(turn.pages) == len(turn.decisions.held) == 200
    assert run
    assert run.tags["medallion/class"] == "disk"
    for tag in ("medallion/incident", "medallion/next_try"):
        assert run.tags[tag].count(",") == 9
        assert run.tags[tag].endswith(" more")
