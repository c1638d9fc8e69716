"""Creates a new project: a source, a contract, a table and a test to start from.

`template/` has its files, with the ending `.in`. NAME in paths and texts is replaced by the project's name,
VERSION by the platform's version.
"""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from medallion_platform.installation.project import ProjectError

_TEMPLATE = Path(__file__).with_name("template")


def make_project(name: str, folder: Path) -> list[Path]:
    """Write a new project into `folder`, which must be new or empty; returns its files.

    Raises:
        ProjectError: the name is no valid module name or is taken, or the folder is not empty.
    """
    _refuse_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProjectError(f"{folder} is not empty", remedy="choose another name, or empty it")
    written: list[Path] = []
    for source in sorted(p for p in _TEMPLATE.rglob("*.in") if p.is_file()):
        path = str(source.relative_to(_TEMPLATE)).removesuffix(".in")
        target = folder / path.replace("NAME", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8").replace("NAME", name)
        target.write_text(text.replace("VERSION", version("medallion-platform")), encoding="utf-8")
        written.append(target)
    return written


def _refuse_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        fit = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_0123456789")
        meant = f"{fit}, for example" if fit and not keyword.iskeyword(fit) else "for example my_lakehouse"
        raise ProjectError(
            f"{name!r} cannot name a Python package", remedy=f"use small letters, digits and _: {meant}"
        )
    if name in sys.stdlib_module_names or name in ("example", "tests") or _is_importable(name):
        raise ProjectError(
            f"{name} is the name of a module that is there already", remedy="choose another one"
        )


def _is_importable(name: str) -> bool:
    """Whether a module of this name can be imported; a folder without a module does not count."""
    found = find_spec(name)
    return found is not None and found.loader is not None and found.origin is not None
