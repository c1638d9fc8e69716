"""The declaration of a silver or gold table: a pure function, its contract and its inputs.

Refresh, checks, partitions, dead letters and metadata of a table all follow from this declaration.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from medallion_platform.contracts.contract import Contract

Incremental = Literal["append", "replace_partitions", "merge_by_key"]


class DeclarationError(ValueError):
    """A table is declared in a way that cannot work; says which table and why.

    Example:
        >>> from medallion_platform import DeclarationError, Lookup
        >>> try:
        ...     Lookup("silver.prices_history", key=("shop", "article"), by="article")
        ... except DeclarationError as error:
        ...     print(error)
        lookup in silver.prices_history: key ('shop', 'article') and by 'article' have to name as many columns
    """


@dataclass(frozen=True)
class TimePartition:
    """The time partitions of a table: each value of the date column `column` is one Dagster partition."""

    column: str
    grain: Literal["day", "week"] = "day"

    def of(self, day: date) -> date:
        """The partition that contains `day`: the day itself, or the Monday of its week."""
        return day if self.grain == "day" else day - timedelta(days=day.weekday())

    @property
    def days(self) -> int:
        """The number of days in one partition."""
        return 1 if self.grain == "day" else 7


def daily(column: str) -> TimePartition:
    """One partition per day, by the date column `column`.

    Example:
        >>> from medallion_platform import daily
        >>> daily("event_date").days
        1
    """
    return TimePartition(column)


def weekly(column: str) -> TimePartition:
    """One partition per week, by the date column `column`, which contains the Monday of the week.

    Example:
        >>> from datetime import date
        >>> from medallion_platform import weekly
        >>> weekly("week").of(date(2026, 1, 8))
        datetime.date(2026, 1, 5)
    """
    return TimePartition(column, "week")


@dataclass(frozen=True)
class Upstream:
    """An input of a table.

    lookback_days: how many earlier days of the input a partition is also made from (29 for a 30-day window).

    Example:
        >>> from medallion_platform import Upstream
        >>> Upstream("silver.events", lookback_days=29).table
        'silver.events'
    """

    table: str
    lookback_days: int = 0


@dataclass(frozen=True)
class Lookup:
    """A history (SCD2) that enriches rows with the version valid at each row's event time.

    `key`: the history's column that `by`, the enriched table's column, points to; or several columns and as
    many that point to these, in the same order.

    Example:
        >>> from medallion_platform import Lookup
        >>> Lookup("silver.users_history", key="user_id", by="buyer_id").pairs
        (('user_id', 'buyer_id'),)
        >>> Lookup("silver.prices_history", key=("shop", "article"), by=("shop", "sold")).pairs
        (('shop', 'shop'), ('article', 'sold'))

    Raises:
        DeclarationError: `by` has not as many columns as `key`, or there is none.
    """

    table: str
    key: str | Sequence[str]
    by: str | Sequence[str]

    def __post_init__(self) -> None:
        for name in ("key", "by"):
            columns = getattr(self, name)
            if not isinstance(columns, str):
                object.__setattr__(self, name, tuple(columns))
        if len(_columns(self.key)) != len(_columns(self.by)) or not self.key:
            raise DeclarationError(
                f"lookup in {self.table}: key {self.key!r} and by {self.by!r} have to name as many columns"
            )

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Each column of the history's key, with the column that points to it."""
        return tuple(zip(_columns(self.key), _columns(self.by), strict=True))


def _columns(named: str | Sequence[str]) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else tuple(named)


@dataclass(frozen=True)
class Table:
    """A silver or gold table.

    incremental: what a refresh does with a change of the inputs.
        `append`              each upstream row gives its own rows: new rows are appended;
        `replace_partitions`  whole partitions are replaced (the whole table if it has none);
        `merge_by_key`        all rows of the changed values of `recompute_key` are computed again and merged.
    source_row_count: SQL over a row of the main upstream table: how many rows it counts as. For `append`: how
        many rows the transform makes from it. For `merge_by_key`: 0 if the row may remove its key. For
        `replace_partitions` with a `row_count_column` in the contract: how many source rows to count.
        A refresh whose numbers differ has lost or doubled rows, and fails (see `refresh.reconcile`).
    mask_undeclared: also mask e-mail addresses and phone numbers in text columns that the contract does not
        declare (see `contracts.shapes`); otherwise such text is passed on unchanged.

    Example:
        What `table` makes of a transform, which a test of one's own can call by itself:

        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field, Table, table
        >>> class Stations(ContractModel):
        ...     station: T.StringType = Field()
        >>> @table(
        ...     "silver.stations",
        ...     contract=Stations.contract,
        ...     inputs={"readings": "bronze.readings"},
        ...     incremental="append",
        ... )
        ... def stations(readings):
        ...     return readings.select("station")
        >>> isinstance(stations, Table), stations.layer, stations.transform.__name__
        (True, 'silver', 'stations')
    """

    name: str
    contract: Contract
    transform: Callable[..., DataFrame]
    inputs: Mapping[str, Upstream | Lookup]
    incremental: Incremental
    partition: TimePartition | None = None
    recompute_key: tuple[str, ...] = ()
    cluster_by: tuple[str, ...] = ()
    source_row_count: str = "1"
    fresh_within: timedelta = timedelta(days=1)
    owner: str | None = None
    mask_undeclared: bool = False

    @cached_property
    def code(self) -> str:
        """The code that the transform's result depends on, read once."""
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
        """The first declared upstream table, whose rows become this table's rows, and its argument."""
        for argument, upstream in self.inputs.items():
            if isinstance(upstream, Upstream):
                return argument, upstream
        raise DeclarationError(f"{self.name}: made from lookups only; name an upstream table")

    @property
    def upstreams(self) -> dict[str, Upstream]:
        """Upstream tables by argument, without lookups."""
        return {a: u for a, u in self.inputs.items() if isinstance(u, Upstream)}

    @property
    def lookups(self) -> dict[str, Lookup]:
        """Lookups by argument."""
        return {a: u for a, u in self.inputs.items() if isinstance(u, Lookup)}

    @property
    def upstream_names(self) -> tuple[str, ...]:
        """The names of all tables that this one reads."""
        return tuple(dict.fromkeys(u.table for u in self.inputs.values()))


