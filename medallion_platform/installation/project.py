"""Which project a command works for: its folder, and the modules that its pyproject.toml names.

[tool.medallion]
module = "weather.catalog"             # holds the catalog

[tool.dg.project]                      # what `dg` and `dagster dev` read; without it the platform's own
code_location_target_module = "weather.definitions"
code_location_name = "weather"
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medallion_platform.errors import Kind, MedallionError

MODULE = "MEDALLION_MODULE"
"""The variable of the environment that names the module of a catalog; `--module` sets it."""
SAMPLE = "medallion_sample.catalog"
"""The catalog of the sample that `medallion demo` runs."""
DEFINITIONS = "medallion_platform.definitions"
"""What Dagster loads of a project that has no definitions of its own."""
_LOCATION = "medallion_platform"


class ProjectError(MedallionError):
    """There is no project, or its catalog cannot be loaded; the text says where and what to do."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class Project:
    """Where a catalog comes from.

    module: has the catalog. root: the folder of its pyproject.toml, None if only the module was named.
    definitions, location: the module that Dagster loads, and the name of its code location.
    """

    module: str
    root: Path | None = None
    definitions: str = DEFINITIONS
    location: str = _LOCATION

    def make_importable(self) -> None:
        """Put its folder on the import path, so that its modules need not be installed."""
        place = str(self.root or Path.cwd())
        if place not in sys.path:
            sys.path.insert(0, place)


def current_project() -> Project:
    """The project of the named module, or else the project of this folder or one above it.

    Raises:
        ProjectError: no module is named and there is no project here, or its pyproject.toml cannot be read.
    """
    above = project_above(Path.cwd())
    named = os.environ.get(MODULE)
    if named and (above is None or above.module != named):
        return Project(named, definitions=DEFINITIONS)
    if above is None:
        raise ProjectError(
            f"no project here: neither {Path.cwd()} nor a folder above it has a pyproject.toml with "
            "[tool.medallion]",
            remedy=f"go to one, make one (medallion init NAME), or name a module (--module {SAMPLE} is the "
            "demo's)",
        )
    return above


def refuse_home_of_another(folder: Path) -> None:
    """Refuse to put the tables of the named module into the home of another project.

    Raises:
        ProjectError: `folder` is in a project whose module is not the named one.
    """
    above, named = project_above(folder), os.environ.get(MODULE)
    if above is not None and named and named != above.module:
        raise ProjectError(
            f"{above.root} is a project of its own ({above.module}), and the tables of {named} would come "
            "into the same lake",
            remedy=f"name another folder for these, e.g. --home /tmp/{named.partition('.')[0]}",
        )


def project_above(folder: Path) -> Project | None:
    """The project that contains `folder`, or None.

    Raises:
        ProjectError: a pyproject.toml cannot be read, or names no module.
    """
    for root in (folder, *folder.parents):
        file = root / "pyproject.toml"
        if file.is_file() and "medallion" in (tool := _read_tool_section(file)):
            return _read_project(root, file, tool)
    return None


def _read_project(root: Path, file: Path, tool: dict[str, Any]) -> Project:
    module = tool["medallion"].get("module") if isinstance(tool["medallion"], dict) else None
    if not isinstance(module, str) or not module:
        raise ProjectError(
            f'{file}: [tool.medallion] names no module: say module = "NAME.catalog", where the catalog is'
        )
    dagster = tool.get("dg", {}).get("project", {})
    root_module = dagster.get("root_module")
    definitions = dagster.get("code_location_target_module") or (
        f"{root_module}.definitions" if root_module else DEFINITIONS
    )
    return Project(module, root, definitions, dagster.get("code_location_name") or definitions)


def _read_tool_section(file: Path) -> dict[str, Any]:
    import tomllib  # it takes as long to import as all of this module, and not every command reads a project

    try:
        return tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError) as error:
        raise ProjectError(f"{file} cannot be read: {error}") from None
