"""A Dagster run of the small shop that stops itself at a named step: `paused_run.py ROOT STEP [TABLE]`.

Nothing tells a process that it was stopped (SIGSTOP): it goes on in the middle of a line, at any time later.
With the variable `PAUSE` it waits there for a server that never answers (`wait`), or lets Spark compute for
many seconds before it goes on (`compute`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

REPOSITORY = Path(__file__).resolve().parents[2]

if TYPE_CHECKING:
    from medallion_platform.orchestration.runs import Outcome
    from medallion_platform_tests.pipeline.toy import Zone

PAUSE = "PAUSE"
WAITS = "it is at the step"
COMPUTES = 40.0
"""Seconds for which Spark computes."""
INTAKE_STEPS = ("files that landed", "triage", "dead letters", "rows and positions", "their files")
REFRESH_STEPS = ("staging", "moving what was staged", "dead letters", "rows and positions")


def bring_up(zone: Zone, *tables: str) -> Outcome:
    """Do what a Dagster run does with the small shop in this zone, in this process."""
    from medallion_platform.orchestration import runs
    from medallion_platform.orchestration.build import build_defs
    from medallion_platform.orchestration.lakehouse_resource import Lakehouse
    from medallion_platform_tests.faults.shop_driver import small_shop

    shop = small_shop()
    lakehouse = Lakehouse(
        lake_root=str(zone.lake.root),
        landing=str(zone.landing),
        feature_repo=str(zone.root / "features"),
        settle_seconds=0,
        spark_memory="1g",
        spark_cores=2,
    )
    with runs.open_instance(zone.root / "dagster") as on:
        return runs.run_everything(lambda: build_defs(shop, lakehouse), shop, lakehouse, on, tables)


def _pause_at(step: str, *, intake: bool) -> None:
    """Put the stop before the first call of a step."""
    from medallion_platform.lakehouse import dead_letters, file_registry, spark_tables
    from medallion_platform.pipeline.intake import polars_engine
    from medallion_platform.pipeline.refresh import commit

    of_intake: tuple[tuple[Any, str], ...] = (
        (file_registry, "register_file_versions"),
        (polars_engine, "triage"),
        (dead_letters, "append"),
        (polars_engine.polars_writer, "append_rows"),
        (polars_engine.polars_writer, "write_partition_file"),
    )
    of_refresh: tuple[tuple[Any, str], ...] = (
        (spark_tables, "stage"),
        (spark_tables, "move_staged_files"),
        (commit, "_commit_dead_letters"),
        (commit, "commit_files"),
    )
    steps, places = (INTAKE_STEPS, of_intake) if intake else (REFRESH_STEPS, of_refresh)
    module, name = places[steps.index(step)]
    setattr(module, name, _pausing(getattr(module, name)))


def _pausing(step: Callable[..., Any]) -> Callable[..., Any]:
    waits = [True]

    def paused(*arguments: Any, **named: Any) -> Any:
        if waits:
            waits.clear()
            {"stop": _stop, "wait": _wait_for_ever, "compute": _compute}[os.environ.get(PAUSE, "stop")]()
        return step(*arguments, **named)

    return paused


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _wait_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(WAITS, flush=True)
        socket.create_connection(server.getsockname()).recv(1)


def _compute() -> None:
    from pyspark.sql import SparkSession

    spark, until = SparkSession.getActiveSession(), time.monotonic() + COMPUTES
    assert spark
    print(WAITS, flush=True)
    while time.monotonic() < until:
        spark.range(30_000_000).selectExpr("sum(hash(id))").collect()


def main(root: str, step: str, *tables: str) -> None:
    """Bring the shop up, and stop on the way."""
    from medallion_platform_tests.pipeline.toy import Zone

    _pause_at(step, intake=bool(tables))
    for table, failed in bring_up(Zone(Path(root)), *tables).failed.items():
        print(f"{table}: {failed.why}")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main(*sys.argv[1:])
