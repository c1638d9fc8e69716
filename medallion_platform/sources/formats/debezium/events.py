"""Debezium change events as a format: its options, and which expectations apply to which events."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import polars as pl

from medallion_platform.contracts import options
from medallion_platform.contracts.contract import (
    Contract,
    Expectation,
    IsType,
    NamesFolder,
    NotNull,
    Severity,
)
from medallion_platform.sources.formats.debezium.parser import DebeziumParser
from medallion_platform.sources.formats.debezium.source_position import OPEN
from medallion_platform.sources.formats.debezium.values import UNTOLD
from medallion_platform.sources.formats.text import TextFormat

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

CHANGE: Mapping[str, PolarsDataType] = MappingProxyType(
    {
        "_op": pl.String,
        "_sequence": pl.String,
        "_changed_at": pl.Datetime("us", "UTC"),
        "_snapshot": pl.Boolean,
    }
)
"""What a change event says of itself, in the bronze tables of Debezium sources."""

_IMAGE_OPS = ("c", "u", "r")
_NO_VALUE = b"null"


@dataclass(frozen=True)
class Debezium(TextFormat, kind="debezium"):
    """Debezium change events: one JSON envelope per line, with or without its schema.

    Example:
        >>> from medallion_platform import Debezium
        >>> Debezium(key=("branch", "customer_id")).key
        ('branch', 'customer_id')
    """

    key: tuple[str, ...] = ("id",)
    """The columns that identify a row of the captured table."""
    encoding: str = "utf-8"
    """The encoding of the text; a byte order mark in a file takes precedence."""
    unavailable_value_placeholder: str = UNTOLD
    """The connector's property of that name: its placeholder for a value that an update did not change."""

    suffixes = (".jsonl", ".ndjson", ".json")
    of_messages = True
    facts: ClassVar[Mapping[str, PolarsDataType]] = CHANGE

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", options.texts("Debezium key", self.key))
        super().__post_init__()

    def contradiction(self, contract: Contract) -> str | None:
        """Why the declared key contradicts the contract, or the contract's the changes; None if none does."""
        if not self.key:
            return "Debezium names no key: no change could be told from another row's"
        if missing := [c for c in self.key if c not in contract.by_name]:
            known = f"{contract.name} knows {', '.join(contract.by_name)}"
            return f"Debezium's key {missing[0]!r} is in no contract: {known}"
        if contract.key and set(contract.key) <= set(self.key):
            key = ", ".join(contract.key)
            return (
                f"by the key {key} of {contract.name} only the first change of a row would be kept, and the "
                "others count as duplicates: declare no key in a contract of change events"
            )
        return None

    def parser(self, declared: Collection[str] = (), columns: Sequence[str] | None = None) -> DebeziumParser:
        """A parser of one file."""
        return DebeziumParser(declared, self.unavailable_value_placeholder)

    def of_keyed(self, values: Sequence[bytes | None], keys: pl.Series) -> Sequence[bytes | None]:
        """Tombstones are records, and a delete without a row gets the message's key instead."""
        return [
            _NO_VALUE if v is None else add_message_key(v, key)
            for v, key in zip(values, keys.to_list(), strict=True)
        ]

    def expected(self, frame: pl.DataFrame, contract: Contract) -> list[tuple[pl.DataFrame, Contract]]:
        """For an event with a row, what is expected of its values; for a delete, its key; else only types."""
        frame = _change_columns(frame)
        image, deleted = pl.col("_op").is_in(_IMAGE_OPS), pl.col("_op") == "d"
        return [
            *_group_by_missing_values(frame.filter(image), contract),
            (frame.filter(deleted), key_contract(contract, self.key)),
            (frame.filter(~image & ~deleted), key_contract(contract, ())),
        ]


def add_message_key(value: bytes, key: bytes | None) -> bytes:
    """A delete event without a row gets the message's key instead; other events are unchanged."""
    if key is None or b'"d"' not in value:
        return value
    try:
        event, told = json.loads(value), json.loads(key)
        inner = event["payload"] if "payload" in event and "op" not in event else event
        told = told.get("payload", told)
        if inner["op"] != "d" or inner.get("before") is not None or not isinstance(told, dict):
            return value
        if inner["source"].get("connector") == "mongodb":
            # The key tells an id as JSON, the document is JSON in a text.
            told = json.dumps({"_id": json.loads(told["id"])})
        inner["before"] = told
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return value


def _change_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns of a change event itself, cast to their types; its offset replaces a missing position."""
    return frame.with_columns(
        pl.col("_changed_at").str.to_datetime(
            "%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC", strict=False
        ),
        pl.col("_snapshot") == "true",
        pl.when(pl.col("_sequence").str.ends_with(OPEN))
        .then(pl.col("_sequence") + pl.col("_offset").cast(pl.String).str.zfill(20))
        .otherwise(pl.col("_sequence"))
        .alias("_sequence"),
    )


def _group_by_missing_values(frame: pl.DataFrame, contract: Contract) -> list[tuple[pl.DataFrame, Contract]]:
    """Rows grouped by their missing values, each group with the contract for the other columns."""
    texts = [c for c in contract.column_names if frame.schema.get(c) == pl.String]
    texts = [c for c in texts if (frame[c] == UNTOLD).any()]
    if not texts:
        return [(frame, contract)]
    parts: list[tuple[pl.DataFrame, Contract]] = []
    marked = frame.with_columns(pl.concat_str(*(pl.col(c).eq_missing(UNTOLD) for c in texts)).alias(_MARK))
    for part in marked.partition_by(_MARK, maintain_order=True):
        left = {c for c in texts if part[c][0] == UNTOLD}
        told = tuple(
            e for e in contract.expectations if isinstance(e.test, IsType) or left.isdisjoint(e.columns)
        )
        parts.append((part.drop(_MARK), replace(contract, expectations=told)))
    return parts


_MARK = "_untold"


def key_contract(contract: Contract, key: Sequence[str]) -> Contract:
    """The contract of an event without a row: it only requires the types and the key.

    A delete has only the columns of the source's replica identity; a truncate, a message, and the tombstone
    after a delete have no row and no key.
    """
    columns = tuple(replace(c, nullable=True) for c in contract.columns)
    types = [e for e in contract.expectations if isinstance(e.test, IsType | NamesFolder)]
    there = [
        Expectation(f"{name}: not null", (name,), Severity.REJECT, NotNull())
        for name in key
        if name in contract.by_name
    ]
    return replace(contract, columns=columns, expectations=(*types, *there))
