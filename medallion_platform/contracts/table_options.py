"""The options of a model that are about the whole table: key, event time, partitions, rules over rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from medallion_platform.contracts.contract import (
    EVENT_DATE,
    Column,
    Contract,
    ContractError,
    Expectation,
    NamesFolder,
    Severity,
    Sql,
    Unique,
)
from medallion_platform.contracts.expectations_in_words import name_of
from medallion_platform.contracts.folders import longest_partition_value
from medallion_platform.contracts.options import printable
from medallion_platform.contracts.sql import SqlError, columns_in_sql
from medallion_platform.errors import DeclarationError

TABLE_OPTIONS = (
    "key",
    "event_time",
    "partitioned_by",
    "watermark",
    "row_count_column",
    "rows",
    "unique_severity",
    "tolerated_share",
)


@dataclass(frozen=True)
class RowRule:
    """An expectation over several columns of a row, as declared."""

    sql: str
    severity: str = "reject"


class TableOptions:
    """The options of the whole table. What a method reads raises a `ContractError` if it means nothing."""

    def __init__(self, model: str, columns: Mapping[str, Column], options: Mapping[str, Any]) -> None:
        self.model = model
        self.columns = columns
        self.options = options

    def error(self, field: str | None, reason: str) -> ContractError:
        """An error that names an option or a column."""
        return ContractError(self.model, field, reason)

    def _column(self, option: str, name: Any) -> Column:
        if not isinstance(name, str) or name not in self.columns:
            raise self.error(option, f"unknown column {name!r}")
        return self.columns[name]

    def _list(self, option: str) -> tuple[str, ...]:
        told = self.options.get(option) or ()
        if not isinstance(told, Iterable):
            raise self.error(option, f"{told!r} names no column")
        names = (told,) if isinstance(told, str) else tuple(cast(Iterable[str], told))
        if len(set(names)) != len(names):
            raise self.error(option, "names a column twice")
        return names

    def key(self) -> tuple[str, ...]:
        """The columns that identify a row."""
        names = self._list("key")
        for name in names:
            if self._column("key", name).nullable:
                raise self.error("key", f"column {name!r} may be null")
        return names

    def event_time(self) -> str | None:
        """The column with the time of the event."""
        name = self.options.get("event_time")
        if name is None:
            return None
        column = self._column("event_time", name)
        if column.type.kind not in ("timestamp", "date"):
            raise self.error("event_time", f"column {name!r} is a {column.type}")
        return column.name

    def partitioned_by(self) -> tuple[str, ...]:
        """The columns that part the table."""
        names = self._list("partitioned_by")
        for name in names:
            if name == EVENT_DATE and name not in self.columns:
                if self.event_time() is None:
                    raise self.error("partitioned_by", f"{EVENT_DATE} needs an event_time")
                continue
            if self._column("partitioned_by", name).type.kind in ("float", "double"):
                raise self.error("partitioned_by", f"column {name!r} is a floating number")
        return names

    def partitions(self) -> Iterator[Expectation]:
        """Of a text that parts the table, that it can name a folder."""
        for name in self.partitioned_by():
            if name in self.columns and self.columns[name].type.kind == "string":
                test = NamesFolder(longest_partition_value(name))
                told = name_of(test, name, self.columns[name].type)
                yield Expectation(told, (name,), Severity.REJECT, test)

    def watermark(self) -> timedelta | None:
        """How far back duplicates are searched for."""
        told = self.options.get("watermark")
        if told is None:
            return None
        if not isinstance(told, timedelta) or told <= timedelta(0):
            raise self.error("watermark", f"{told!r} is not a positive timedelta")
        if self.options.get("event_time") is None or not self.options.get("key"):
            raise self.error("watermark", "needs a key and an event_time")
        return told

    def row_count_column(self) -> str | None:
        """The column that counts the source rows of an aggregate."""
        name = self.options.get("row_count_column")
        if name is None:
            return None
        column = self._column("row_count_column", name)
        if column.type.kind not in ("integer", "long"):
            raise self.error("row_count_column", f"column {name!r} is a {column.type}, not a count")
        return column.name

    def tolerated_share(self) -> float:
        """The share of bad rows above which a check warns."""
        told = self.options.get("tolerated_share", Contract.tolerated_share)
        if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told <= 1:
            raise self.error("tolerated_share", f"{told!r} is no share from 0 to 1")
        return float(told)

    def unique(self, told: Any) -> Iterator[Expectation]:
        """That no two rows have the same values in the columns of `Config.unique`."""
        if not told:
            if "unique_severity" in self.options:
                raise self.error("unique_severity", "is of Config.unique, which names no column")
            return
        names = (told,) if isinstance(told, str) else tuple(cast(Iterable[str], told))
        for name in names:
            self._column("Config.unique", name)
        severity = self._severity("unique", self.options.get("unique_severity", "reject"))
        listed = ", ".join(names)
        yield Expectation(f"unique by {listed}", names, severity, Unique(), f"unique({listed})")

    def rows(self) -> Iterator[Expectation]:
        """The rules in SQL over a row."""
        told = self.options.get("rows") or {}
        if not isinstance(told, Mapping):
            raise self.error("rows", "is a mapping from a name to expect('...')")
        for name, rule in cast(Mapping[str, Any], told).items():
            try:
                printable("the name of a rule", name)
            except DeclarationError as error:
                raise self.error("rows", str(error)) from None
            if isinstance(rule, str):
                rule = RowRule(rule)
            if not isinstance(rule, RowRule):
                raise self.error(name, f"{rule!r} is neither SQL nor expect('...')")
            try:
                columns = columns_in_sql(rule.sql, self.columns)
            except SqlError as error:
                raise self.error(name, f"{rule.sql!r}: {error}") from None
            yield Expectation(name, columns, self._severity(name, rule.severity), Sql(rule.sql))

    def _severity(self, name: str, word: Any) -> Severity:
        try:
            return Severity(word)
        except ValueError:
            raise self.error(name, f"unknown severity {word!r}; known are reject, warn, fail") from None
