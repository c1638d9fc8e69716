"""The declaration of a silver or gold table: a pure function, its contract and what it is made from.

Everything that happens to a table (refresh, checks, partitions, dead letters, metadata) follows
from this declaration; nothing in here does anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from medallion_platform.contracts.contract import Contract

Recompute = Literal["rows", "partitions", "keys"]


class DeclarationError(ValueError):
    """A table is declared in a way that cannot work; says which table and why."""


@dataclass(frozen=True)
class Unit:
    """The time partition of a table: one value of `column` (a date) is one Dagster partition."""

    column: str
    grain: Literal["day", "week"] = "day"

    def of(self, day: date) -> date:
        """The unit that holds `day`: itself, or the Monday of its week."""
        return day if self.grain == "day" else day - timedelta(days=day.weekday())

    @property
    def days(self) -> int:
        """How many days one unit spans."""
        return 1 if self.grain == "day" else 7


def daily(column: str) -> Unit:
    """One partition a day, by the date column `column`."""
    return Unit(column)


def weekly(column: str) -> Unit:
    """One partition a week, by the date column `column` that holds the week's Monday."""
    return Unit(column, "week")


@dataclass(frozen=True)
class Upstream:
    """A table that another one is made from.

    `back`: how many days before a unit belong to it too (29 for a 30-day window).
    """

    table: str
    back: int = 0


@dataclass(frozen=True)
class Lookup:
    """A history (SCD2) that rows are enriched from, as it stood at each row's event time.

    `key`: the history's column that `by`, the enriched table's column, points to.
    """

    table: str
    key: str
    by: str


@dataclass(frozen=True)
class Table:
    """A silver or gold table.

    recompute: what a change upstream makes anew.
        `rows`        each upstream row gives its own rows: new ones are appended;
        `partitions`  whole units are replaced (the whole table where it has no unit);
        `keys`        all rows of the touched values of `keyed_by` are made anew and merged.
    weighs: SQL over a row of the main upstream that says how many rows it stands for: of `rows`, how many the
        transform makes of it; of `keys`, 0 where it may take its key away; of `partitions`, whose contract
        names a `weight`, how many source rows to count. A refresh that does not add up to these has lost or
        doubled rows, and fails (see `conservation`).
    mask_undeclared: whether e-mail addresses and phone numbers are masked in text that the contract does not
        declare, too (see `contracts.shapes`); without it such text flows on as it came.
    """

    name: str
    contract: Contract
    transform: Callable[..., DataFrame]
    made_from: Mapping[str, Upstream | Lookup]
    recompute: Recompute
    unit: Unit | None = None
    keyed_by: tuple[str, ...] = ()
    cluster_by: tuple[str, ...] = ()
    weighs: str = "1"
    fresh_within: timedelta = timedelta(days=1)
    owner: str | None = None
    mask_undeclared: bool = False

    @cached_property
    def code(self) -> str:
        """All that the transform's result depends on, as it was when this was first asked."""
        from medallion_platform.pipeline.code import text_of

        return text_of(self.transform, ignoring=[table])

    @property
    def layer(self) -> str:
        """`silver` or `gold`."""
        return self.name.partition(".")[0]

    @property
    def description(self) -> str:
        """The docstring of the transform."""
        return inspect.getdoc(self.transform) or ""

    @property
    def main(self) -> tuple[str, Upstream]:
        """The argument and upstream whose rows become this table's rows: the first declared."""
        for argument, upstream in self.made_from.items():
            if isinstance(upstream, Upstream):
                return argument, upstream
        raise DeclarationError(f"{self.name}: made from lookups only; name an upstream table")

    @property
    def upstreams(self) -> dict[str, Upstream]:
        """Argument to upstream table, lookups left out."""
        return {a: u for a, u in self.made_from.items() if isinstance(u, Upstream)}

    @property
    def lookups(self) -> dict[str, Lookup]:
        """Argument to lookup."""
        return {a: u for a, u in self.made_from.items() if isinstance(u, Lookup)}

    @property
    def upstream_names(self) -> tuple[str, ...]:
        """Names of all tables that this one reads."""
        return tuple(dict.fromkeys(u.table for u in self.made_from.values()))


def table(
    name: str,
    *,
    contract: Contract,
    made_from: Mapping[str, Upstream | Lookup | str],
    recompute: Recompute,
    unit: Unit | None = None,
    keyed_by: tuple[str, ...] = (),
    cluster_by: tuple[str, ...] = (),
    weighs: str = "1",
    fresh_within: timedelta = timedelta(days=1),
    owner: str | None = None,
    mask_undeclared: bool = False,
) -> Callable[[Callable[..., DataFrame]], Table]:
    """Declare the decorated transform as a table; a plain string in `made_from` is an Upstream.

    The transform takes one DataFrame per key of `made_from`, by that name, and must be
    deterministic: no clock, no random value.

    Raises:
        DeclarationError: layer, arguments, unit or keys do not fit together.
    """

    def declare(transform: Callable[..., DataFrame]) -> Table:
        sources = {a: Upstream(u) if isinstance(u, str) else u for a, u in made_from.items()}
        declared = Table(
            name,
            contract,
            transform,
            sources,
            recompute,
            unit,
            keyed_by,
            cluster_by,
            weighs,
            fresh_within,
            owner,
            mask_undeclared,
        )
        _check(declared)
        return declared

    return declare


def _check(t: Table) -> None:
    """Refuse a declaration that could only fail later, at a worse time."""
    columns = set(t.contract.column_names)

    def refuse(reason: str) -> None:
        raise DeclarationError(f"table {t.name}: {reason}")

    if t.layer not in ("silver", "gold"):
        refuse("the name must start with 'silver.' or 'gold.'; bronze tables come from sources")
    arguments = list(inspect.signature(t.transform).parameters)
    if arguments != list(t.made_from):
        refuse(f"the transform takes {arguments}, but made_from names {list(t.made_from)}")
    if t.unit and t.unit.column not in columns:
        refuse(f"unit column {t.unit.column!r} is not in the contract")
    if t.unit and t.unit.column not in t.contract.partitioned_by:
        refuse(f"the contract must be partitioned by the unit column {t.unit.column!r}")
    if t.recompute == "keys" and not t.keyed_by:
        refuse("recompute='keys' needs keyed_by")
    if t.recompute == "keys" and not t.contract.key:
        refuse("recompute='keys' needs a contract with a key to merge by")
    tables = [u.table for u in t.upstreams.values()]
    if twice := sorted({u for u in tables if tables.count(u) > 1}):
        refuse(f"{twice} is named twice in made_from: name it once, with the longest window")
    if missing := [c for c in (*t.keyed_by, *t.cluster_by) if c not in columns]:
        refuse(f"columns {missing} are not in the contract")
    if t.lookups and (t.recompute != "rows" or not t.unit or not t.contract.event_time):
        refuse("lookups are point in time: they need recompute='rows', a unit and an event time")
    if t.weighs != "1" and t.recompute == "partitions" and not t.contract.weight:
        refuse("weighs is compared with a weight, and the contract names none")
    masked = [c for c in t.keyed_by if t.contract.column(c).pii and t.contract.column(c).protect == "mask"]
    if masked:
        refuse(f"several keys are one once {masked[0]!r} is masked: hash or tokenize it (protect=...)")
    main = t.main[1]
    if t.contract.weight and (t.recompute != "partitions" or main.back):
        refuse(
            "a weight adds up to source rows: it needs recompute='partitions' and an upstream without back"
        )
