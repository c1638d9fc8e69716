"""Failures of runs, as Dagster tells them: of its own, of a user's steps, and of the platform's jobs."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.api import execute_run_iterator
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._daemon.monitoring.run_monitoring import check_run_timeout, monitor_starting_run

from medallion_platform.installation.settings import Settings, WrongSetting
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse_resource import lakehouse_of
from medallion_platform.orchestration.names import INTAKE
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform_tests.corpus.test_delta import DAMAGE, log_of
from medallion_platform_tests.pipeline.toy import CSV, Zone, good
from medallion_platform_tests.test_errors import full

__all__ = ["full"]


@pytest.fixture
def on(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with runs.open_instance(tmp_path / "dagster") as instance:
        yield instance


def job_of(
    body: Callable[[dg.OpExecutionContext], None], **resources: dg.ResourceDefinition
) -> dg.JobDefinition:
    """A job of one step."""

    @dg.op(out=dg.Out(dg.Nothing), required_resource_keys=set(resources))
    def step(context: dg.OpExecutionContext) -> None:
        body(context)

    @dg.job(executor_def=dg.in_process_executor, resource_defs=resources)
    def job() -> None:
        step()

    return job


def nothing(_: dg.OpExecutionContext) -> None: ...


def failed(on: dg.DagsterInstance, run_id: str) -> bool:
    run = on.get_run_by_id(run_id)
    return run is not None and run.status is DagsterRunStatus.FAILURE


# how runs end ---------------------------------------------------------------------------------------


@pytest.mark.failure("resource")
def test_a_run_that_gets_no_worker_in_time(on: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(on), "run_monitoring_start_timeout_seconds", 0)
    run = on.create_run_for_job(job_of(nothing))
    (record,) = on.get_run_records()
    monitor_starting_run(on, record, logging.getLogger())
    assert failed(on, run.run_id)


@pytest.mark.failure("evicted")
def test_a_worker_that_is_restarted(on: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(on), "run_monitoring_enabled", False)
    job = job_of(nothing)
    run = on.create_run_for_job(job, status=DagsterRunStatus.STARTED)
    list(execute_run_iterator(InMemoryJob(job), run, on))
    assert failed(on, run.run_id)


@pytest.mark.failure("evicted")
def test_a_worker_that_is_told_to_end(on: dg.DagsterInstance) -> None:
    def ended(_: dg.OpExecutionContext) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    done = job_of(ended).execute_in_process(instance=on, raise_on_error=False)
    assert failed(on, done.run_id)


@pytest.mark.failure("hung")
def test_a_run_that_works_for_longer_than_it_may(on: dg.DagsterInstance) -> None:
    run = on.create_run_for_job(job_of(nothing))
    on.report_dagster_event(
        DagsterEvent(DagsterEventType.PIPELINE_START.value, run.job_name), run.run_id, logging.INFO
    )
    (record,) = on.get_run_records()
    check_run_timeout(on, record, logging.getLogger(), 1e-9)
    assert failed(on, run.run_id)


@pytest.mark.failure("permanent")
def test_a_resource_that_is_set_wrongly(on: dg.DagsterInstance) -> None:
    @dg.resource
    def wrong(_: dg.InitResourceContext) -> None:
        raise WrongSetting("MEDALLION_X: has to be a number")

    done = job_of(nothing, wrong=wrong).execute_in_process(instance=on, raise_on_error=False)
    assert failed(on, done.run_id)


@pytest.mark.failure("unknown")
def test_a_step_of_the_user_s_own(on: dg.DagsterInstance) -> None:
    def wrong(_: dg.OpExecutionContext) -> None:
        raise ValueError

    done = job_of(wrong).execute_in_process(instance=on, raise_on_error=False)
    assert failed(on, done.run_id)


# what Dagster refuses -------------------------------------------------------------------------------


@dg.op(config_schema={"a": int})
def configured() -> None: ...


@dg.op(out=dg.Out(int))
def mistyped() -> str:
    return "seven"


def one(op: dg.OpDefinition) -> dg.JobDefinition:
    @dg.job
    def job() -> None:
        op()

    return job


REFUSED: dict[str, Callable[[], object]] = {
    "config": lambda: one(configured).execute_in_process(),
    "resource": lambda: dg.Definitions(
        jobs=[job_of(nothing, x=dg.ResourceDefinition.hardcoded_resource(1))]
    ).resolve_job_def("none"),
    "name": lambda: dg.AssetSpec("a b c!", group_name="no group!"),
    "no module": lambda: dg.load_assets_from_package_name("no_such_package"),
}


@pytest.mark.failure("permanent")
@pytest.mark.parametrize("wrong", REFUSED)
def test_a_definition_or_a_launch_that_cannot_be(wrong: str) -> None:
    with pytest.raises(Exception) as caught:
        REFUSED[wrong]()
    assert caught.value


@pytest.mark.failure("data")
def test_a_value_of_another_type() -> None:
    with pytest.raises(dg.DagsterTypeCheckDidNotPass):
        one(mistyped).execute_in_process()


# our jobs -------------------------------------------------------------------------------------------


def intake_fails(on: dg.DagsterInstance, home: Path, lake: str = "") -> None:
    """A run of the job `intake` takes a file in, and fails."""
    settings = Settings(home=home, settle_seconds=0, **({"lake": lake} if lake else {}))
    place, catalog = lakehouse_of(settings, Catalog((CSV,), ())), Catalog((CSV,), ())
    job = build_defs(catalog, place).resolve_job_def(INTAKE)
    assert failed(on, job.execute_in_process(instance=on, raise_on_error=False).run_id)


@pytest.mark.failure("corrupt")
@pytest.mark.parametrize("damage", DAMAGE[:3])
def test_an_intake_of_a_table_with_a_damaged_log(
    on: dg.DagsterInstance, zone: Zone, damage: Callable[[Path], None]
) -> None:
    damage(log_of(zone.lake))
    intake_fails(on, zone.root)


@pytest.mark.failure("disk")
def test_an_intake_into_a_full_disk(on: dg.DagsterInstance, full: Path, tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    zone.csv("events/a.csv", [good(f"k{n}", email=os.urandom(50).hex()) for n in range(5000)])
    intake_fails(on, tmp_path, str(full / "lake"))
