"""Commands for tests and benchmarks: of a project, or of a checkout of the platform."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import NOT_READY, USAGE, Stop
from medallion_platform.cli.shared_options import Json
from medallion_platform.installation.project import project_above

app = typer.Typer()

_CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder of the platform's own checkout, where this is one."""

_SIDE_BY_SIDE = ("--numprocesses", "logical", "--maxprocesses", "2", "--dist", "worksteal")
"""Two processes share the tests, none where a debugger is asked for; each keeps what it started."""
_SUITES = {"integration": ("broker and not s3", "s3"), "faults": ("faults",), "cluster": ("cluster",)}
"""Tests that start real servers, by their markers: a process for each, as a JVM has one set of jars."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the project's tests; in a checkout of the platform, its own (or `integration`, `faults`, ...).

    Further arguments are passed to pytest. A checkout runs all of its suite in two processes (`-n 0`: one).
    """
    try:
        import pytest
    except ModuleNotFoundError:
        raise Stop("the tests are run by pytest: pip install pytest", NOT_READY) from None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest has an ending of its own
    project = project_above(Path.cwd())
    if project and project.root and project.root != _CHECKOUT:
        os.chdir(project.root)
        project.make_importable()
        raise typer.Exit(int(pytest.main(context.args)))
    tests, args = str(_tests_folder()), context.args
    if args and args[0] in _SUITES:
        command = [sys.executable, "-m", "pytest", tests, *args[1:]]
        codes = [subprocess.call([*command, "-m", marked]) for marked in _SUITES[args[0]]]  # noqa: S603
        raise typer.Exit(next(filter(None, codes), 0))
    if all(a.startswith("-") for a in args):
        raise typer.Exit(int(pytest.main([tests, *_SIDE_BY_SIDE, *args])))
    named = any(Path(a.partition("::")[0]).exists() for a in args)
    raise typer.Exit(int(pytest.main([*([] if named else [tests]), *args])))


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="intake, topics, duplicates, avro, gate, refresh, cdc, start, backfill, memory, "
            "freshness, automation, many, growth, batches, layout, cost, launch (of runs on Kubernetes); "
            "all if left out"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this file, as Markdown.")] = None,
    rounds: Annotated[int, typer.Option(help="Paired runs of each figure.", min=1)] = 5,
    short: Annotated[
        bool, typer.Option("--short", help="Use a tenth of the rows, only to see that it works.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what the promises cost, as ratios to plain Spark or Delta in the same run."""
    _tests_folder()
    from medallion_platform_tests.benchmarks import run

    if unknown := [p for p in parts or () if p not in run.PARTS]:
        raise Stop(f"no figures named {', '.join(unknown)}; there are {', '.join(run.PARTS)}", USAGE)
    found = run.measure(parts or run.PARTS, rounds, short=short)
    for title, rows in found.items():
        terminal.print_answer(title, rows, as_json=as_json)
    if out:
        out.write_text(run.as_markdown(found))


def _tests_folder() -> Path:
    """The folder of the tests and benchmarks, which are not installed with the package."""
    found = _CHECKOUT / "medallion_platform_tests"
    if not found.is_dir():
        raise Stop("the tests and benchmarks are part of a checkout, not of the installed package", USAGE)
    return found
