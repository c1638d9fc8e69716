"""Commands that create projects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medallion_platform.cli import terminal

app = typer.Typer()


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the project and its package, e.g. weather.")],
) -> None:
    """Create a project of your own in a new folder, with a source, a contract, a table and a test."""
    from medallion_platform.new_project import make_project

    written = make_project(name, Path.cwd() / name)
    terminal.print_note(f"{len(written)} files in {Path.cwd() / name}. Try next:")
    terminal.print_note(f"  cd {name}\n  medallion run --landing example\n  medallion test")
