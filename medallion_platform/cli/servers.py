"""Commands that run until they are stopped: the Dagster UI, a worker that reads topics."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import NOT_READY, USAGE, Stop
from medallion_platform.cli.options import Home, export, quiet_libraries, ready_lake, settings_of

app = typer.Typer()


@app.command()
def dev(
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address that the UI listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the UI.", min=1, max=65535)] = 3000,
) -> None:
    """Start the Dagster UI and daemon on this machine."""
    import socket

    from medallion_platform.extras import need
    from medallion_platform.orchestration import runs

    need("ui", "`medallion dev`")
    settings = settings_of(home)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise Stop(
                f"port {port} on {host} is in use: choose another one with --port", NOT_READY
            ) from None
    ready_lake(settings)
    with runs.instance(settings.dagster_home):
        pass
    export(settings)
    # Dagster recommends `dg dev`, which needs another project layout; this command still works.
    quiet = "ignore:Function `dev_command` is superseded:FutureWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), quiet]))
    terminal.note(f"Files that land in {settings.landing} are taken in automatically.")
    terminal.note(f"Dagster starts at http://{host}:{port} (Ctrl-C stops it)")
    command = ["dagster", "dev", "-w", str(runs.workspace(settings.dagster_home)), "-h", host]
    os.execv(  # noqa: S606
        str(Path(sys.executable).with_name("dagster")), [*command, "-p", str(port)]
    )


@app.command()
def stream(
    source: Annotated[str, typer.Argument(help="Name of a source with topics.")],
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Also keep the silver tables made from it up to date.")
    ] = False,
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address of /metrics, /health and /ready.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Their port; 0 for any free port.", min=0, max=65535)] = 9108,
) -> None:
    """Take in messages continuously, until Ctrl-C or SIGTERM; several workers share the partitions."""
    import logging

    from medallion_platform.assembly import catalog, lakehouse_of
    from medallion_platform.errors import MedallionError
    from medallion_platform.observability.worker import WorkerMetrics, serve
    from medallion_platform.orchestration import runs
    from medallion_platform.orchestration.stream import follow

    topics = {s.name: s for s in catalog.sources if s.continuous}
    if source not in topics:
        there = f"there are {', '.join(topics)}" if topics else "this project has none"
        raise Stop(f"no source of topics is named {source}; {there}", USAGE)
    settings = settings_of(home)
    ready_lake(settings)
    quiet_libraries()
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(terminal.LineFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[lines])
    for name in ("medallion_platform.orchestration.stream", "medallion_platform.pipeline.intake.stream"):
        logging.getLogger(name).setLevel(logging.INFO)
    metrics = WorkerMetrics(source)
    try:
        server = serve(metrics, host, port)
    except OSError as error:
        raise Stop(
            f"port {port} on {host}: {error.strerror}; choose another one with --port", NOT_READY
        ) from None
    terminal.note(
        f"Taking in {topics[source].where}; http://{host}:{server.server_port}/metrics (Ctrl-C stops it)"
    )
    with runs.instance(settings.dagster_home) as on:
        try:
            follow(topics[source], catalog, lakehouse_of(settings), on, metrics, refreshing=refresh)
        except MedallionError as error:
            raise Stop(str(error)) from None
