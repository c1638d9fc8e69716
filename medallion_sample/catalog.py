"""All that this installation runs, in one catalog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from medallion_platform import Catalog, Settings
from medallion_sample.clickstream import features as clickstream_features
from medallion_sample.clickstream import gold as clickstream_gold
from medallion_sample.clickstream import silver as clickstream_silver
from medallion_sample.clickstream import sources as clickstream_sources
from medallion_sample.hr import gold as hr_gold
from medallion_sample.hr import silver as hr_silver
from medallion_sample.hr import sources as hr_sources


def catalog_of(kafka: Mapping[str, str], engine: Literal["polars", "spark"] = "polars") -> Catalog:
    """Every source and table; kafka: settings of the client, empty where files land instead.

    engine: who takes the topics in.

    Raises:
        DeclarationError: a name is taken twice, or nobody makes an upstream.
    """
    return Catalog(
        sources=(*clickstream_sources.sources(kafka, engine), *hr_sources.SOURCES),
        tables=(
            *clickstream_silver.TABLES,
            *clickstream_gold.TABLES,
            *hr_silver.TABLES,
            *hr_gold.TABLES,
        ),
        features=clickstream_features.FEATURES,
    )


_SETTINGS = Settings()

catalog = catalog_of(_SETTINGS.kafka, _SETTINGS.kafka_engine)
"""With the settings of the environment: clickstream comes from topics where these name a broker."""
