"""Work on a table: what a run says of it, so that whoever finds the run dead knows at what it died.

Where the run has a pod of its own, it also says what it used. Elsewhere (a command, a daemon's local run, a
test) no limit of memory belongs to the run, and its process was there before it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import dagster as dg

from medallion_platform.installation.cluster_spark import RUN_EXECUTORS
from medallion_platform.orchestration.interruptions import with_word_of_the_end
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.launch_phases import with_launch_report
from medallion_platform.orchestration.memory_reports import (
    report_working_on,
    with_enough_memory,
    with_memory_reports,
)
from medallion_platform.orchestration.stage_reports import with_stage_report
from medallion_platform.spark.executor_wait import with_executors

T = TypeVar("T")

RUN_SPARK = "MEDALLION_RUN_SPARK"
"""The variable that tells a run's pod that the run needs Spark."""


def work_on(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    lakehouse: Lakehouse,
    table: str,
    work: Callable[[], T],
) -> T:
    """The result of `work` on a table.

    Raises:
        NoExecutors: it waited in vain for executors.
        NotEnoughMemory: its executors were killed with as much memory as the settings allow.
    """
    work = partial(with_stage_report, context, table, work)
    if RUN_EXECUTORS not in os.environ:
        report_working_on(context, lakehouse, table, limit=None)
        return work()
    attended = work if os.environ[RUN_EXECUTORS] == "0" else partial(with_executors, work)
    enough = partial(with_enough_memory, context, lakehouse, table, attended)
    told = partial(with_launch_report, context, enough)
    ending = partial(with_word_of_the_end, context, told)
    return with_memory_reports(context, lakehouse, table, ending)
