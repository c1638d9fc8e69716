"""What has arrived at a source, wherever it is, and who takes it in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import blake2b

from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import IntakeResult, intake
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.status.kept import KeptAnswers, states
from medallion_platform.sources.arrivals import Arrivals, Position, Unavailable
from medallion_platform.sources.connectors import landing, rest
from medallion_platform.sources.connectors.kafka import kafka
from medallion_platform.sources.connectors.kafka.kafka import KafkaSource, Topics, group_of
from medallion_platform.sources.connectors.rest import RestSource
from medallion_platform.sources.connectors.zones import FileInfo
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


def take_in(arrived: Arrivals, lakehouse: Lakehouse, run: Run) -> IntakeResult:
    """Take it in by the engine that its source names; only Spark starts a JVM."""
    if isinstance(arrived, Topics) and arrived.partitions and arrived.source.engine == "spark":
        from medallion_platform.pipeline.intake import spark_engine

        return spark_engine.intake(arrived, lakehouse.lake, lakehouse.session(), run)
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


def waiting(
    catalog: Catalog, lakehouse: Lakehouse, now: datetime, lake: Lake, kept: KeptAnswers | None = None
) -> list[str]:
    """What no intake has taken in whole as it is now: complete files, partitions with new messages,
    pulls that are due.

    A source that cannot be reached, or whose table cannot be read, waits as well: its intake says why, and
    is tried again. lake: as it is looked at. kept: answers of earlier looks at this catalog.
    """
    kept = kept or KeptAnswers()
    found: list[str] = []
    try:
        look = landing.look(
            lakehouse.landing, catalog.file_sources, now, lakehouse.settle_seconds, claimed_only=True
        )
        for source in catalog.file_sources:
            found += _files_waiting(source, look.claimed[source.name], lake, kept)
    except Unavailable as error:
        found.append(str(error))
    for source in catalog.sources:
        if not isinstance(source, FileSource):
            try:
                position = lake.positions(source.table)
                found += _look(source, lake, position, now).waiting(position)
            except (DamagedLog, Unavailable) as error:
                found.append(str(error))
    return found


def _files_waiting(
    source: FileSource, candidates: Sequence[FileInfo], lake: Lake, kept: KeptAnswers
) -> list[str]:
    """What waits of a source of files, by the files that are there and what its tables say of them."""
    tables = (source.table, file_registry.name(source.name), dead_letters.name(source.table))
    try:
        found_from = (_digest(candidates), states(lake, tables))
        return kept.answer(
            ("waiting", source.name), found_from, lambda: landing_zone.waiting(source, candidates, lake)
        )
    except DamagedLog as error:
        return [str(error)]


def _digest(files: Iterable[FileInfo]) -> bytes:
    """A short text for all that is seen of files."""
    made = blake2b(digest_size=20)
    for file in files:
        made.update(repr(file).encode("utf-8", "backslashreplace"))
    return made.digest()
