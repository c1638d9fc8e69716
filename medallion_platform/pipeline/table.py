"""The declaration of a silver or gold table: a pure function, its contract and its inputs.

Refresh, checks, partitions, dead letters and metadata of a table all follow from this declaration.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, get_args

from medallion_platform.contracts import contract as contracts
from medallion_platform.contracts import options
from medallion_platform.errors import DeclarationError
from medallion_platform.pipeline import row_counts
from medallion_platform.pipeline.row_counts import EACH_IS_ONE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Incremental = Literal["append", "replace_partitions", "merge_by_key"]
Grain = Literal["day", "week"]


@dataclass(frozen=True)
class TimePartition:
    """The time partitions of a table: each value of the date column `column` is one Dagster partition."""

    column: str
    grain: Grain = "day"

    def __post_init__(self) -> None:
        options.text("the column of a partition", self.column)
        if self.grain not in get_args(Grain):
            raise DeclarationError(f"a partition is one of {', '.join(get_args(Grain))}, not {self.grain!r}")

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

    def __post_init__(self) -> None:
        options.text("the table of an upstream", self.table)
        options.whole(f"lookback_days of {self.table}", self.lookback_days, least=0, most=_LONGEST_LOOKBACK)


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
        options.text("the table of a lookup", self.table)
        for name in ("key", "by"):
            columns = getattr(self, name)
            if not isinstance(columns, str):
                columns = options.texts(f"lookup in {self.table}: {name}", columns, once=name == "key")
                object.__setattr__(self, name, columns)
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
    recompute_key: for `merge_by_key`, the columns that find the rows to compute again.
    fresh_within: how old its data may be; a minute at least.
    owner: an e-mail address, or `team:` and a name; by default the team of the domain.
    source_row_count: SQL over a row of the main upstream table: how many rows it counts as. For `append`: how
        many rows the transform makes from it. For `merge_by_key`: 0 if the row may remove its key. For
        `replace_partitions` with a `row_count_column` in the contract: how many source rows to count.
        A refresh whose numbers differ has lost or doubled rows, and fails.
    mask_undeclared: also mask e-mail addresses and phone numbers in text columns that the contract does not
        declare; otherwise such text is passed on unchanged.
    kubernetes: what the table asks of the pod of its run, as Dagster's `dagster-k8s/config`; a table that
        asks for something gets a run of its own. Without Kubernetes it has no effect.

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
    contract: contracts.Contract
    transform: Callable[..., DataFrame]
    inputs: Mapping[str, Upstream | Lookup]
    incremental: Incremental
    partition: TimePartition | None = None
    recompute_key: tuple[str, ...] = ()
    cluster_by: tuple[str, ...] = ()
    source_row_count: str = EACH_IS_ONE
    fresh_within: timedelta = timedelta(days=1)
    owner: str | None = None
    mask_undeclared: bool = False
    kubernetes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def code(self) -> str:
        """The code that the transform's result depends on, read once."""
        from medallion_platform.pipeline.code import code_text

        return code_text(self.transform, ignoring=[table])

    @property
    def layer(self) -> str:
        """`silver` or `gold`."""
        return self.name.partition(".")[0]

    @property
    def description(self) -> str:
        """The docstring of the transform."""
        return inspect.getdoc(self.transform) or ""

    @property
    def main_argument(self) -> str:
        """The argument of the main upstream table: the first declared one, whose rows become this table's."""
        for argument in self.upstreams:
            return argument
        raise DeclarationError(f"{self.name}: made from lookups only; name an upstream table")

    @property
    def main_upstream(self) -> Upstream:
        """The main upstream table."""
        return self.upstreams[self.main_argument]

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
    contract: contracts.Contract,
    inputs: Mapping[str, Upstream | Lookup | str],
    incremental: Incremental,
    partition: TimePartition | None = None,
    recompute_key: tuple[str, ...] = (),
    cluster_by: tuple[str, ...] = (),
    source_row_count: str = EACH_IS_ONE,
    fresh_within: timedelta = timedelta(days=1),
    owner: str | None = None,
    mask_undeclared: bool = False,
    kubernetes: Mapping[str, Any] | None = None,
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
        options.instance(f"table {name}: inputs", inputs, Mapping, '{"argument": "silver.table"}')
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
            {} if kubernetes is None else kubernetes,
        )
        _check(declared)
        return declared

    return declare


def _check(t: Table) -> None:
    """Refuse a declaration that would fail at the first refresh, or says what has no meaning.

    Raises:
        DeclarationError: says which table, which option, and why.
    """
    _check_types(t)
    problems = (_input_problems(t), _incremental_problems(t), _column_problems(t), _kubernetes_problems(t))
    for reason in chain(*problems):
        raise DeclarationError(f"table {t.name}: {reason}")


def _check_types(t: Table) -> None:
    """Refuse what is none of what an option takes, before anything is asked of it."""
    here = f"table {t.name}"
    options.text(f"{here}: name", t.name)
    options.instance(f"{here}: contract", t.contract, contracts.Contract, "a contract: MyModel.contract")
    options.instance(
        f"{here}: partition", t.partition, TimePartition | None, 'daily("column") or weekly("column")'
    )
    for argument, given in t.inputs.items():
        what = f"{here}: input {argument!r}"
        options.instance(what, given, Upstream | Lookup, "the name of a table, an Upstream or a Lookup")
    for option, columns in (("recompute_key", t.recompute_key), ("cluster_by", t.cluster_by)):
        options.texts(f"{here}: {option}", columns)
    options.text(f"{here}: source_row_count", t.source_row_count)
    options.flag(f"{here}: mask_undeclared", t.mask_undeclared)
    options.instance(f"{here}: kubernetes", t.kubernetes, Mapping, '{"pod_spec_config": {...}}')
    if not callable(t.transform):
        raise DeclarationError(f"{here}: {t.transform!r:.80} is decorated, and not a function")
    options.duration(f"{here}: fresh_within", t.fresh_within, least=_SHORTEST)


