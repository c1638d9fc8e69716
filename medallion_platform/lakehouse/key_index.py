"""The keys of a table, for a writer that searches them again and again for duplicates.

The keys of a data file never change. So each file is read once and remembered as the sorted hashes of its
keys (8 bytes per row); only a file with a matching hash is opened again, to compare the keys themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medallion_platform.lakehouse.damaged_files import verify_file_ends
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import files_of, path_of
from medallion_platform.lakehouse.polars_writer import scan_data_files

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

MOST_ROWS = 20_000_000
"""Rows whose hashes are kept, 160 MB; a file beyond that is read anew each time."""

MOST_FILES = 10_000
"""Files that are remembered, those that were merged since included."""

Hashes = npt.NDArray[np.uint64]


class Keys:
    """The keys of one table's rows, at any version."""

    def __init__(self) -> None:
        self._files: dict[str, Hashes] = {}

    def rows(
        self,
        table: DeltaTable,
        wanted: pl.DataFrame,
        may_hold: Callable[[FileEntry], bool],
        also: Sequence[str] = (),
    ) -> pl.DataFrame:
        """The rows of the table whose key is in `wanted`, with its columns and `also`.

        may_hold: whether a data file, given its row of `files_of`, may contain such rows at all.

        Raises:
            DamagedFile: such a file is missing, or its end is damaged.
        """
        import polars as pl

        key = wanted.columns
        kinds = pl.scan_delta(table).select(*dict.fromkeys([*key, *also])).collect_schema()
        asked = wanted.unique().cast({c: kinds[c] for c in key})  # type: ignore[arg-type]
        hashes = np.sort(_hash_keys(asked))
        found = [pl.DataFrame(schema=kinds)]
        files = [file for file in files_of(table) if may_hold(file)]
        self._make_room({file["path"] for file in files})
        verify_file_ends(table, [file for file in files if file["path"] not in self._files])
        matching = [file for file in files if self._may_hold_any(table, file, kinds, key, hashes)]
        verify_file_ends(table, matching)  # what is remembered may have been read long ago
        for file in matching:
            found.append(_read_columns(table, file, kinds).join(asked, on=key, how="semi", nulls_equal=True))
        return pl.concat(found)

    def _may_hold_any(
        self, table: DeltaTable, file: FileEntry, kinds: pl.Schema, key: Sequence[str], hashes: Hashes
    ) -> bool:
        """Whether the file has any of these hashes."""
        known = self._files.get(file["path"])
        if known is None:
            known = np.sort(_hash_keys(_read_columns(table, file, kinds).select(key)))
            if self._hashes_in_memory + known.size <= MOST_ROWS:
                self._files[file["path"]] = known
        if not known.size:
            return False
        few, many = (hashes, known) if hashes.size < known.size else (known, hashes)
        places = np.minimum(np.searchsorted(many, few), many.size - 1)
        return bool((many[places] == few).any())

    @property
    def _hashes_in_memory(self) -> int:
        return sum(hashes.size for hashes in self._files.values())

    def _make_room(self, asked: set[str]) -> None:
        """Drop hashes that are not needed now, if more than half of the memory is used."""
        if self._hashes_in_memory > MOST_ROWS // 2 or len(self._files) > MOST_FILES:
            self._files = {path: hashes for path, hashes in self._files.items() if path in asked}


def _hash_keys(keys: pl.DataFrame) -> Hashes:
    return keys.hash_rows(seed=0).to_numpy()


def _read_columns(table: DeltaTable, file: FileEntry, kinds: pl.Schema) -> pl.DataFrame:
    """These columns of one data file; null for columns that are newer than the file."""
    import polars as pl

    partition = {c: file.get(f"partition.{c}") for c in kinds if f"partition.{c}" in file}
    inside = {c: k for c, k in kinds.items() if c not in partition}
    rows = scan_data_files(path_of(table), [file["path"]], inside)
    constants = [pl.lit(value).cast(kinds[c]).alias(c) for c, value in partition.items()]
    return rows.with_columns(constants).select(list(kinds)).collect()
