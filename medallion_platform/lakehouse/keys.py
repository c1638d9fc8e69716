"""The keys of a table, for a writer that searches them again and again for duplicates.

The keys of a data file never change. So each file is read once and remembered as the sorted hashes of its
keys (8 bytes per row); only a file with a matching hash is opened again, to compare the keys themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import files_of, path_of
from medallion_platform.storage import options

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

MOST_ROWS = 20_000_000
"""Rows whose hashes are kept, 160 MB; a file beyond that is read anew each time."""

MOST_FILES = 10_000
"""Files that are remembered, those that were merged since included."""

Hashes = npt.NDArray[np.uint64]


class Keys:
    """The keys of one table's rows, at whatever version is asked for."""

    def __init__(self) -> None:
        self._files: dict[str, Hashes] = {}

    def rows(
        self,
        table: DeltaTable,
        wanted: pl.DataFrame,
        may_hold: Callable[[FileEntry], bool],
        also: Sequence[str] = (),
    ) -> pl.DataFrame:
        """The rows of the table with a key of `wanted`: its columns and `also`.

        may_hold: whether a data file, by its line of `files_of`, may hold such rows at all.
        """
        import polars as pl

        key = wanted.columns
        kinds = pl.scan_delta(table).select(*dict.fromkeys([*key, *also])).collect_schema()
        asked = wanted.unique().cast({c: kinds[c] for c in key})  # type: ignore[arg-type]
        hashes = np.sort(_hashes(asked))
        found = [pl.DataFrame(schema=kinds)]
        files = [file for file in files_of(table) if may_hold(file)]
        self._forget_all_but({file["path"] for file in files})
        for file in files:
            if self._holds(table, file, kinds, key, hashes):
                found.append(_read(table, file, kinds).join(asked, on=key, how="semi", nulls_equal=True))
        return pl.concat(found)

    def _holds(
        self, table: DeltaTable, file: FileEntry, kinds: pl.Schema, key: Sequence[str], hashes: Hashes
    ) -> bool:
        """Whether any of the hashes is one of the file's."""
        known = self._files.get(file["path"])
        if known is None:
            known = np.sort(_hashes(_read(table, file, kinds).select(key)))
            if self._kept + known.size <= MOST_ROWS:
                self._files[file["path"]] = known
        if not known.size:
            return False
        few, many = (hashes, known) if hashes.size < known.size else (known, hashes)
        places = np.minimum(np.searchsorted(many, few), many.size - 1)
        return bool((many[places] == few).any())

    @property
    def _kept(self) -> int:
        return sum(hashes.size for hashes in self._files.values())

    def _forget_all_but(self, asked: set[str]) -> None:
        """Make room by what is not asked for now, where half of it is taken."""
        if self._kept > MOST_ROWS // 2 or len(self._files) > MOST_FILES:
            self._files = {path: hashes for path, hashes in self._files.items() if path in asked}


def _hashes(keys: pl.DataFrame) -> Hashes:
    return keys.hash_rows(seed=0).to_numpy()


def _read(table: DeltaTable, file: FileEntry, kinds: pl.Schema) -> pl.DataFrame:
    """The columns of one data file; null where it is older than a column."""
    import polars as pl

    partition = {c: file.get(f"partition.{c}") for c in kinds if f"partition.{c}" in file}
    inside = {c: k for c, k in kinds.items() if c not in partition}
    root = path_of(table)
    rows = pl.scan_parquet(
        f"{root}/{file['path']}",
        schema=inside or None,
        missing_columns="insert",
        extra_columns="ignore",
        hive_partitioning=False,
        glob=False,
        storage_options=options(root),
        cast_options=pl.ScanCastOptions(datetime_cast=["nanosecond-downcast", "convert-timezone"]),
    )
    told = [pl.lit(value).cast(kinds[c]).alias(c) for c, value in partition.items()]
    return rows.with_columns(told).select(list(kinds)).collect()
