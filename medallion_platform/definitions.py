"""The code location that Dagster loads: this installation's catalog, built with its settings."""

from __future__ import annotations

from medallion_platform.assembly import definitions_of, lakehouse_of
from medallion_platform.installation import FEATURES, SETTINGS, catalog

__all__ = ["FEATURES", "catalog", "definitions_of", "defs", "lakehouse_of"]

defs = definitions_of(SETTINGS)
