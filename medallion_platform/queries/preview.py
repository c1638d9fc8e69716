"""Rows of a table at a version or time, with personal data masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medallion_platform.contracts import shapes
from medallion_platform.contracts.masking import shown_polars

if TYPE_CHECKING:
    import polars as pl

    from medallion_platform.contracts.contract import Contract
    from medallion_platform.lakehouse.lake import Lake


def preview(
    lake: Lake, contract: Contract, table: str, rows: int, version: int | None = None
) -> pl.DataFrame | None:
    """Some rows: the columns of the contract, then the undeclared ones; none of ours (`_...`).

    What looks personal in undeclared text is masked: nobody said that it is not. None where the table does
    not exist.
    """
    import polars as pl

    found = lake.open(table, version)
    if found is None:
        return None
    there = [c for c in pl.scan_delta(found).collect_schema() if not c.startswith("_")]
    declared = [c for c in contract.column_names if c in there]
    wanted = declared + [c for c in there if c not in contract.by_name]
    # By selectors, for which no name is a pattern.
    head = pl.scan_delta(found).select(pl.selectors.by_name(wanted)).head(rows).collect()
    return pl.DataFrame([_shown(head[c], contract) for c in wanted])


def _shown(values: pl.Series, contract: Contract) -> pl.Series:
    """A column as it may be seen."""
    import polars as pl

    name = values.name
    if name in contract.pii:
        return (
            values.to_frame("v")
            .select(shown_polars(pl.col("v"), contract.pii[name], contract.column(name).protect))
            .to_series()
            .alias(name)
        )
    if name not in contract.by_name and values.dtype == pl.String:
        return values.map_elements(shapes.masked, return_dtype=pl.String)
    return values
