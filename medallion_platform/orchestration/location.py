"""The Dagster definitions of this process's project, built from its catalog and settings."""

from __future__ import annotations

from importlib import import_module

import dagster as dg

from medallion_platform.installation.catalog import PROJECT, catalog
from medallion_platform.installation.project import DEFINITIONS, ProjectError
from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration import lakehouse_resource
from medallion_platform.orchestration.lakehouse_resource import Lakehouse

__all__ = ["catalog", "definitions_of", "lakehouse_of"]


def lakehouse_of(settings: Settings) -> Lakehouse:
    """The lakehouse resource that these settings describe."""
    return lakehouse_resource.lakehouse_of(settings, catalog)


def definitions_of(settings: Settings) -> dg.Definitions:
    """Everything that Dagster shows: the project's own definitions, or those of its catalog.

    A project's own definitions use the settings in the environment.

    Raises:
        ProjectError: its module has no definitions.
    """
    if PROJECT.definitions == DEFINITIONS:
        # Here, since a command with nothing to do needs no definitions.
        from medallion_platform.orchestration.build import build_defs

        return build_defs(catalog, lakehouse_of(settings))
    found = getattr(import_module(PROJECT.definitions), "defs", None)
    if callable(found):  # a function that @dg.definitions decorates
        found = found()
    if not isinstance(found, dg.Definitions):
        raise ProjectError(f"{PROJECT.definitions} holds no definitions: say defs = build_defs(catalog)")
    return found
