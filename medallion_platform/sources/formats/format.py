"""What every format answers: the one interface between what came and the records of a frame.

A frame of records has the columns `_row` (Int64, counted from 1), `_payload` (the record's exact text),
`_payload_bytes` (Binary: the record as it came where it does not decode, and `_payload` is null), and
`_malformed` (why it does not parse, else null), then one for each field. Where more is to be told of a
record, `records.CODE` and `DETAIL` tell it; where the fields are too many for a frame, it has all that are
declared, and `records.FURTHER` has the rest.
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
    """How records stand in files or in messages.

    A kind of format is a frozen dataclass whose fields are its options, in a module of its own. It reads
    files (`read`), single records (`parse`), or both; whatever else is here has an answer that fits most.

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
        """What its options say that has no meaning for a contract; None where all is well."""
        return None

    def read(
        self, path: Path, first_row: int = 1, declared: Collection[str] = (), block: int = BLOCK
    ) -> Iterator[pl.DataFrame]:
        """The records of a file from number `first_row` on, in frames of about `block` bytes each.

        Raises:
            LostFile: the file cannot be opened, or is gone; its records are taken up where this was.
            UnreadableFile: its content is damaged; it is kept whole, in quarantine. Of a compressed file,
                or one smaller than a block, before any frame.
        """
        raise TypeError(f"{self.kind} is read from messages, not from files")

    def read_header(self, path: Path) -> tuple[str, ...] | None:
        """The names of a file's fields, where it says so before its first record.

        Raises:
            UnreadableFile: the file cannot be read, or has no header that can be one.
        """
        return None

    def not_its_header(self, header: Sequence[str], contract: Contract) -> str | None:
        """Why a file with this header is another source's; None where it may be this one's."""
        return other_header(header, ",", contract.column_names)

    def parse(
        self, records: Sequence[bytes], columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Records as they came, one row for each; columns: the fields' names, as `read_header` told them.

        Raises:
            Unavailable: what it takes to read them cannot be reached now.
        """
        raise TypeError(f"{self.kind} is read from files, not record by record")

    def parse_again(
        self, payloads: pl.Series, columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """The same of payloads that were stored: `_payload` (String), or `_payload_bytes` (Binary)."""
        return self.parse(payloads.cast(pl.Binary).fill_null(b"").to_list(), columns, declared)

    def of_keyed(self, values: Sequence[bytes | None], keys: pl.Series) -> Sequence[bytes | None]:
        """Messages as records, by their values and keys; None where one has no value and means nothing."""
        return values

    def expected(self, frame: pl.DataFrame, contract: Contract) -> list[tuple[pl.DataFrame, Contract]]:
        """Records in parts, each with what is expected of it."""
        return [(frame, contract)]

    def payloads(self, rows: pl.DataFrame) -> pl.Series:
        """What dead letters keep of records, as bytes."""
        kept = pl.coalesce(pl.col("_payload_bytes"), pl.col("_payload").cast(pl.Binary))
        return rows.select(kept.alias("payload")).to_series()

    @property
    def stored(self) -> Format:
        """The format of what `payloads` gives."""
        return self


FORMATS = Kinds[Format]("medallion_platform.formats", "medallion_platform.sources.formats")


def other_header(names: Sequence[str], delimiter: str, wanted: Collection[str]) -> str | None:
    """Why a header that shares no name with the `wanted` columns is none; None where it shares one. Pure."""
    if set(wanted) & set(names):
        return None
    seen = delimiter.join(names)
    shown = seen if len(seen) <= _SHOWN else seen[: _SHOWN - 3] + "..."
    said = f"header: none of its fields is a column of the contract ({shown!r})"
    for other in _DELIMITERS:
        if other != delimiter and set(wanted) & {name.strip().strip('"') for name in seen.split(other)}:
            return f"{said}: are fields delimited by {other!r}?"
    if {name.lower() for name in wanted} & {name.lower() for name in names}:
        return f"{said}: names differ by upper and lower case"
    return f"{said}: has the file no header, or is it another source's?"
