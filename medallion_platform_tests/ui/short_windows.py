"""A code location with a table that goes stale after two minutes.

The product's windows are hours to days. Everything else is the product's: the source, the
transform, and how a declared `fresh_within` becomes a policy.
"""

from dataclasses import replace
from datetime import timedelta

from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.location import catalog, lakehouse_of
from medallion_platform.pipeline.catalog import Catalog

WINDOW = timedelta(seconds=120)

defs = build_defs(
    Catalog(
        sources=(catalog.source_of["bronze.departments"],),
        tables=(replace(catalog.by_name["silver.departments"], fresh_within=WINDOW),),
    ),
    lakehouse_of(Settings()),
)
