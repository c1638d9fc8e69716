"""Rows of a table as of a version or an instant, fit to be shown: personal data is masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medallion_platform.contracts.masking import shown_lean

if TYPE_CHECKING:
    import polars as pl

    from medallion_platform.contracts.contract import Contract
    from medallion_platform.lakehouse.lake import Lake


def preview(
    lake: Lake, contract: Contract, table: str, rows: int, version: int | None = None
) -> pl.DataFrame | None:
    """Some rows, the columns of the contract only: what nobody declared may be personal as well.

    None where the table does not exist.
    """
    import polars as pl

    found = lake.open(table, version)
    if found is None:
        return None
    scan = pl.scan_delta(found)
    there = set(scan.collect_schema().names())
    columns = [
        shown_lean(pl.col(c), contract.pii[c], contract.column(c).protect).alias(c)
        if c in contract.pii
        else pl.col(c)
        for c in contract.column_names
        if c in there
    ]
    return scan.select(columns).head(rows).collect()
