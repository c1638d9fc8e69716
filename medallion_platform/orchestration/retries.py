"""Who tries again what failed: the platform, and Dagster only what it is allowed here.

Dagster has three ways of its own: a step again within its run (`RetryPolicy`, `RetryRequested`), a failed run
again as another run (`run_retries` and tags of the run), and a run again in its own name
(`max_resume_run_attempts`). With its own counters each of them would multiply those of the others, and those
of the sensor. So a step of the platform is attempted once in a run, a run of the platform's steps alone has
the tags that are decided here, and no run is resumed (`instance.py`). Within its attempt a step repeats what
passes in a moment, as `healing/policy.py` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from itertools import count
from random import SystemRandom
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from dagster._core.storage.tags import MAX_RETRIES_TAG, RETRY_ON_ASSET_OR_OP_FAILURE_TAG

from medallion_platform.errors import classify
from medallion_platform.healing.policy import POLICY, with_jitter
from medallion_platform.orchestration.failures import Context, TableFailure, is_reported, report_failure
from medallion_platform.orchestration.heartbeats import with_heartbeats

if TYPE_CHECKING:
    from dagster._core.snap import ExecutionPlanSnapshot

T = TypeVar("T")

MOST_RETRIES = 3
"""How many runs Dagster may begin to replace one that something outside of it ended: its process, its pod or
its node was lost. A run whose step failed is never begun again by Dagster."""
NEVER_AGAIN: Mapping[str, str] = {MAX_RETRIES_TAG: "0"}
"""The tag of a run that is asked for again elsewhere: by the sensor, or by whoever typed its command."""
OURS: Mapping[str, str] = {"medallion/retries": "platform"}
"""The tag of each op of the platform's, by which a process that has no code of the project knows it."""


def are_ours(plan: ExecutionPlanSnapshot) -> bool:
    """Whether all steps that a plan executes are the platform's. Pure."""
    ours = {step.key for step in plan.steps if OURS.items() <= (step.tags or {}).items()}
    return ours.issuperset(plan.step_keys_to_execute)


def has_only_our_steps(on: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether all steps that a run executes are the platform's; not if nobody planned any."""
    plan = run.execution_plan_snapshot_id
    return plan is not None and are_ours(on.get_execution_plan_snapshot(plan))


def retry_tags(asked_for: str | None, setting: int) -> dict[str, str]:
    """The tags of a run of the platform's steps by which Dagster decides whether it begins it again. Pure.

    asked_for: the run's tag `dagster/max_retries`, set by a user, a job or the sensor. setting: what counts
    without one, by `dagster.yaml`. Fewer retries than `MOST_RETRIES` can be asked for, no more.
    """
    try:
        wanted = setting if asked_for is None else int(asked_for)
    except ValueError:  # with which Dagster retries nothing
        wanted = 0
    return {MAX_RETRIES_TAG: str(min(wanted, MOST_RETRIES)), RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "false"}


def repeat_what_passes(work: Callable[[], T], log: Callable[[str], None]) -> T:
    """The result of `work`, repeated within this run while its class says that it passes in a moment.

    work: does nothing more where it has been done; so no reports belong to it. log: is told of each pause.
    """
    chance = SystemRandom()
    for number in count():
        try:
            return work()
        except Exception as error:
            pauses = POLICY[classify(error).kind].in_process
            if number >= len(pauses):
                raise
            pause = with_jitter(pauses[number], chance)
            log(f"{error}; it is repeated in {pause:.0f} s")
            time.sleep(pause)
    raise AssertionError("it ends by itself")


@contextmanager
def only_attempt(context: Context, name: str) -> Generator[None]:
    """The body of a step, which Dagster does not try again, whoever's retry policy it has, and which says
    when it works.

    name: the table that it works on; of a step that works on none, its own.

    Raises:
        dagster.Failure: it failed, with the sentence and the evidence of the error; or it is tried again.
    """
    if context.retry_number > 0:
        raise report_failure(context, {name: TableFailure(_refusal(context))})
    try:
        with with_heartbeats(context):
            yield
    except Exception as error:
        if is_reported(error):
            raise
        raise report_failure(context, {name: TableFailure.of(name, error)}) from error


def _refusal(context: Context) -> str:
    """Why a second attempt does nothing, with what ended the first one: it could not tell it itself."""
    step = context.get_step_execution_context().step.key
    entries = context.instance.all_logs(context.run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
    events = [entry.dagster_event for entry in entries if entry.dagster_event and entry.step_key == step]
    error = events[-1].step_retry_data.error if events else None
    first = (error.cause or error).message.strip() if error else "its process was lost"
    return f"the first attempt of this run was ended ({first}); within a run it is not tried again"
