"""Which rows of a batch are duplicates: same key, within the watermark; the first one is kept.

Without a watermark any earlier row with the key makes a later one a duplicate. With one, only a row whose
event time is at most that far from an accepted one: a key that repeats after the watermark is a new event, as
in Spark's `dropDuplicatesWithinWatermark`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medallion_platform.contracts.contract import Contract
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.key_index import Keys

if TYPE_CHECKING:
    from deltalake import DeltaTable

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CUT = 1000
"""Microseconds by which a bound may lie too low: some writers keep milliseconds."""


def find_duplicates(
    batch: pl.DataFrame,
    contract: Contract,
    table: DeltaTable,
    key: Sequence[str] | None = None,
    keys: Keys | None = None,
) -> pl.Series:
    """A Boolean per row of `batch` (in arrival order): whether it repeats an accepted row.

    table: the bronze table at the version that the batch will be appended to. key: by default the contract's
    key. keys: the known keys of the table's files, from earlier batches.
    """
    key = list(contract.key if key is None else key)
    none = pl.Series("duplicate", [False], dtype=pl.Boolean).new_from_index(0, batch.height)
    if not key or batch.is_empty():
        return none
    time = contract.event_time if contract.watermark else None
    also = [time] if time else []
    there = (keys or Keys()).rows(table, batch.select(key), _file_filter(batch, contract, key), also)
    # Under a name of its own: the time may be part of the key.
    existing = there.select(*key, *(pl.col(c).alias("_time") for c in also))
    existing = existing.cast({c: batch.schema[c] for c in key}, strict=False)
    repeated = batch.select(pl.struct(key).is_duplicated()).to_series()
    if not existing.is_empty():
        held = existing.select(key).unique()
        indexed = batch.select(key).with_row_index("_i")
        hits = indexed.join(held, on=key, how="semi", nulls_equal=True)["_i"]
        repeated = repeated | pl.Series(range(batch.height)).is_in(hits.implode())
    if not repeated.any():
        return none
    times = [pl.col(c).alias("_time") for c in also]
    suspects = batch.select(*key, *times).with_row_index("_i").filter(repeated)
    accepted: dict[tuple[object, ...], list[datetime | None]] = {}
    for row in existing.join(suspects.select(key).unique(), on=key, how="semi", nulls_equal=True).iter_rows():
        accepted.setdefault(row[: len(key)], []).append(row[len(key)] if time else None)
    twice = [
        row[0]
        for row in suspects.iter_rows()
        if not _accept_if_new(
            accepted.setdefault(row[1 : len(key) + 1], []),
            row[len(key) + 1] if time else None,
            contract.watermark,
        )
    ]
    return pl.Series("duplicate", range(batch.height)).is_in(pl.Series(twice, dtype=pl.Int64).implode())


def _accept_if_new(
    accepted: list[datetime | None], time: datetime | None, watermark: timedelta | None
) -> bool:
    """Whether a row is new, compared with the accepted rows of its key; a new row is added to them."""
    if watermark is None or time is None:
        new = not accepted
    else:
        new = all(a is None or abs(time - a) > watermark for a in accepted)
    if new:
        accepted.append(time)
    return new


def _file_filter(batch: pl.DataFrame, contract: Contract, key: Sequence[str]) -> Callable[[FileEntry], bool]:
    """A function that tells from a data file's statistics whether it may repeat a row of the batch.

    With a watermark it compares event times, without one the whole numbers in the key. Bounds of text are cut
    short in the Delta log, so they cannot be used.
    """
    if contract.watermark and contract.event_time:
        column, within = contract.event_time, contract.watermark // _MICROSECOND
        values = batch[column].cast(pl.Datetime("us", "UTC")).cast(pl.Int64)
    else:
        numbers = [c for c in key if batch[c].dtype.is_integer()]
        column, within = (numbers or [""])[0], 0
        values = batch[column] if column else pl.Series([], dtype=pl.Int64)
    if not column or batch[column].null_count():
        return lambda _: True  # it could be the same as a row of any file
    places = values.sort().to_numpy()

    def may_hold(file: FileEntry) -> bool:
        low, high = file.get(f"min.{column}"), file.get(f"max.{column}")
        if low is None or high is None or file.get(f"null_count.{column}") != 0:
            return True
        begin = np.searchsorted(places, _bound_as_number(low) - within)
        end = np.searchsorted(places, _bound_as_number(high) + within + _CUT, "right")
        return bool(end > begin)

    return may_hold


def _bound_as_number(bound: Any) -> int:
    """A bound as a whole number; a time as microseconds since 1970."""
    if isinstance(bound, date) and not isinstance(bound, datetime):
        bound = datetime.combine(bound, datetime.min.time())
    if isinstance(bound, datetime):
        return (bound.replace(tzinfo=bound.tzinfo or UTC) - _FIRST) // _MICROSECOND
    return int(bound)