def _input_problems(t: Table) -> Iterator[str]:
    """What is wrong with the name, the transform's arguments, and what is read."""
    if t.layer not in ("silver", "gold"):
        yield "the name must start with 'silver.' or 'gold.'; bronze tables come from sources"
    parameters = inspect.signature(t.transform).parameters
    if odd := [str(p) for p in parameters.values() if p.kind not in _BY_NAME]:
        yield f"the transform is called with its inputs by their names, and {odd[0]!r} cannot be given so"
    if inspect.iscoroutinefunction(t.transform) or inspect.isgeneratorfunction(t.transform):
        yield "the transform has to return a DataFrame, and cannot be a generator or async"
    arguments = list(parameters)
    if arguments != list(t.inputs):
        yield f"the transform takes {arguments}, but inputs names {list(t.inputs)}"
    tables = [u.table for u in t.upstreams.values()]
    if twice := sorted({u for u in tables if tables.count(u) > 1}):
        yield f"{twice} is named twice in inputs: name it once, with the longest window"
    if not tables:
        yield "made from lookups only; name an upstream table"
    looking_back = [u.table for u in t.upstreams.values() if u.lookback_days]
    if looking_back and not t.partition:
        yield f"lookback_days of {looking_back[0]} needs a partition: without one, all of it is read"
    if t.owner is not None and not _OWNER.fullmatch(t.owner):
        yield f"owner={t.owner!r} is neither an e-mail address nor 'team:' and a name"


def _incremental_problems(t: Table) -> Iterator[str]:
    """What is wrong with `incremental`, and with options that do not fit it."""
    if t.incremental not in get_args(Incremental):
        yield f"incremental={t.incremental!r} is none of {', '.join(get_args(Incremental))}"
    if t.incremental == "merge_by_key" and not t.recompute_key:
        yield "incremental='merge_by_key' needs recompute_key"
    if t.incremental == "merge_by_key" and not t.contract.key:
        yield "incremental='merge_by_key' needs a contract with a key to merge by"
    if t.incremental != "merge_by_key" and t.recompute_key:
        yield f"recompute_key is for incremental='merge_by_key', and not for {t.incremental!r}"
    if t.incremental == "append" and t.main_upstream.lookback_days:
        yield (
            f"incremental='append' reads each row of {t.main_upstream.table} once, so its lookback_days mean "
            "nothing: leave them out, or use 'replace_partitions'"
        )
    if t.lookups and (t.incremental != "append" or not t.partition or not t.contract.event_time):
        yield "lookups are point in time: they need incremental='append', a partition and an event time"
    if reason := row_counts.unreadable(t.source_row_count):
        yield reason
    counts, aggregate = t.contract.row_count_column, t.incremental == "replace_partitions"
    if t.source_row_count != EACH_IS_ONE and aggregate and not counts:
        yield "source_row_count is compared with a row_count_column, and the contract names none"
    if counts and (not aggregate or t.main_upstream.lookback_days):
        yield (
            "a row_count_column adds up to source rows: it needs incremental='replace_partitions' and an "
            "upstream without lookback_days"
        )


def _column_problems(t: Table) -> Iterator[str]:
    """What is wrong with the columns that the table names."""
    columns = t.contract.by_name
    if t.partition:
        column = columns.get(t.partition.column)
        if column is None:
            yield f"partition column {t.partition.column!r} is not in the contract"
        elif column.name not in t.contract.partitioned_by:
            yield f"the contract must be partitioned by the partition column {column.name!r}"
        elif column.type.kind != "date":
            yield f"partition column {column.name!r} is a {column.type}, and not a date"
    if missing := [c for c in (*t.recompute_key, *t.cluster_by) if c not in columns]:
        yield f"columns {missing} are not in the contract"
    if t.partition and t.partition.column in t.cluster_by:
        yield f"cluster_by names {t.partition.column!r}, which has one value in each partition"
    masked = [c for c in t.recompute_key if c in columns and columns[c].pii and columns[c].protect == "mask"]
    if masked:
        yield f"several keys are one once {masked[0]!r} is masked: hash or tokenize it (protect=...)"


def _kubernetes_problems(t: Table) -> Iterator[str]:
    """What is wrong with what the pod of a run is asked for; of its parts only a cluster knows more."""
    if odd := [part for part in t.kubernetes if part not in _PARTS_OF_A_JOB]:
        yield f"kubernetes={{{odd[0]!r}: ...}} is none of {', '.join(_PARTS_OF_A_JOB)}"
    try:
        json.dumps(t.kubernetes)
    except (TypeError, ValueError) as error:
        yield f"kubernetes has to be what JSON can hold ({error})"


_PARTS_OF_A_JOB = (
    "container_config",
    "pod_spec_config",
    "pod_template_spec_metadata",
    "job_metadata",
    "job_spec_config",
)
"""As `dagster-k8s/config` names them."""
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_LONGEST_LOOKBACK = 36_500
"""A hundred years: beyond, days before the first one that Python knows would be asked for."""
_SHORTEST = timedelta(minutes=1)
"""The shortest time within which Dagster looks whether a table is fresh."""
_OWNER = re.compile(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s.]+")
