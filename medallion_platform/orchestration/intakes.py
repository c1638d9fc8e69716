"""What has arrived at a source, and which engine takes it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.pipeline.answer_cache import AnswerCache, table_states
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.arrivals import Arrivals, SourceContext
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.connectors.landing_zones import FileInfo
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.source import Source
from medallion_platform.storage import text_digest


def look_at_arrivals(source: Source, lakehouse: Lakehouse, run: Run) -> Arrivals:
    """What an intake of the source takes in; this registers new files."""
    lake = lakehouse.lake
    return source.arrivals(_source_context(source, lakehouse, lake, run.at, run))


def take_in_arrivals(arrived: Arrivals, lakehouse: Lakehouse, run: Run) -> IntakeResult:
    """Take in arrivals by the engine of their source; a JVM is only started for Spark, if something waits."""
    source, lake = arrived.source, lakehouse.lake
    if source.taken_in_by == "spark" and arrived.waiting(lake.positions(source.table)):
        from medallion_platform.pipeline.intake import spark_engine

        return spark_engine.intake(arrived, lake, lakehouse.session(), run)
    return intake(arrived, lake, run)


def _source_context(
    source: Source, lakehouse: Lakehouse, lake: Lake, at: datetime, run: Run | None = None
) -> SourceContext:
    """The context of a source; files are only registered if there is a run."""

    def register(of: FileSource, candidates: Sequence[FileInfo], notes: Sequence[str]) -> Arrivals:
        assert run is not None
        arrived = landing_zone.landed_files(of, lakehouse.landing, candidates, lake, run)
        return replace(arrived, notes=(*arrived.notes, *notes))

    return SourceContext(
        str(lake.root),
        lake.positions(source.table),
        at,
        str(lakehouse.landing),
        lakehouse.settle_seconds,
        register,
    )


def waiting_arrivals(
    catalog: Catalog, lakehouse: Lakehouse, now: datetime, lake: Lake, cache: AnswerCache | None = None
) -> dict[str, list[str]]:
    """What waits for an intake, by bronze table: complete files, new messages, pulls that are due.

    A source that cannot be reached, or whose table cannot be read, also counts as waiting: its intake says
    why and is repeated. lake: the lake to look at. cache: cached answers for this catalog. A table for which
    nothing waits is left out.
    """
    cache = cache or AnswerCache()
    found: dict[str, list[str]] = {}
    files = catalog.file_sources
    try:
        claimed = landing_scan.scan_landing_zone(
            lakehouse.landing, files, now, lakehouse.settle_seconds, claimed_only=True
        ).claimed
        for source in files:
            found[source.table] = _files_waiting(source, claimed[source.name], lake, cache)
    except Unavailable as error:
        found |= {source.table: [str(error)] for source in files}
    for source in catalog.sources:
        if source not in files:
            try:
                around = _source_context(source, lakehouse, lake, now)
                found[source.table] = list(source.arrivals(around).waiting(around.position))
            except (DamagedLog, Unavailable) as error:
                found[source.table] = [str(error)]
    return {table: pieces for table, pieces in found.items() if pieces}


def _files_waiting(
    source: FileSource, candidates: Sequence[FileInfo], lake: Lake, cache: AnswerCache
) -> list[str]:
    """What waits of a source of files, by the files that are there and what its tables say of them."""
    tables = (file_registry.registry_table(source.name), source.table, dead_letters.name(source.table))
    seen = text_digest(*map(repr, candidates))

    def find() -> tuple[str, ...]:
        return tuple(landing_zone.waiting_files(source, candidates, lake))

    def found() -> tuple[str, ...]:
        return lake.fact_about(tables, ("waiting", source.name, source.table, seen), find)

    try:
        return list(cache.answer(("waiting", source.name), (seen, table_states(lake, tables)), found))
    except DamagedLog as error:
        return [str(error)]
