"""What has arrived at a source, wherever it is, and who takes it in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.pipeline import landing_zone
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import Taken, intake
from medallion_platform.pipeline.refresh import Run
from medallion_platform.sources import kafka, landing, rest
from medallion_platform.sources.arrivals import Arrivals, Position, Unavailable
from medallion_platform.sources.kafka import KafkaSource, Topics, group_of
from medallion_platform.sources.rest import RestSource
from medallion_platform.sources.source import FileSource, Source


def arrivals_of(source: Source, lakehouse: Lakehouse, run: Run) -> Arrivals:
    """What an intake of the source takes in; files are registered by this."""
    if not isinstance(source, FileSource):
        lake = lakehouse.lake
        return _look(source, lake, lake.positions(source.table), run.at)
    look = landing.look(lakehouse.landing, [source], run.at, lakehouse.settle_seconds, claimed_only=True)
    arrived = landing_zone.arrivals(source, lakehouse.landing, look.claimed[source.name], lakehouse.lake, run)
    left = (f"{path}: {why}; left where it is" for path, why in look.left.items())
    return replace(arrived, notes=(*arrived.notes, *left))


def take_in(arrived: Arrivals, lakehouse: Lakehouse, run: Run) -> Taken:
    """Take it in by the engine that its source names; only Spark starts a JVM."""
    if isinstance(arrived, Topics) and arrived.partitions and arrived.source.engine == "spark":
        from medallion_platform.pipeline import intake_on_spark

        return intake_on_spark.intake(arrived, lakehouse.lake, lakehouse.session(), run)
    return intake(arrived, lakehouse.lake, run)


def _look(source: Source, lake: Lake, position: Position, at: datetime) -> Arrivals:
    """What has arrived at a source that is reached over the network."""
    if isinstance(source, KafkaSource):
        if workers := kafka.streamed(source, group_of(source, str(lake.root))):
            return Topics(source, (), (f"source {source.name} is left to its {workers} continuous workers",))
        return kafka.look(source, position)
    if isinstance(source, RestSource):
        return rest.look(source, at)
    raise TypeError(f"{source!r} is no source that can be read")


def waiting(catalog: Catalog, lakehouse: Lakehouse, now: datetime) -> list[str]:
    """What no intake has taken in whole as it is now: complete files, partitions with new messages,
    pulls that are due.

    A source that cannot be reached waits as well: its intake says why, and is tried again.
    """
    found: list[str] = []
    try:
        look = landing.look(
            lakehouse.landing, catalog.file_sources, now, lakehouse.settle_seconds, claimed_only=True
        )
        for source in catalog.file_sources:
            found += landing_zone.waiting(source, look.claimed[source.name], lakehouse.lake)
    except Unavailable as error:
        found.append(str(error))
    for source in catalog.sources:
        if not isinstance(source, FileSource):
            try:
                position = lakehouse.lake.positions(source.table)
                found += _look(source, lakehouse.lake, position, now).waiting(position)
            except Unavailable as error:
                found.append(str(error))
    return found
