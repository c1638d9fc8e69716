"""The interface of every format: how files and messages become frames of records.

A frame of records has the columns `_row` (Int64, counted from 1), `_payload` (the exact text of the record),
`_payload_bytes` (Binary: the original bytes if the record cannot be decoded; then `_payload` is null), and
`_malformed` (why it cannot be parsed, else null), then one column per field. `records.CODE` and `DETAIL` say
more about a record, where there is more to say. If a frame would have too many fields, it has the declared
ones, and `records.FURTHER` has the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from medallion_platform.contracts.contract import Contract
from medallion_platform.sources.kinds import Kinds

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

BLOCK = 4 * 2**20
"""Bytes of text taken at once: what fits a processor's cache is read fastest."""

_DELIMITERS = (",", ";", "\t", "|", ":", "^", "~", "\x1f")
_SHOWN = 80


@dataclass(frozen=True)
class Format:
    """The format of records in files or messages.

    A kind of format is a frozen dataclass with its options as fields, in a module of its own. It reads files
    (`read`), single records (`parse`), or both; the other methods have defaults that fit most formats.

    Example:
        >>> from medallion_platform import Csv, Format, Parquet
        >>> [(made.kind, issubclass(made, Format)) for made in (Csv, Parquet)]
        [('csv', True), ('parquet', True)]
    """

    kind: ClassVar[str] = ""
    """Its name among the formats."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """How its files mostly end, without what a compression adds; empty where it is not read from files."""
    compressions: ClassVar[tuple[str, ...]] = ()
    """What may stand behind these: compressions of whole files, which are told by the content."""
    of_messages: ClassVar[bool] = False
    """Whether a record can be read by itself, as a message is."""
    needs_header: ClassVar[bool] = False
    """Whether a record does not name its fields, so that a stored one is read by its file's `read_header`."""
    facts: ClassVar[Mapping[str, PolarsDataType]] = MappingProxyType({})
    """Columns that it tells beside the fields, with their types in Polars."""

    def __init_subclass__(cls, kind: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        if kind:
            cls.kind = kind
            FORMATS.register(kind, cls)

    def contradiction(self, contract: Contract) -> str | None:
        """Why its options contradict a contract; None if they do not."""
        return None

    def read(
        self, path: Path, first_row: int = 1, declared: Collection[str] = (), block: int = BLOCK
    ) -> Iterator[pl.DataFrame]:
        """The records of a file from number `first_row` on, in frames of about `block` bytes each.

        Raises:
            LostFile: the file cannot be opened, or is gone; its records can be continued from here later.
            UnreadableFile: its content is damaged; it is copied to quarantine. Raised before any frame for
                compressed files and for files smaller than a block.
        """
        raise TypeError(f"{self.kind} is read from messages, not from files")

    def read_header(self, path: Path) -> tuple[str, ...] | None:
        """The names of a file's fields, if they are stored before its first record.

        Raises:
            UnreadableFile: the file cannot be read, or has no valid header.
        """
        return None

    def not_its_header(self, header: Sequence[str], contract: Contract) -> str | None:
        """Why a file with this header belongs to another source; None if it may belong to this one."""
        return other_header_reason(header, ",", contract.column_names)

    def parse(
        self, records: Sequence[bytes], columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Records in their original form, one row each; columns: the field names from `read_header`.

        Raises:
            Unavailable: something that is needed to read them cannot be reached now.
        """
        raise TypeError(f"{self.kind} is read from files, not record by record")

    def parse_again(
        self, payloads: pl.Series, columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """The same for stored payloads: `_payload` (String) or `_payload_bytes` (Binary)."""
        return self.parse(payloads.cast(pl.Binary).fill_null(b"").to_list(), columns, declared)

    def of_keyed(self, values: Sequence[bytes | None], keys: pl.Series) -> Sequence[bytes | None]:
        """Messages as records, from their values and keys; None for a message without a value or meaning."""
        return values

    def expected(self, frame: pl.DataFrame, contract: Contract) -> list[tuple[pl.DataFrame, Contract]]:
        """Records in groups, each with its contract."""
        return [(frame, contract)]

    def payloads(self, rows: pl.DataFrame) -> pl.Series:
        """The bytes of records that dead letters store."""
        payload_bytes = pl.coalesce(pl.col("_payload_bytes"), pl.col("_payload").cast(pl.Binary))
        return rows.select(payload_bytes.alias("payload")).to_series()

    @property
    def stored(self) -> Format:
        """The format of `payloads`."""
        return self


FORMATS = Kinds[Format]("medallion_platform.formats", "medallion_platform.sources.formats")


def other_header_reason(names: Sequence[str], delimiter: str, wanted: Collection[str]) -> str | None:
    """Why a header without any of the `wanted` columns is no header; None if it has one of them. Pure."""
    if set(wanted) & set(names):
        return None
    seen = delimiter.join(names)
    shown = seen if len(seen) <= _SHOWN else seen[: _SHOWN - 3] + "..."
    reason = f"header: none of its fields is a column of the contract ({shown!r})"
    for other in _DELIMITERS:
        if other != delimiter and set(wanted) & {name.strip().strip('"') for name in seen.split(other)}:
            return f"{reason}: are fields delimited by {other!r}?"
    if {name.lower() for name in wanted} & {name.lower() for name in names}:
        return f"{reason}: names differ by upper and lower case"
    return f"{reason}: has the file no header, or is it another source's?"
