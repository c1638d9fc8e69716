"""What a run says of its memory: which table it works on, before it begins, and what it used, afterwards.

A pod that is killed cannot tell for what, but the tag of its run can. A run outlives its executors: where
these are killed, it gives the next ones more by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import dagster as dg

from medallion_platform.container import memory_kills, memory_limit, memory_used, watch_peak
from medallion_platform.errors import EXECUTOR_KILLED, Kind, MedallionError, classify
from medallion_platform.installation.settings import bytes_of_memory
from medallion_platform.kubernetes.shape import gibibytes
from medallion_platform.lakehouse import memory_uses
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.memory_uses import MemoryUse
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.made_with import made_with_tag
from medallion_platform.pipeline.memory import next_step, smallest_limit
from medallion_platform.spark.memory import heap

T = TypeVar("T")

Context = dg.OpExecutionContext | dg.AssetExecutionContext

WORKING_ON = "medallion/working_on"
"""The tag of a run that names the table it works on now, or worked on when it ended."""
MEMORY_LIMIT = ".dagster/medallion_memory_limit"
"""Its tag with the bytes that its pod may use, for programs; the UI hides tags with this beginning."""
ENDED_BY = "medallion/ended_by"
"""The tag by which the launcher says what ended the pod of a run, a word of `kubernetes/pod_end.py`."""
_LOOK_BACK = timedelta(hours=1)


class Killed(MedallionError):
    """The system killed a process of a run's pod for its memory, as its JVM; the run itself goes on."""

    kind = Kind.OOM
    remedy = "the next try gets more, up to MEDALLION_MOST_MEMORY"


class NotEnoughMemory(MedallionError):
    """Work needs more memory than an installation allows."""

    kind = Kind.OOM
    remedy = "raise MEDALLION_MOST_MEMORY, or make the table's partitions smaller"


def with_memory_reports(context: Context, lakehouse: Lakehouse, table: str, work: Callable[[], T]) -> T:
    """The result of `work` on a table; it is said before, and afterwards what it used of the pod's limit.

    Raises:
        Killed: not enough for one of the pod's processes.
    """
    limit, kills = memory_limit(), memory_kills()
    report_working_on(context, lakehouse, table, limit)
    if limit is None:
        return work()
    lake, run_id = lakehouse.lake, context.run.run_id
    try:
        with watch_peak(lambda: smallest_limit(memory_used(), heap(), limit)) as peak:
            done = work()
    except Exception as error:
        failure, killed = classify(error), memory_kills() > kills
        # Java or Python ran out of it before the system took the pod.
        if killed or (failure.kind is Kind.OOM and failure.code != EXECUTOR_KILLED):
            now = datetime.now(UTC)
            _keep(context.log, lake, MemoryUse(table, run_id, now, "driver", limit, limit, "killed"))
        if killed:
            text = f"{table}: a process of its run was killed for its memory with {gibibytes(limit)}"
            raise Killed(text, table=table) from error
        raise
    use = MemoryUse(table, run_id, datetime.now(UTC), "driver", limit, peak(), "fitted")
    _keep(context.log, lake, use)
    return done


def with_enough_memory(context: Context, lakehouse: Lakehouse, table: str, work: Callable[[], T]) -> T:
    """The result of `work` on a table; where its executors are killed for their memory, it is done again with
    a new session, whose executors have the next step.

    Raises:
        NotEnoughMemory: they were killed with as much as the settings allow.
    """
    run_id, lake = context.run.run_id, lakehouse.lake
    while True:
        try:
            done = work()
        except Exception as error:
            had = lakehouse.executor_memory
            if not had or classify(error).code != EXECUTOR_KILLED:
                raise
            now = datetime.now(UTC)
            _keep(context.log, lake, MemoryUse(table, run_id, now, "executor", had, had, "killed"))
            more = next_step(had, bytes_of_memory(lakehouse.most_memory))
            if more is None:
                raise NotEnoughMemory(
                    f"{table}: its executors were killed for their memory with {gibibytes(had)}, the most "
                    "that they may have",
                    table=table,
                ) from error
            context.log.warning(
                f"{table}: an executor was killed for its memory with {gibibytes(had)}; it is done again "
                f"with {gibibytes(more)}"
            )
            lakehouse.resize_executors(more)
        else:
            if had := lakehouse.executor_memory:
                now, peak = datetime.now(UTC), min(lakehouse.executor_peak or had, had)
                _keep(context.log, lake, MemoryUse(table, run_id, now, "executor", had, peak, "fitted"))
            return done


def report_working_on(context: Context, lakehouse: Lakehouse, table: str, limit: int | None) -> None:
    """Say by tags of the run which table it works on from now on, with what, and with how much memory."""
    tags = {WORKING_ON: table, **made_with_tag(lakehouse)}
    context.instance.add_run_tags(context.run.run_id, tags | ({MEMORY_LIMIT: str(limit)} if limit else {}))


def keep_kills(on: dg.DagsterInstance, lake: Lake, now: datetime) -> None:
    """Charge the kill of each run that lately ended so to the table that it worked on, once."""
    ended = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags={ENDED_BY: Kind.OOM},
        updated_after=now - _LOOK_BACK,
    )
    if runs := on.get_runs(ended):
        known = {use.run_id for use in memory_uses.read(lake)}
        uses = [_kill_of(run, now) for run in runs if run.run_id not in known]
        memory_uses.append(lake, [use for use in uses if use])


def _kill_of(run: dg.DagsterRun, now: datetime) -> MemoryUse | None:
    """What a killed run teaches, by its tags; nothing if it was killed before it worked on a table."""
    table, limit = run.tags.get(WORKING_ON, ""), run.tags.get(MEMORY_LIMIT, "")
    if not table or not limit.isdigit():
        return None
    return MemoryUse(table, run.run_id, now, "driver", int(limit), int(limit), "killed")


def _keep(log: dg.DagsterLogManager, lake: Lake, use: MemoryUse) -> None:
    """Keep what work used, if it decides anything: only of a table that was killed before, or is now.

    The work has ended: if this fails, only a row is missing.
    """
    try:
        known = {(found.table, found.where) for found in memory_uses.read(lake)}
        if use.outcome == "killed" or (use.table, use.where) in known:
            memory_uses.append(lake, [use])
    except Exception as error:
        log.warning(f"{use.table}: how much memory it used is not kept: {error}")
