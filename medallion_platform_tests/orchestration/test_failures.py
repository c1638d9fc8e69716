"""What a failed run tells programs: the evidence of each table in its step, and the class in a tag."""

import errno
import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.plan.objects import ErrorSource, StepFailureData, UserFailureData

from medallion_platform.errors import ErrorChain, Kind, MedallionError, chain_of
from medallion_platform.orchestration.failures import (
    CLASS,
    TableFailure,
    failures_of,
    report_failure,
)
from medallion_platform.orchestration.retries import only_attempt
from medallion_platform_tests.test_error_chain import SECRETS


@pytest.fixture
def on() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run_of(on: dg.DagsterInstance, *bodies: Callable[[dg.OpExecutionContext], None]) -> dg.DagsterRun:
    """A run whose steps are these, and which failed."""

    def op(name: str, body: Callable[[dg.OpExecutionContext], None]) -> dg.OpDefinition:
        @dg.op(name=name, out=dg.Out(dg.Nothing), retry_policy=dg.RetryPolicy(max_retries=3))
        def step(context: dg.OpExecutionContext) -> None:
            body(context)

        return step

    ops = [op(f"step_{number}", body) for number, body in enumerate(bodies)]

    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        for step in ops:
            step()

    run = on.get_run_by_id(job.execute_in_process(instance=on, raise_on_error=False).run_id)
    assert run and run.status is dg.DagsterRunStatus.FAILURE
    return run


def steps_of(on: dg.DagsterInstance, run: dg.DagsterRun) -> list[StepFailureData]:
    events = [entry.dagster_event for entry in on.all_logs(run.run_id)]
    return [event.step_failure_data for event in events if event and event.is_step_failure]


def full(context: dg.OpExecutionContext) -> None:
    with only_attempt(context, "silver.events"):
        raise OSError(errno.ENOSPC, SECRETS[0])


def refused(context: dg.OpExecutionContext) -> None:
    raise report_failure(
        context,
        {
            "gold.days": TableFailure.of("gold.days", MedallionError(SECRETS[1], kind=Kind.AUTH)),
            "gold.weeks": TableFailure.of("gold.weeks", ValueError(SECRETS[2])),
        },
    )


def test_what_a_step_tells_of_a_table_is_read_as_it_was_met(on: dg.DagsterInstance) -> None:
    run = run_of(on, full)
    (step,) = steps_of(on, run)
    error = OSError(errno.ENOSPC, SECRETS[0])
    assert failures_of(step) == {"silver.events": TableFailure(str(error), chain_of(error))}
    assert failures_of(step)["silver.events"].kind is Kind.DISK
    assert run.tags[CLASS] == "disk"


def test_a_step_is_not_tried_again_within_its_run(on: dg.DagsterInstance) -> None:
    run = run_of(on, full)
    assert "STEP_RESTARTED" not in {
        e.dagster_event.event_type_value for e in on.all_logs(run.run_id) if e.dagster_event
    }


def test_a_run_says_each_class_that_its_tables_failed_by(on: dg.DagsterInstance) -> None:
    assert run_of(on, full, refused).tags[CLASS] == "auth, disk, unknown"


def test_the_evidence_holds_nothing_that_was_written_for_people(on: dg.DagsterInstance) -> None:
    told = [
        json.dumps(found.chain.as_dict())
        for step in steps_of(on, run_of(on, full, refused))
        for found in failures_of(step).values()
    ]
    assert len(told) == 3
    assert not [secret for secret in SECRETS if secret in "".join(told)]


def of_step(metadata: dict[str, Any] | None) -> StepFailureData:
    told = {
        n: v if isinstance(v, dg.MetadataValue) else dg.MetadataValue.text(v)
        for n, v in (metadata or {}).items()
    }
    user = None if metadata is None else UserFailureData("failed", description=None, metadata=told)
    return StepFailureData(None, user, ErrorSource.USER_CODE_ERROR)


def test_a_run_of_a_former_version_tells_its_classes() -> None:
    step = of_step({"silver.a": "no room", "kinds": dg.MetadataValue.json({"silver.a": "disk"})})
    assert failures_of(step) == {"silver.a": TableFailure("no room", ErrorChain(Kind.DISK))}


def test_a_run_of_a_later_version_tells_what_can_be_read() -> None:
    chains = {"silver.a": {"said": "a new class", "new": 1}}
    step = of_step({"silver.a": "x", "silver.b": "y", "evidence": dg.MetadataValue.json(chains)})
    assert failures_of(step) == {"silver.a": TableFailure("x"), "silver.b": TableFailure("y")}


@pytest.mark.parametrize("metadata", [None, {}, {"path": "of an op of the user's own"}])
def test_another_failure_names_no_tables(metadata: dict[str, Any] | None) -> None:
    assert failures_of(of_step(metadata)) == {}


def test_a_run_that_cannot_be_tagged_fails_by_what_it_failed_by(
    on: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(on, "add_run_tags", gone)
    run = run_of(on, full)
    assert [f.kind for step in steps_of(on, run) for f in failures_of(step).values()] == [Kind.DISK]
    assert CLASS not in run.tags
