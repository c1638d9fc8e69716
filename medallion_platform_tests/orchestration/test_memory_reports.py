"""What a run in a pod of its own says of its memory, by real runs of Dagster; elsewhere it says nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse import memory_uses
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.memory_uses import MEMORY_USES, MemoryUse
from medallion_platform.orchestration import memory_reports, work
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.catch_up import INTAKE
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.location import catalog, lakehouse_of
from medallion_platform.orchestration.memory_reports import (
    ENDED_BY,
    MEMORY_LIMIT,
    WORKING_ON,
    keep_kills,
)
from medallion_platform.orchestration.work import RUN_EXECUTORS, work_on
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.spark import driver, memory
from medallion_platform.spark.kubernetes import DriverPod, KubernetesSpark
from medallion_platform.spark.kubernetes import Executors as ExecutorPods
from medallion_platform_tests.orchestration.one_op import run_one_op

GIB = 1 << 30
TABLE = "bronze.departments"
KILLED = MemoryUse(TABLE, "before", datetime(2026, 11, 30, tzinfo=UTC), "driver", GIB, GIB, "killed")


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod of 4 GiB, but for its control group, which a test cannot make."""
    monkeypatch.setenv(RUN_EXECUTORS, "0")
    monkeypatch.setattr(memory_reports, "memory_limit", lambda: 4 * GIB)


def lakehouse_at(lake: Lake, most: str = "16g") -> Lakehouse:
    return Lakehouse(lake_root=str(lake.root), landing="", feature_repo="", most_memory=most)


def run_with(on: dg.DagsterInstance, place: Lake | Lakehouse, work: Callable[[str], object]) -> dg.DagsterRun:
    """The run of a job that does some work on a table; `work` gets the run's id."""
    lakehouse = place if isinstance(place, Lakehouse) else lakehouse_at(place)

    def body(context: dg.OpExecutionContext) -> None:
        work_on(context, lakehouse, TABLE, lambda: work(context.run.run_id))

    return run_one_op(on, body)


@pytest.mark.usefixtures("pod")
def test_the_table_is_named_before_the_work_begins(on: dg.DagsterInstance, lake: Lake) -> None:
    told: list[str] = []

    def work(run_id: str) -> None:
        found = on.get_run_by_id(run_id)
        assert found
        told.append(found.tags[WORKING_ON])

    run_with(on, lake, work)
    assert told == [TABLE]


@pytest.mark.usefixtures("pod")
def test_nothing_is_kept_of_a_table_that_was_never_killed(on: dg.DagsterInstance, lake: Lake) -> None:
    run_with(on, lake, lambda _: None)
    assert not lake.exists(MEMORY_USES)


@pytest.mark.usefixtures("pod")
def test_what_is_used_is_kept_of_one_that_was(on: dg.DagsterInstance, lake: Lake) -> None:
    memory_uses.append(lake, [KILLED])
    run = run_with(on, lake, lambda _: None)
    _, use = memory_uses.read(lake)
    assert (use.table, use.run_id, use.where, use.limit) == (TABLE, run.run_id, "driver", 4 * GIB)
    assert use.outcome == "fitted"
    assert 0 < use.peak <= use.limit


@pytest.mark.usefixtures("pod")
def test_memory_that_runs_out_without_a_kill_counts_as_one(on: dg.DagsterInstance, lake: Lake) -> None:
    def work(_: str) -> None:
        raise MemoryError

    assert run_with(on, lake, work).status is dg.DagsterRunStatus.FAILURE
    (use,) = memory_uses.read(lake)
    assert (use.outcome, use.limit) == ("killed", 4 * GIB)


