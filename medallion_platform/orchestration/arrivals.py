"""What has arrived at a source, wherever it is."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.pipeline import landing_zone
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh import Run
from medallion_platform.sources import landing
from medallion_platform.sources.arrivals import Arrivals
from medallion_platform.sources.source import FileSource, Source


def arrivals_of(source: Source, lakehouse: Lakehouse, run: Run) -> Arrivals:
    """What an intake of the source takes in; files are registered by this."""
    if not isinstance(source, FileSource):
        raise TypeError(f"{source!r} is no source that can be read")
    folder = Path(lakehouse.landing)
    seen = landing.look(folder, [source], run.at, lakehouse.settle_seconds).claimed[source.name]
    return landing_zone.arrivals(source, folder, seen, lakehouse.lake, run)


def waiting(catalog: Catalog, lakehouse: Lakehouse, now: datetime) -> list[str]:
    """What no intake has taken in whole as it is now: complete files that a source claims."""
    look = landing.look(Path(lakehouse.landing), catalog.file_sources, now, lakehouse.settle_seconds)
    return [
        piece
        for source in catalog.file_sources
        for piece in landing_zone.waiting(source, look.claimed[source.name], lakehouse.lake)
    ]
