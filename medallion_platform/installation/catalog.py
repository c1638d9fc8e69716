"""The catalog and settings of this process, without Dagster, so that commands that only read start faster."""

from __future__ import annotations

import traceback
from importlib import import_module
from types import ModuleType

from medallion_platform.extras import MissingExtra
from medallion_platform.installation.project import Project, ProjectError, current_project
from medallion_platform.installation.settings import Settings, WrongSetting
from medallion_platform.pipeline.catalog import Catalog

__all__ = ["PROJECT", "SETTINGS", "catalog"]


def catalog_of(project: Project) -> Catalog:
    """The one catalog that a project's module holds.

    Raises:
        ProjectError: the module cannot be imported, or has no catalog or several.
        MissingExtra: it declares something whose libraries are not installed.
    """
    module = _import_catalog_module(project)
    found = {id(v): (name, v) for name, v in vars(module).items() if isinstance(v, Catalog)}
    if not found:
        raise ProjectError(
            f"{project.module} holds no catalog", remedy="say catalog = Catalog(sources=..., tables=...)"
        )
    if len(found) > 1:
        names = ", ".join(sorted(name for name, _ in found.values()))
        raise ProjectError(
            f"{project.module} holds several catalogs ({names})", remedy="keep one of them there"
        )
    return next(iter(found.values()))[1]


def _import_catalog_module(project: Project) -> ModuleType:
    project.make_importable()
    try:
        return import_module(project.module)
    except (MissingExtra, WrongSetting):
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{project.module}.".startswith(f"{error.name}."):
            where = project.root or "this folder"
            raise ProjectError(
                f"there is no module {project.module}, neither in {where} nor installed",
                remedy="fix `module` in [tool.medallion] of pyproject.toml, or --module",
            ) from None
        raise _import_failure(project, error) from error
    except Exception as error:
        raise _import_failure(project, error) from error


def _import_failure(project: Project, error: Exception) -> ProjectError:
    """The error for people, with the last line of the project's own code that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    top = project.module.partition(".")[0]
    own = [f for f in frames if f"/{top}/" in f.filename or f.filename.endswith(f"/{top}.py")]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return ProjectError(f"{project.module} does not import: {type(error).__name__}: {error}{where}")


SETTINGS = Settings()
"""The settings in this process's environment."""

PROJECT = current_project()
"""The project that this process works for."""

catalog = catalog_of(PROJECT)
"""All sources and tables."""