def table(
    name: str,
    *,
    contract: Contract,
    inputs: Mapping[str, Upstream | Lookup | str],
    incremental: Incremental,
    partition: TimePartition | None = None,
    recompute_key: tuple[str, ...] = (),
    cluster_by: tuple[str, ...] = (),
    source_row_count: str = "1",
    fresh_within: timedelta = timedelta(days=1),
    owner: str | None = None,
    mask_undeclared: bool = False,
) -> Callable[[Callable[..., DataFrame]], Table]:
    """Declare the decorated transform as a table; a plain string in `inputs` means an `Upstream`.

    The transform gets one DataFrame for each key of `inputs`, as the argument of that name. It has to be
    deterministic: no clock, no random values.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field, table
        >>> class Stations(ContractModel):
        ...     station: T.StringType = Field()
        ...
        ...     class Config:
        ...         metadata = {"key": ["station"]}
        >>> @table(
        ...     "silver.stations",
        ...     contract=Stations.contract,
        ...     inputs={"readings": "bronze.readings"},
        ...     incremental="merge_by_key",
        ...     recompute_key=("station",),
        ... )
        ... def stations(readings):
        ...     "Every station that ever sent a reading."
        ...     return readings.select("station").distinct()
        >>> stations.upstream_names
        ('bronze.readings',)

    Raises:
        DeclarationError: layer, arguments, partition or keys do not fit together.
    """

    def declare(transform: Callable[..., DataFrame]) -> Table:
        sources = {a: Upstream(u) if isinstance(u, str) else u for a, u in inputs.items()}
        declared = Table(
            name,
            contract,
            transform,
            sources,
            incremental,
            partition,
            recompute_key,
            cluster_by,
            source_row_count,
            fresh_within,
            owner,
            mask_undeclared,
        )
        _check(declared)
        return declared

    return declare


def _check(t: Table) -> None:
    """Refuse a declaration that would fail at the first refresh."""
    columns = set(t.contract.column_names)

    def refuse(reason: str) -> None:
        raise DeclarationError(f"table {t.name}: {reason}")

    if t.layer not in ("silver", "gold"):
        refuse("the name must start with 'silver.' or 'gold.'; bronze tables come from sources")
    arguments = list(inspect.signature(t.transform).parameters)
    if arguments != list(t.inputs):
        refuse(f"the transform takes {arguments}, but inputs names {list(t.inputs)}")
    if t.incremental not in get_args(Incremental):
        refuse(f"incremental={t.incremental!r} is none of {', '.join(get_args(Incremental))}")
    if t.partition and t.partition.column not in columns:
        refuse(f"partition column {t.partition.column!r} is not in the contract")
    if t.partition and t.partition.column not in t.contract.partitioned_by:
        refuse(f"the contract must be partitioned by the partition column {t.partition.column!r}")
    if t.incremental == "merge_by_key" and not t.recompute_key:
        refuse("incremental='merge_by_key' needs recompute_key")
    if t.incremental == "merge_by_key" and not t.contract.key:
        refuse("incremental='merge_by_key' needs a contract with a key to merge by")
    tables = [u.table for u in t.upstreams.values()]
    if twice := sorted({u for u in tables if tables.count(u) > 1}):
        refuse(f"{twice} is named twice in inputs: name it once, with the longest window")
    if missing := [c for c in (*t.recompute_key, *t.cluster_by) if c not in columns]:
        refuse(f"columns {missing} are not in the contract")
    if t.lookups and (t.incremental != "append" or not t.partition or not t.contract.event_time):
        refuse("lookups are point in time: they need incremental='append', a partition and an event time")
    if (
        t.source_row_count != "1"
        and t.incremental == "replace_partitions"
        and not t.contract.row_count_column
    ):
        refuse("source_row_count is compared with a row_count_column, and the contract names none")
    masked = [
        c for c in t.recompute_key if t.contract.column(c).pii and t.contract.column(c).protect == "mask"
    ]
    if masked:
        refuse(f"several keys are one once {masked[0]!r} is masked: hash or tokenize it (protect=...)")
    main = t.main[1]
    if t.contract.row_count_column and (t.incremental != "replace_partitions" or main.lookback_days):
        refuse(
            "a row_count_column adds up to source rows: it needs incremental='replace_partitions' and an "
            "upstream without lookback_days"
        )
