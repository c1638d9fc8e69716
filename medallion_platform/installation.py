"""What this installation runs, without Dagster: for commands that only look, which start sooner so."""

from __future__ import annotations

from medallion_platform.settings import Settings
from medallion_sample.catalog import FEATURES, catalog_of

__all__ = ["FEATURES", "SETTINGS", "catalog"]

SETTINGS = Settings()
"""Those of this process's environment."""

catalog = catalog_of(SETTINGS.kafka, SETTINGS.kafka_engine)
"""All sources and tables."""
