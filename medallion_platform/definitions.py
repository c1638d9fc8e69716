"""What Dagster loads if a project has no definitions of its own, built from its catalog and settings."""

from __future__ import annotations

from medallion_platform.installation.catalog import SETTINGS, catalog
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.location import lakehouse_of

defs = build_defs(catalog, lakehouse_of(SETTINGS))
