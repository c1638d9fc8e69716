"""A step of a Dagster run as the pipeline sees it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg

from medallion_platform.orchestration.run_guard import RunGuard
from medallion_platform.pipeline.observer import Observer
from medallion_platform.pipeline.run import Run


def begin_run(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, observer: Observer | None = None
) -> Run:
    """The run that a step works in, from now on; once Dagster ended it, it commits nothing.

    observer: is called for each event of the work.
    """
    run_id = context.run.run_id
    run = Run(run_id, datetime.now(UTC), guard=RunGuard(context.instance, run_id))
    return replace(run, observer=observer) if observer else run
