"""What tests and benchmarks import of the project is there, also where they import it only as they run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
OF_OLD_CODE = HERE / "upgrade" / "make_lake.py"
"""Runs with the code of a former version."""


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of each import from the project, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        module = node.module or "" if isinstance(node, ast.ImportFrom) and not node.level else ""
        if isinstance(node, ast.ImportFrom) and module.startswith("medallion_"):
            yield from ((module, name.name) for name in node.names)


def is_there(module: str, name: str) -> bool:
    found = import_module(module)
    return hasattr(found, name) or (hasattr(found, "__path__") and find_spec(f"{module}.{name}") is not None)


def test_every_name_that_is_imported_is_there() -> None:
    """In a process of its own: other tests look at what has been imported."""
    code = "from medallion_platform_tests.test_imports import missing; print(*missing(), sep='\\n', end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def missing() -> list[str]:
    """What is imported and not there."""
    files = [path for path in HERE.rglob("*.py") if path != OF_OLD_CODE]
    assert len(files) > 100
    wanted = {(str(path.relative_to(HERE)), *found) for path in files for found in imported(path)}
    return [" ".join(found) for found in sorted(wanted) if not is_there(*found[1:])]
