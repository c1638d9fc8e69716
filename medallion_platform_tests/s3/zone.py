"""The small installation of `pipeline.toy`, with its landing zone and its lake in a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.connectors.landing_zones import FileInfo, zone_at
from medallion_platform.storage import store
from medallion_platform_tests.pipeline.toy import CSV, FIELDS, NOW, RUN, Row


@dataclass
class BucketZone:
    """What `toy.Zone` is on disk. An object's time is when it came, so files are put in order."""

    root: str
    rows: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        return Lake(f"{self.root}/lake")

    @property
    def landing(self) -> str:
        return f"{self.root}/landing"

    def put(self, path: str, content: bytes, rows: Sequence[Row] = ()) -> None:
        store(self.landing).put(path, content)
        self.rows[path] = list(rows)

    def csv(self, path: str, rows: Sequence[Row], columns: Sequence[str] = FIELDS) -> None:
        self.put(path, b"\n".join([",".join(columns).encode(), *(r.text for r in rows)]) + b"\n", rows)

    def seen(self, source: FileSource) -> Sequence[FileInfo]:
        zone_at.cache_clear()  # as a new process would look
        return landing_scan.scan_landing_zone(self.landing, [source], NOW).claimed[source.name]

    def json(self, path: str, rows: Sequence[Row]) -> None:
        self.put(path, b"".join(r.text + b"\n" for r in rows), rows)

    def take(
        self, source: FileSource = CSV, lake: Lake | None = None, run: Run = RUN, **options: Any
    ) -> IntakeResult:
        lake = lake or self.lake
        arrived = landing_zone.landed_files(source, self.landing, self.seen(source), lake, run)
        return intake(arrived, lake, run, **options)
