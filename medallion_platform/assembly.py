"""The Dagster definitions of this process's project, built from its catalog and settings."""

from __future__ import annotations

from importlib import import_module

import dagster as dg

from medallion_platform.installation import PROJECT, catalog
from medallion_platform.orchestration import lakehouse
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.project import DEFINITIONS, ProjectError
from medallion_platform.settings import Settings

__all__ = ["catalog", "definitions_of", "lakehouse_of"]


def lakehouse_of(settings: Settings) -> Lakehouse:
    """The lakehouse resource that these settings describe."""
    return lakehouse.lakehouse_of(settings, catalog)


def definitions_of(settings: Settings) -> dg.Definitions:
    """Everything that Dagster shows: as the project defines it, or its catalog with these settings.

    A project's own definitions are made with the settings of the environment.

    Raises:
        ProjectError: its module of definitions holds none.
    """
    if PROJECT.definitions == DEFINITIONS:
        return build_defs(catalog, lakehouse_of(settings))
    found = getattr(import_module(PROJECT.definitions), "defs", None)
    if callable(found):  # a function that @dg.definitions decorates
        found = found()
    if not isinstance(found, dg.Definitions):
        raise ProjectError(f"{PROJECT.definitions} holds no definitions: say defs = build_defs(catalog)")
    return found
