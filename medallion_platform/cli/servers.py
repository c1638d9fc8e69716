"""Commands that run until they are stopped: the Dagster UI, a worker that reads topics."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import NOT_READY, USAGE, Stop
from medallion_platform.cli.shared_options import (
    Home,
    export_settings,
    quiet_libraries,
    settings_of,
    writable_lake,
)

if TYPE_CHECKING:
    from types import ModuleType

    from medallion_platform.kubernetes.scaling import Bounds
    from medallion_platform.observability.server import Observable

app = typer.Typer()

MetricsHost = Annotated[str, typer.Option(help="Address of /metrics, /health and /ready.")]
MetricsPort = Annotated[int, typer.Option(help="Their port; 0 for any free port.", min=0, max=65535)]

_QUIET = ("--log-level", "warning")
"""Dagster tells two lines of each look of a sensor, every few seconds; its UI has them too."""


@app.command()
def dev(
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address that the UI listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the UI.", min=1, max=65535)] = 3000,
) -> None:
    """Start the Dagster UI and daemon on this machine."""
    import socket

    from medallion_platform.extras import require_extra
    from medallion_platform.orchestration import instance, runs

    require_extra("ui", "`medallion dev`")
    settings = settings_of(home)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise Stop(
                f"port {port} on {host} is in use: choose another one with --port", NOT_READY
            ) from None
    writable_lake(settings)
    with runs.open_instance(settings.dagster_home) as on:
        if told := instance.unlimited_retries(on):
            terminal.print_note(told)
    export_settings(settings)
    # Dagster recommends `dg dev`, which needs another project layout; this command still works.
    quiet = "ignore:Function `dev_command` is superseded:FutureWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), quiet]))
    terminal.print_note(f"Files that land in {settings.landing} are taken in automatically.")
    terminal.print_note(f"Dagster starts at http://{host}:{port} (Ctrl-C stops it)")
    command = ["dagster", "dev", "-w", str(runs.write_workspace(settings.dagster_home)), "-h", host]
    os.execv(  # noqa: S606
        str(Path(sys.executable).with_name("dagster")), [*command, "-p", str(port), *_QUIET]
    )


@app.command()
def stream(
    source: Annotated[str, typer.Argument(help="Name of a source with topics.")],
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Also keep the silver tables made from it up to date.")
    ] = False,
    home: Home = None,
    host: MetricsHost = "127.0.0.1",
    port: MetricsPort = 9108,
) -> None:
    """Take in messages continuously, until Ctrl-C or SIGTERM; several workers share the partitions."""
    from medallion_platform.errors import MedallionError
    from medallion_platform.lakehouse.backup_place import BackupPlace
    from medallion_platform.observability.worker import WorkerMetrics
    from medallion_platform.orchestration import leader_guard, runs, stream_reports
    from medallion_platform.orchestration.location import catalog, lakehouse_of
    from medallion_platform.pipeline.intake import stream as topic_intake

    topics = {s.name: s for s in catalog.sources if s.continuous}
    if source not in topics:
        there = f"there are {', '.join(topics)}" if topics else "this project has none"
        raise Stop(f"no source of topics is named {source}; {there}", USAGE)
    settings = settings_of(home)
    writable_lake(settings)
    quiet_libraries()
    _log_to_stderr(leader_guard, stream_reports, topic_intake)
    metrics = WorkerMetrics(source)
    if settings.backup:
        metrics.tell_newest_backup(BackupPlace(str(settings.backup)).newest_time)
    address = _served(metrics, host, port)
    terminal.print_note(f"Taking in {topics[source].where}; {address} (Ctrl-C stops it)")
    lakehouse = lakehouse_of(settings)
    silver = stream_reports.silver_tables_behind(catalog, topics[source].table)
    _collect_garbage_as_usual()
    election = leader_guard.elected(f"refresh-{source}", lakehouse.lake, [table.name for table in silver])
    try:
        with (
            runs.open_instance(settings.dagster_home) as on,
            election if refresh else nullcontext() as leader,
        ):
            stream_reports.follow_source(topics[source], catalog, lakehouse, on, metrics, leader)
    except MedallionError as error:
        raise Stop(str(error)) from None


@app.command()
def supervise(
    scale: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEPLOYMENT=LEAST:MOST",
            help="Scale the workers of a Deployment by their lag; may be repeated.",
        ),
    ] = None,
    start_timeout: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="How long Dagster waits for the start of a run.")
    ] = 300,
    host: MetricsHost = "127.0.0.1",
    port: MetricsPort = 9108,
) -> None:
    """In Kubernetes: delete what dead runs leave in the namespace, and scale stream workers by their lag."""
    from datetime import timedelta
    from threading import Event

    from medallion_platform.errors import MedallionError
    from medallion_platform.kubernetes import api, supervisor
    from medallion_platform.observability.supervision import SupervisorMetrics

    scaled = dict(_bounds(given) for given in scale or ())
    _log_to_stderr(supervisor)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        cluster = api.connect()
    except MedallionError as error:
        raise Stop(str(error), NOT_READY) from None
    metrics = SupervisorMetrics()
    address = _served(metrics, host, port)
    terminal.print_note(f"Supervises namespace {cluster.namespace}; {address} (Ctrl-C stops it)")
    _collect_garbage_as_usual()
    supervisor.supervise(cluster, scaled, timedelta(seconds=start_timeout), metrics, stop)


def _collect_garbage_as_usual() -> None:
    """Let Python look for cycles as often as it does at first, but not among what has been loaded.

    What is seldom enough for a command of seconds would let one that runs for weeks keep all that only cycles
    hold, and a few objects can hold megabytes.
    """
    gc.freeze()
    gc.set_threshold(700, 10, 10)


def _log_to_stderr(*modules: ModuleType) -> None:
    """Print warnings, and of these modules everything that they tell."""
    import logging

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(terminal.LineFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[lines])
    for module in modules:
        logging.getLogger(module.__name__).setLevel(logging.INFO)


def _served(metrics: Observable, host: str, port: int) -> str:
    """Where metrics are served from now on."""
    from medallion_platform.observability.server import serve_metrics

    try:
        server = serve_metrics(metrics, host, port)
    except OSError as error:
        raise Stop(
            f"port {port} on {host}: {error.strerror}; choose another one with --port", NOT_READY
        ) from None
    return f"http://{host}:{server.server_port}/metrics"


def _bounds(given: str) -> tuple[str, Bounds]:
    """A Deployment, and the fewest and the most workers that it may have."""
    from medallion_platform.kubernetes.scaling import Bounds

    match = re.fullmatch(r"([a-z0-9.-]+)=(\d+):(\d+)", given)
    if not match or int(match[2]) > int(match[3]):
        raise Stop(f"--scale {given}: give a Deployment and two numbers, as in stream-orders=1:5", USAGE)
    return match[1], Bounds(int(match[2]), int(match[3]))
