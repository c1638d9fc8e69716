"""This installation as Dagster runs it, for given settings; `definitions` is what Dagster loads of it."""

from __future__ import annotations

import dagster as dg

from medallion_platform.installation import FEATURES, catalog
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.settings import Settings


def lakehouse_of(settings: Settings) -> Lakehouse:
    """The lakehouse resource that these settings describe."""
    return Lakehouse(
        lake_root=str(settings.lake),
        landing=str(settings.landing),
        feature_repo=str(settings.feature_repo),
        settle_seconds=settings.settle_seconds,
        spark_reads_topics=catalog.spark_reads_topics,
        keep_runs_days=settings.keep_runs_days,
    )


def definitions_of(settings: Settings) -> dg.Definitions:
    """Everything that Dagster shows, for these settings."""
    return build_defs(catalog, FEATURES, lakehouse_of(settings))