@pytest.mark.usefixtures("pod")
def test_a_process_that_was_killed_without_the_run_counts_as_one(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a JVM is with the first version of control groups: all that the run sees is a lost connection."""
    kills = [7]
    monkeypatch.setattr(memory_reports, "memory_kills", lambda: kills[0])

    def work(_: str) -> None:
        kills[0] += 1
        raise ConnectionRefusedError("[Errno 111] Connection refused")

    run = run_with(on, lake, work)
    (use,) = memory_uses.read(lake)
    assert (use.table, use.outcome, use.limit) == (TABLE, "killed", 4 * GIB)
    (failed,) = on.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert failed.dagster_event
    assert (
        f"{TABLE}: a process of its run was killed for its memory with 4 GiB; the next try gets more"
        in str(failed.dagster_event.step_failure_data.error)
    )


@pytest.mark.usefixtures("pod")
def test_another_failure_teaches_nothing(on: dg.DagsterInstance, lake: Lake) -> None:
    memory_uses.append(lake, [KILLED])

    def work(_: str) -> None:
        raise ValueError("a row is wrong")

    assert run_with(on, lake, work).status is dg.DagsterRunStatus.FAILURE
    assert memory_uses.read(lake) == [KILLED]


@pytest.mark.usefixtures("pod")
def test_work_that_is_done_does_not_fail_for_its_report(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(memory_uses, "read", refuse)
    assert run_with(on, lake, lambda _: None).status is dg.DagsterRunStatus.SUCCESS


def test_elsewhere_nothing_is_measured(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RUN_EXECUTORS, raising=False)
    monkeypatch.setattr(memory_reports, "watch_peak", None)
    memory_uses.append(lake, [KILLED])
    run = run_with(on, lake, lambda _: None)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert run.tags[WORKING_ON]
    assert MEMORY_LIMIT not in run.tags
    assert memory_uses.read(lake) == [KILLED]


@pytest.mark.usefixtures("pod")
def test_an_intake_names_its_table_and_keeps_what_it_used(on: dg.DagsterInstance, tmp_path: Path) -> None:
    place = lakehouse_of(Settings(home=tmp_path, settle_seconds=0))
    file = Path(place.landing) / "hr" / "departments" / "a.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1,first\n")
    memory_uses.append(place.lake, [KILLED])
    defs = build_defs(Catalog((catalog.source_of[TABLE],), ()), place)
    done = defs.resolve_job_def(INTAKE).execute_in_process(instance=on)
    found = on.get_run_by_id(done.run_id)
    assert found
    assert found.tags[WORKING_ON] == TABLE
    assert [use.outcome for use in memory_uses.read(place.lake)] == ["killed", "fitted"]


LOST = (
    "Job aborted due to stage failure: Task 0 in stage 1.0 failed 4 times, most recent failure: "
    "Lost task 0.3 in stage 1.0 (TID 7) (10.244.1.7 executor 3): "
    "ExecutorLostFailure (executor 3 exited caused by one of the running tasks) Reason: \n"
    "The executor with id 3 exited with exit code 137(SIGKILL, possible container OOM)."
)


@dataclass
class Executors:
    """Executors of one size, which fail for what needs more."""

    lakehouse: Lakehouse
    needs: int = 0
    had: list[int] = field(default_factory=list[int])

    def work(self, _: str) -> None:
        self.had.append(self.lakehouse.executor_memory)
        if self.had[-1] < self.needs:
            raise RuntimeError(LOST)


@pytest.fixture
def executors(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executors:
    """Executors of 2 GiB, of at most 4; no session is started, and that of other tests is not ended."""
    monkeypatch.setattr(driver, "end_spark", lambda: None)
    monkeypatch.setattr(memory, "executor_heap", lambda: 0)
    pod = DriverPod("run-1a2b", "lake", "10.1.2.3", "medallion-platform", "https://10.96.0.1:443")
    pods = ExecutorPods(2, 4, 2 * GIB, tmp_path / "executor.yaml")
    return Executors(
        lakehouse_at(lake, "4g").on(KubernetesSpark(driver.Driver(jars=()), pod, pods, tmp_path))
    )


@pytest.mark.usefixtures("pod")
def test_executors_that_were_killed_get_the_next_step_within_the_run(
    on: dg.DagsterInstance, lake: Lake, executors: Executors
) -> None:
    executors.needs = int(3.5 * GIB)
    run = run_with(on, executors.lakehouse, executors.work)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert executors.had == [2 * GIB, 3 * GIB, 4 * GIB]
    told = [(use.where, use.outcome, use.limit, use.peak) for use in memory_uses.read(lake)]
    assert told == [
        ("executor", "killed", 2 * GIB, 2 * GIB),
        ("executor", "killed", 3 * GIB, 3 * GIB),
        ("executor", "fitted", 4 * GIB, 4 * GIB),
    ], "a peak that no session tells counts as all there was"


@pytest.mark.usefixtures("pod")
def test_at_the_end_of_the_ladder_a_sentence_says_what_to_do(
    on: dg.DagsterInstance, lake: Lake, executors: Executors
) -> None:
    executors.needs = 5 * GIB
    run = run_with(on, executors.lakehouse, executors.work)
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert [use.where for use in memory_uses.read(lake)] == ["executor"] * 3, (
        "nothing is charged to the driver"
    )
    (failed,) = on.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert failed.dagster_event
    assert (
        f"{TABLE}: its executors were killed for their memory with 4 GiB, the most that they may have; raise "
        "MEDALLION_MOST_MEMORY, or make the table's partitions smaller"
    ) in str(failed.dagster_event.step_failure_data.error)


@pytest.mark.usefixtures("pod")
@pytest.mark.parametrize(("executors", "watched"), [("0", 0), ("2", 1)])
def test_a_wait_for_executors_is_watched_where_there_are_some(
    executors: str, watched: int, on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_EXECUTORS, executors)
    seen: list[object] = []
    monkeypatch.setattr(work, "with_executors", lambda done: seen.append(done) or done())
    assert run_with(on, lake, lambda _: None).status is dg.DagsterRunStatus.SUCCESS
    assert len(seen) == watched


@pytest.mark.usefixtures("pod")
def test_work_without_executors_is_not_done_again(on: dg.DagsterInstance, lake: Lake) -> None:
    done: list[str] = []

    def work(run_id: str) -> None:
        done.append(run_id)
        raise RuntimeError(LOST)

    assert run_with(on, lake, work).status is dg.DagsterRunStatus.FAILURE
    assert len(done) == 1
    assert memory_uses.read(lake) == []


def ended(on: dg.DagsterInstance, tags: dict[str, str], status: dg.DagsterRunStatus) -> dg.DagsterRun:
    @dg.job
    def job() -> None: ...

    return on.create_run_for_job(job, tags=tags, status=status)


def test_a_kill_is_charged_once_to_the_table_that_was_worked_on(on: dg.DagsterInstance, lake: Lake) -> None:
    failed, oom = dg.DagsterRunStatus.FAILURE, {ENDED_BY: "oom"}
    said = {WORKING_ON: TABLE, MEMORY_LIMIT: str(4 * GIB)}
    run = ended(on, said | oom, failed)
    ended(on, said, failed)
    ended(on, said | {ENDED_BY: "evicted"}, failed)
    ended(on, said | oom, dg.DagsterRunStatus.STARTED)
    ended(on, oom, failed)
    now = datetime.now(UTC)
    for _ in range(2):
        keep_kills(on, lake, now)
    assert memory_uses.read(lake) == [MemoryUse(TABLE, run.run_id, now, "driver", 4 * GIB, 4 * GIB, "killed")]


def test_without_a_kill_no_table_is_made(on: dg.DagsterInstance, lake: Lake) -> None:
    keep_kills(on, lake, datetime.now(UTC))
    assert not lake.exists(MEMORY_USES)
