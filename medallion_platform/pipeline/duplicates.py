"""Which rows of a batch are there already: the same key, within the watermark, first one wins.

Without a watermark any earlier row with the key makes a later one a duplicate. With one, only a row
whose event time lies at most that far from an accepted one: a key that comes again after the
watermark is a new event, as in Spark's `dropDuplicatesWithinWatermark`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.contracts.contract import EVENT_DATE, Contract
from medallion_platform.lakehouse import lean

if TYPE_CHECKING:
    from deltalake import DeltaTable


def duplicates(
    batch: pl.DataFrame, contract: Contract, table: DeltaTable, key: Sequence[str] | None = None
) -> pl.Series:
    """A Boolean per row of `batch` (in arrival order): whether an accepted row is the same.

    table: the bronze table at the version that the batch will be appended to. key: the contract's
    unless given.
    """
    key = list(contract.key if key is None else key)
    none = pl.Series("duplicate", [False], dtype=pl.Boolean).new_from_index(0, batch.height)
    if not key or batch.is_empty():
        return none
    time = contract.event_time if contract.watermark else None
    # Under a name of its own: the time may be part of the key.
    also = [pl.col(time).alias("_time")] if time else []
    there = lean.key_rows(table, key, _bounds(batch, contract, key), [time] if time else [])
    existing = there.select(*key, *also)
    repeated = batch.select(pl.struct(key).is_duplicated()).to_series()
    if not existing.is_empty():
        held = existing.select(key).unique()
        indexed = batch.select(key).with_row_index("_i")
        hits = indexed.join(held, on=key, how="semi", nulls_equal=True)["_i"]
        repeated = repeated | pl.Series(range(batch.height)).is_in(hits.implode())
    if not repeated.any():
        return none
    suspects = batch.select(*key, *also).with_row_index("_i").filter(repeated)
    accepted: dict[tuple[object, ...], list[datetime | None]] = {}
    for row in existing.join(suspects.select(key).unique(), on=key, how="semi").iter_rows():
        accepted.setdefault(row[: len(key)], []).append(row[len(key)] if time else None)
    twice = [
        row[0]
        for row in suspects.iter_rows()
        if not _accept(
            accepted.setdefault(row[1 : len(key) + 1], []),
            row[len(key) + 1] if time else None,
            contract.watermark,
        )
    ]
    return pl.Series("duplicate", range(batch.height)).is_in(pl.Series(twice, dtype=pl.Int64).implode())


def _accept(accepted: list[datetime | None], time: datetime | None, watermark: timedelta | None) -> bool:
    """Whether a row with these accepted predecessors is a new one; if so it becomes accepted."""
    if watermark is None or time is None:
        new = not accepted
    else:
        new = all(a is None or abs(time - a) > watermark for a in accepted)
    if new:
        accepted.append(time)
    return new


def _bounds(batch: pl.DataFrame, contract: Contract, key: Sequence[str]) -> dict[str, tuple[object, object]]:
    """Value ranges that hold every row which could be the same as one of the batch.

    With a watermark the event time bounds the search; without, the key columns themselves do.
    """
    if contract.watermark and contract.event_time:
        times = batch[contract.event_time]
        low, high = times.min(), times.max()
        assert isinstance(low, datetime)
        assert isinstance(high, datetime)
        bounds = (_shifted(low, -contract.watermark), _shifted(high, contract.watermark))
        found: dict[str, tuple[object, object]] = {contract.event_time: bounds}
        if EVENT_DATE in contract.partitioned_by:
            found[EVENT_DATE] = (bounds[0].date(), bounds[1].date())
        return found
    return {column: (batch[column].min(), batch[column].max()) for column in _orderable(batch, key)}


def _shifted(time: datetime, by: timedelta) -> datetime:
    """A time earlier or later; the first or last one there is, where that lies beyond it."""
    try:
        return time + by
    except OverflowError:
        return (datetime.max if by > timedelta() else datetime.min).replace(tzinfo=time.tzinfo)


def _orderable(batch: pl.DataFrame, key: Iterable[str]) -> list[str]:
    return [
        c
        for c in key
        if batch[c].null_count() == 0 and (batch[c].dtype.is_integer() or batch[c].dtype == pl.String)
    ]
