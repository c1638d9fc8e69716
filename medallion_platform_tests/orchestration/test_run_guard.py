"""A run writes as long as Dagster says that it goes on, and not a commit longer."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from medallion_platform.lakehouse.guard import NotAllowed
from medallion_platform.orchestration.begin_run import begin_run
from medallion_platform.orchestration.run_guard import RunGuard


def started(on: dg.DagsterInstance) -> dg.DagsterRun:
    run = on.create_run_for_job(dg.JobDefinition(name="some", graph_def=dg.GraphDefinition(name="some")))
    assert RunGuard(on, run.run_id).check() == {}, "a worker may be quicker than the word of it"
    on.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, "some"), run.run_id)
    return run


def test_a_run_writes_until_it_is_ended(on: dg.DagsterInstance) -> None:
    failed, canceled, deleted, other = (started(on) for _ in range(4))
    guards = {run.run_id: RunGuard(on, run.run_id) for run in (failed, canceled, deleted, other)}
    for guard in guards.values():
        assert guard.check() == {}
    on.report_run_failed(failed)
    on.report_run_canceling(canceled)
    assert guards[canceled.run_id].check() == {}, "what it is at may still be finished"
    on.report_run_canceled(canceled)
    on.delete_run(deleted.run_id)
    for run, how in ((failed, "FAILURE"), (canceled, "CANCELED"), (deleted, "deleted")):
        with pytest.raises(NotAllowed) as refused:
            guards[run.run_id].check()
        assert str(refused.value) == f"run {run.run_id[:8]} was ended meanwhile ({how}); nothing was written"
    assert guards[other.run_id].check() == {}


def test_who_cannot_ask_does_not_write(on: dg.DagsterInstance, tmp_path: Path) -> None:
    guard = RunGuard(on, started(on).run_id)
    storage = tmp_path / "dagster" / "history"
    storage.rename(tmp_path / "away")
    with pytest.raises(NotAllowed, match="cannot ask Dagster's storage") as refused:
        guard.check()
    assert str(refused.value).endswith("run it again")
    shutil.rmtree(storage, ignore_errors=True)
    (tmp_path / "away").rename(storage)
    assert guard.check() == {}


def test_each_step_of_a_run_has_such_a_guard(on: dg.DagsterInstance) -> None:
    seen: list[object] = []

    @dg.op
    def step(context: dg.OpExecutionContext) -> None:
        run = begin_run(context)
        seen.append((run.run_id, run.guard.check()))
        on.report_run_failed(context.run)
        with pytest.raises(NotAllowed):
            run.guard.check()
        seen.append("refused")

    @dg.job
    def some() -> None:
        step()

    done = some.execute_in_process(instance=on)
    assert seen == [(done.run_id, {}), "refused"]
