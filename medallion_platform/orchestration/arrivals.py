"""What has arrived at a source, and which engine takes it in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import blake2b

from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.pipeline.answer_cache import AnswerCache, states
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.arrivals import Arrivals, SourceContext
from medallion_platform.sources.connectors import landing
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.connectors.zones import FileInfo
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.source import Source


def arrivals_of(source: Source, lakehouse: Lakehouse, run: Run) -> Arrivals:
    """What an intake of the source takes in; files are registered by this."""
    lake = lakehouse.lake
    return source.arrivals(_around(source, lakehouse, lake, run.at, run))


def take_in(arrived: Arrivals, lakehouse: Lakehouse, run: Run) -> IntakeResult:
    """Take it in by the engine that its source names; only Spark starts a JVM, where something waits."""
    source, lake = arrived.source, lakehouse.lake
    if source.taken_in_by == "spark" and arrived.waiting(lake.positions(source.table)):
        from medallion_platform.pipeline.intake import spark_engine

        return spark_engine.intake(arrived, lake, lakehouse.session(), run)
    return intake(arrived, lake, run)


def _around(
    source: Source, lakehouse: Lakehouse, lake: Lake, at: datetime, run: Run | None = None
) -> SourceContext:
    """From where a source is looked at; files are registered by a run only."""

    def register(of: FileSource, candidates: Sequence[FileInfo], notes: Sequence[str]) -> Arrivals:
        assert run is not None
        arrived = landing_zone.arrivals(of, lakehouse.landing, candidates, lake, run)
        return replace(arrived, notes=(*arrived.notes, *notes))

    return SourceContext(
        str(lake.root),
        lake.positions(source.table),
        at,
        str(lakehouse.landing),
        lakehouse.settle_seconds,
        register,
    )


def waiting(
    catalog: Catalog, lakehouse: Lakehouse, now: datetime, lake: Lake, kept: AnswerCache | None = None
) -> list[str]:
    """What no intake has taken in whole as it is now: complete files, partitions with new messages,
    pulls that are due.

    A source that cannot be reached, or whose table cannot be read, waits as well: its intake says why, and
    is tried again. lake: as it is looked at. kept: answers of earlier looks at this catalog.
    """
    kept = kept or AnswerCache()
    found: list[str] = []
    files = catalog.file_sources
    try:
        found_files = landing.scan(lakehouse.landing, files, now, lakehouse.settle_seconds, claimed_only=True)
        for source in files:
            found += _files_waiting(source, found_files.claimed[source.name], lake, kept)
    except Unavailable as error:
        found.append(str(error))
    for source in catalog.sources:
        if source not in files:
            try:
                around = _around(source, lakehouse, lake, now)
                found += source.arrivals(around).waiting(around.position)
            except (DamagedLog, Unavailable) as error:
                found.append(str(error))
    return found


def _files_waiting(
    source: FileSource, candidates: Sequence[FileInfo], lake: Lake, kept: AnswerCache
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
