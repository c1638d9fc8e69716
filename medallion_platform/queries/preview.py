"""Rows of a table at a version or time, with personal data masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medallion_platform.contracts import personal_data_shapes
from medallion_platform.contracts.masking import mask_for_display
from medallion_platform.lakehouse import polars_writer
from medallion_platform.lakehouse.lake import files_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    from deltalake import DeltaTable

    from medallion_platform.contracts.contract import Contract
    from medallion_platform.lakehouse.delta_log import FileEntry
    from medallion_platform.lakehouse.lake import Lake


def preview_rows(
    lake: Lake, contract: Contract, table: str, rows: int, version: int | None = None
) -> pl.DataFrame | None:
    """Some rows: the columns of the contract, then the undeclared ones, without the platform's own (`_...`).

    They are in order of partition and key; which ones of a big table is left to chance. What looks personal
    in undeclared text is masked: nobody said that it is not. None where the table does not exist.
    """
    import polars as pl

    found = lake.open(table, version)
    if found is None:
        return None
    there = [c for c in pl.scan_delta(found).collect_schema() if not c.startswith("_")]
    declared = [c for c in contract.column_names if c in there]
    wanted = declared + [c for c in there if c not in contract.by_name]
    scan = polars_writer.scan_rows(found, _first_files(found, rows))
    # By selectors, for which no name is a pattern.
    head = scan.select(pl.selectors.by_name(wanted)).head(rows).collect()
    order = [c for c in dict.fromkeys((*contract.partitioned_by, *contract.key)) if c in head.columns]
    head = head.sort(order, maintain_order=True) if order else head
    return pl.DataFrame([_masked_column(head[c], contract) for c in wanted])


def _first_files(table: DeltaTable, rows: int) -> Iterator[FileEntry]:
    """The files that are read for the first rows of a table."""
    for file in files_of(table):
        if rows <= 0:
            return
        yield file
        rows -= file["num_records"] or 0


def _masked_column(values: pl.Series, contract: Contract) -> pl.Series:
    """A column with masked personal data."""
    import polars as pl

    name = values.name
    if name in contract.pii:
        return (
            values.to_frame("v")
            .select(mask_for_display(pl.col("v"), contract.pii[name], contract.column(name).protect))
            .to_series()
            .alias(name)
        )
    if name not in contract.by_name and values.dtype == pl.String:
        return values.map_elements(personal_data_shapes.masked, return_dtype=pl.String)
    return values
