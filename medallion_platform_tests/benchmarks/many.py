"""An installation of many small tables: sources with a silver and a gold table each, in a home of its own.

It is the module of a project (MEDALLION_MODULE) for which `MEDALLION_TEST_MANY` tells how many sources.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import ClassVar

import pyspark.sql.types as T
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import Table, daily, table
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.csv import Csv

SOURCES = 100
COMMITS = 3
DAYS = 5
FIRST = date(2026, 2, 1)


class Sales(ContractModel):
    """One sale."""

    sold_at: T.TimestampType = Field()
    euros: T.LongType = Field(ge=0)

    class Config:
        """Table options."""

        metadata: ClassVar = {"event_time": "sold_at", "partitioned_by": ["event_date"]}


class SilverSales(ContractModel):
    """One sale, checked."""

    sold_at: T.TimestampType = Field()
    euros: T.LongType = Field(ge=0)
    event_date: T.DateType = Field()

    class Config:
        """Table options."""

        metadata: ClassVar = {"partitioned_by": ["event_date"]}


class DailySales(ContractModel):
    """A day's sales."""

    event_date: T.DateType = Field()
    sales: T.LongType = Field(ge=1)
    euros: T.LongType = Field(ge=0)

    class Config:
        """Table options."""

        metadata: ClassVar = {
            "key": ["event_date"],
            "partitioned_by": ["event_date"],
            "row_count_column": "sales",
        }


def clean(sales: DataFrame) -> DataFrame:
    """The sales themselves."""
    return sales.select("sold_at", "euros", "event_date")


def summed(sales: DataFrame) -> DataFrame:
    """The sum of a day."""
    return sales.groupBy("event_date").agg(F.count("*").alias("sales"), F.sum("euros").alias("euros"))


def catalog_of(sources: int) -> Catalog:
    """So many sources, with three tables each."""
    shops = [f"sales_{n:03}" for n in range(sources)]
    return Catalog(tuple(map(_source, shops)), tuple(made for shop in shops for made in _tables(shop)))


def _source(shop: str) -> FileSource:
    return FileSource(
        name=shop,
        table=f"bronze.{shop}",
        contract=Sales.contract,
        claims=(f"{shop}/**",),
        format=Csv(),
        domain="shops",
        first_day=FIRST,
    )


def _tables(shop: str) -> tuple[Table, Table]:
    silver = table(
        f"silver.{shop}",
        contract=SilverSales.contract,
        inputs={"sales": f"bronze.{shop}"},
        incremental="append",
        partition=daily("event_date"),
    )(clean)
    gold = table(
        f"gold.{shop}",
        contract=DailySales.contract,
        inputs={"sales": f"silver.{shop}"},
        incremental="replace_partitions",
        partition=daily("event_date"),
    )(summed)
    return silver, gold


def fill(home: Path, sources: int) -> None:
    """Make the tables without a JVM: a few commits each, all up to date, with dead letters."""
    import polars as pl

    from medallion_platform.lakehouse import polars_writer
    from medallion_platform.lakehouse.commit import next_sequence
    from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
    from medallion_platform.lakehouse.counts import Counts
    from medallion_platform.lakehouse.lake_format import open_lake
    from medallion_platform.pipeline.intake import landing_zone
    from medallion_platform.pipeline.intake.polars_engine import intake
    from medallion_platform.pipeline.refresh.plan import CODE, code_version
    from medallion_platform.pipeline.run import Run
    from medallion_platform.sources.connectors import landing_scan

    lake, zone, catalog = open_lake(home / "lake"), home / "landing", catalog_of(sources)

    def rows(layer: str, n: int) -> pl.DataFrame:
        at = [datetime(2026, 2, day + 1, 8 + n, tzinfo=UTC) for day in range(DAYS)]
        day = pl.Series("event_date", [t.date() for t in at])
        if layer == "gold":
            return pl.DataFrame({"event_date": day, "sales": [1] * DAYS, "euros": [10] * DAYS})
        return pl.DataFrame({"sold_at": at, "euros": [10] * DAYS, "event_date": day})

    for n in range(COMMITS):
        for source in catalog.sources:
            assert isinstance(source, FileSource)
            file = zone / source.name / f"{n}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{r['sold_at'].isoformat()},10,{source.name}" for r in rows("bronze", n).to_dicts()]
            file.write_text("\n".join(["sold_at,euros,shop", *lines, f"never,1,{source.name}-{n}"]) + "\n")
            os.utime(file, (0, 0))  # complete long ago
            run = Run.now(f"intake-{n}")
            seen = landing_scan.scan_landing_zone(zone, [source], run.at, 0).claimed[source.name]
            intake(landing_zone.landed_files(source, zone, seen, lake, run), lake, run)
        for made in catalog.in_order:
            new = rows(made.layer, n)
            target = lake.ensure(made.name, new.to_arrow().schema, ["event_date"])
            position = {u: {UNPARTITIONED: lake.version(u)} for u in made.upstream_names}
            record = CommitRecord(
                verb="refresh",
                run_id=f"refresh-{n}",
                at=datetime.now(UTC).isoformat(),
                counts=Counts(read=new.height, written=new.height),
                position={**position, CODE: {UNPARTITIONED: code_version(made)}},
                sequence=next_sequence(target),
            )
            polars_writer.append_rows(target, new, record, {})


if sources := int(os.environ.get("MEDALLION_TEST_MANY", "0")):
    catalog = catalog_of(sources)

if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
