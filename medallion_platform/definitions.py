"""What Dagster loads where a project has none of its own: its catalog, by the settings."""

from __future__ import annotations

from medallion_platform.assembly import lakehouse_of
from medallion_platform.installation import SETTINGS, catalog
from medallion_platform.orchestration.build import build_defs

defs = build_defs(catalog, lakehouse_of(SETTINGS))
