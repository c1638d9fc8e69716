"""What Dagster may try again: by its own deciders, over real runs, whatever a user says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.dagster_run import DagsterRunStatus

from medallion_platform.doctor import local
from medallion_platform.errors import Kind
from medallion_platform.healing.policy import POLICY
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse.guard import NotAllowed
from medallion_platform.orchestration import backups, instance, retries, runs
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.failures import failures_of
from medallion_platform.orchestration.instance import Instance, OtherDagster
from medallion_platform.orchestration.lakehouse_resource import Lakehouse, lakehouse_of
from medallion_platform.orchestration.location import catalog
from medallion_platform.orchestration.names import CATCH_UP, INTAKE, asset_key
from medallion_platform.orchestration.retries import (
    MOST_RETRIES,
    OURS,
    repeat_what_passes,
    retry_tags,
)
from medallion_platform_tests.doctor.looking import look, only

OPEN = f"""
instance_class: {{module: {Instance.__module__}, class: {Instance.__name__}}}
run_retries: {{enabled: true, max_retries: 5}}
run_monitoring: {{enabled: true, max_resume_run_attempts: 3}}
"""
"""A `dagster.yaml` in which everything may be tried again."""
BRONZE, FEATURES = asset_key("bronze.departments"), asset_key("serving.user_features")


@dg.asset(deps=[BRONZE])
def of_the_user() -> None: ...


class Broken:
    """A lakehouse that fails whatever is asked of it, and counts."""

    def __init__(self) -> None:
        self.error: BaseException = OSError(5, "the disk is gone")
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        self.asked += 1
        raise self.error


@pytest.fixture(scope="module")
def broken() -> Broken:
    return Broken()


@pytest.fixture(scope="module")
def defs(tmp_path_factory: pytest.TempPathFactory, broken: Broken) -> dg.Definitions:
    """All that the platform has, over a lakehouse that fails, with an asset and jobs of a user."""
    home = tmp_path_factory.mktemp("home")
    ours = {"over_bronze": BRONZE, "over_silver": asset_key("silver.departments"), "over_features": FEATURES}
    policy = dg.RetryPolicy(max_retries=4)
    jobs = [dg.define_asset_job(name, selection=[key], op_retry_policy=policy) for name, key in ours.items()]
    mixed = dg.define_asset_job("mixed", selection=[BRONZE, of_the_user.key])
    return build_defs(
        catalog,
        lakehouse_of(Settings(home=home, backup=home / "backups"), catalog),
        resources={"lakehouse": dg.ResourceDefinition(lambda _: broken)},
        assets=[of_the_user],
        jobs=[*jobs, mixed],  # type: ignore[list-item]
    )


@pytest.fixture
def on(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text(OPEN)
    with runs.open_instance(tmp_path / "dagster") as found:
        yield found


def submitted(on: dg.DagsterInstance, job: dg.JobDefinition, **options: Any) -> dg.DagsterRun:
    """A run of a job after it was asked for, in whatever way."""
    code = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("medallion_platform.definitions", "defs"))
    run = on.create_run_for_job(
        job,
        remote_job_origin=runs._repository_origin().get_job_origin(job.name),
        job_code_origin=JobPythonOrigin(job.name, code),
        **options,
    )
    workspace: Any = None  # the queue needs none
    on.submit_run(run.run_id, workspace)
    found = on.get_run_by_id(run.run_id)
    assert found and found.status is DagsterRunStatus.QUEUED
    return found


def ended(on: dg.DagsterInstance, run: dg.DagsterRun, why: RunFailureReason | None) -> bool:
    """Whether Dagster begins a run again that failed."""
    on.report_run_failed(run, job_failure_data=JobFailureData(error=None, failure_reason=why))
    found = on.get_run_by_id(run.run_id)
    assert found and found.status is DagsterRunStatus.FAILURE
    tag = found.tags["dagster/will_retry"]
    assert auto_reexecution_should_retry_run(on, found, why) == (tag == "true"), "both who decide agree"
    return tag == "true"


def test_every_op_of_ours_says_so_and_no_other(defs: dg.Definitions) -> None:
    repository = defs.get_repository_def()
    ops = {op for job in repository.get_all_jobs() for op in job.all_node_defs}
    assert len(ops) > len(catalog.names) * 2
    assert {op.name for op in ops if not OURS.items() <= op.tags.items()} == {"of_the_user"}


@pytest.mark.parametrize(
    ("asked_for", "retries"),
    [(None, MOST_RETRIES), ("9", MOST_RETRIES), ("1", 1), ("0", 0), ("-1", 0), ("many", 0)],
)
def test_what_was_lost_is_begun_again_no_more_often_than_allowed(
    on: dg.DagsterInstance, defs: dg.Definitions, asked_for: str | None, retries: int
) -> None:
    job = defs.resolve_job_def("over_bronze")
    tags = {"dagster/max_retries": asked_for} if asked_for else {}
    root = run = submitted(on, job, tags=tags)
    for n in range(retries + 1):
        assert ended(on, run, RunFailureReason.UNKNOWN) == (n < retries)
        again = {"root_run_id": root.run_id, "parent_run_id": run.run_id}
        # A retry inherits the tags of its job and of the run before.
        run = submitted(on, job, tags={**tags, "dagster/root_run_id": root.run_id}, **again)


@pytest.mark.parametrize("said", ["true", None])
def test_a_run_of_ours_whose_step_failed_is_not_begun_again(
    on: dg.DagsterInstance, defs: dg.Definitions, said: str | None
) -> None:
    tags = {"dagster/retry_on_asset_or_op_failure": said} if said else {}
    for name in ("over_silver", INTAKE, CATCH_UP, "maintenance", "back_up"):
        run = submitted(on, defs.resolve_job_def(name), tags=tags)
        assert not ended(on, run, RunFailureReason.STEP_FAILURE)


def test_a_run_with_a_step_of_the_user_is_left_to_dagster(
    on: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    run = submitted(on, defs.resolve_job_def("mixed"), tags={"dagster/max_retries": "9"})
    assert run.tags["dagster/max_retries"] == "9"
    assert ended(on, run, RunFailureReason.STEP_FAILURE)


def test_settings_can_ask_for_fewer_retries() -> None:
    assert retry_tags(None, 1)["dagster/max_retries"] == "1"
    assert retry_tags(None, 0)["dagster/max_retries"] == "0"


def test_no_run_is_resumed_and_asking_for_it_prevents_no_start(on: dg.DagsterInstance) -> None:
    assert on.run_monitoring_settings["max_resume_run_attempts"] == 3
    assert on.run_monitoring_max_resume_run_attempts == 0


def test_another_release_of_dagster_without_what_is_overridden_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "_OVERRIDDEN", ("submit_run", "no_such_method"))
    with pytest.raises(OtherDagster, match=r"has no DagsterInstance.no_such_method.*medallion doctor"):
        runs.open_instance(tmp_path / "dagster").__enter__()


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "the disk is gone"),
        dg.RetryRequested(max_retries=5),
        dg.Failure("try again"),
        KeyError("x"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "name", ["over_bronze", "over_silver", "over_features", INTAKE, CATCH_UP, "maintenance", "back_up"]
)
def test_a_step_of_ours_is_not_tried_again_whatever_it_failed_with(
    name: str, error: Exception, defs: dg.Definitions, broken: Broken
) -> None:
    broken.error, broken.asked = error, 0
    with dg.DagsterInstance.ephemeral() as on:
        done = defs.resolve_job_def(name).execute_in_process(instance=on, raise_on_error=False)
    failed = [event for event in done.all_events if event.is_step_failure]
    assert not [event for event in done.all_events if event.is_step_up_for_retry]
    assert broken.asked == len(failed) > 0
    assert all(failures_of(event.step_failure_data) for event in failed), "each says of which table, and why"


def test_a_step_that_was_interrupted_is_refused_and_says_what_ended_it(
    defs: dg.Definitions, broken: Broken
) -> None:
    """Dagster tries it again in the process that has to go, if a retry policy says so."""
    broken.error, broken.asked = DagsterExecutionInterruptedError(), 0
    with dg.DagsterInstance.ephemeral() as on:
        done = defs.resolve_job_def("over_bronze").execute_in_process(instance=on, raise_on_error=False)
    assert [event for event in done.all_events if event.is_step_up_for_retry], "Dagster wanted to"
    (failed,) = [event for event in done.all_events if event.is_step_failure]
    assert broken.asked == 1
    why = failures_of(failed.step_failure_data)["bronze.departments"].why
    assert "DagsterExecutionInterruptedError" in why
    assert "it is not tried again" in why


def test_a_backup_tries_again_by_itself_and_no_more_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def fail(*_: object) -> None:
        tried.append(1)
        raise OSError(28, "no space left")

    monkeypatch.setattr(backups, "back_up_installation", fail)
    monkeypatch.setattr(backups, "_PAUSE_SECONDS", 0)
    lakehouse = Lakehouse(lake_root=str(tmp_path), landing="", feature_repo="", backup=str(tmp_path / "b"))
    done = dg.materialize([backups.backup_asset()], resources={"lakehouse": lakehouse}, raise_on_error=False)
    assert len(tried) == backups._ATTEMPTS == 4
    (failed,) = [event for event in done.all_events if event.is_step_failure]
    assert failures_of(failed.step_failure_data)["backup"].why == "[Errno 28] no space left"


def test_whoever_names_another_instance_is_told(tmp_path: Path, on: dg.DagsterInstance) -> None:
    settings = Settings(home=tmp_path)
    assert only(local.retries, settings).ok and instance.unlimited_retries(on) == ""
    assert {"module": Instance.__module__, "class": Instance.__name__} == local.INSTANCE
    file = settings.dagster_home / "dagster.yaml"
    file.write_text("telemetry: {enabled: false}\n")
    found = only(local.retries, settings)
    assert found.ok is False and "names no instance_class" in found.found
    assert found.remedy == f"say instance_class: {{module: {Instance.__module__}, class: Instance}}"
    with runs.open_instance(settings.dagster_home) as other:
        assert "does not name" in instance.unlimited_retries(other)
    file.write_text("instance_class: {module: dagster, class: DagsterInstance}\n")
    assert "names another instance_class" in only(local.retries, settings).found
    file.unlink()
    assert look(local.retries, settings) == []


@pytest.mark.parametrize(
    ("errors", "calls"),
    [
        ([], 1),
        ([ConnectionResetError()] * 2, 3),
        ([ConnectionResetError()] * 9, 6),
        ([TypeError()], 1),
        ([ConnectionResetError(), TypeError(), ConnectionResetError()], 2),
        ([NotAllowed("the run was ended")], 1),
    ],
)
def test_what_passes_in_a_moment_is_repeated_within_the_attempt(
    errors: list[Exception], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", slept.append)
    left, called = list(errors), 0

    def work() -> str:
        nonlocal called
        called += 1
        if left:
            raise left.pop(0)
        return "done"

    told: list[str] = []
    if calls > len(errors):
        assert repeat_what_passes(work, told.append) == "done"
    else:
        with pytest.raises(type(errors[calls - 1])):
            repeat_what_passes(work, told.append)
    assert called == calls
    assert len(told) == len(slept) == calls - 1
    for pause, longest in zip(slept, POLICY[Kind.NETWORK].in_process, strict=False):
        assert longest / 2 <= pause <= longest
