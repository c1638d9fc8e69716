"""Declarations that could only fail later are refused at once, by name and reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.contracts.contract import Column, ColumnType, Contract
from medallion_platform.errors import DeclarationError, Kind
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import (
    Lookup,
    Table,
    TimePartition,
    Upstream,
    daily,
    table,
    weekly,
)
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.csv import Csv

CONTRACT = Contract(
    "C",
    (
        Column("k", ColumnType("string")),
        Column("day", ColumnType("date")),
        Column("t", ColumnType("timestamp")),
    ),
    key=("k",),
    event_time="t",
    partitioned_by=("day",),
)
BY_TEXT = replace(CONTRACT, partitioned_by=("k",))
BARE = Contract("B", (Column("k", ColumnType("string")), Column("day", ColumnType("date"))))


def one(up: Any) -> Any:
    """One row."""
    return up


def two(up: Any, users: Any) -> Any:
    return up, users


def declare(transform: Callable[..., Any] = one, name: str = "gold.t", **given: Any) -> Table:
    options: dict[str, Any] = {
        "contract": CONTRACT,
        "inputs": {"up": "silver.up"},
        "incremental": "append",
        "partition": daily("day"),
    }
    return table(name, **(options | given))(transform)


USERS = Lookup("silver.users", key="k", by="k")


@pytest.mark.parametrize(
    ("transform", "given_options", "reason"),
    [
        (one, {"name": "bronze.t"}, "must start with"),
        (one, {"name": "t"}, "must start with"),
        (two, {}, "transform takes"),
        (one, {"inputs": {"down": "silver.up"}}, "transform takes"),
        (one, {"partition": daily("nope")}, "not in the contract"),
        (one, {"partition": daily("k")}, "partitioned by the partition column"),
        (one, {"contract": BARE}, "partitioned by the partition column"),
        (one, {"incremental": "merge_by_key", "partition": None}, "needs recompute_key"),
        (
            one,
            {"incremental": "merge_by_key", "partition": None, "contract": BARE, "recompute_key": ("k",)},
            "with a key",
        ),
        (one, {"cluster_by": ("nope",)}, "not in the contract"),
        (one, {"incremental": "replace_partition"}, "is none of append, replace_partitions, merge_by_key"),
        (
            one,
            {"incremental": "merge_by_key", "partition": None, "recompute_key": ("nope",)},
            "not in the contract",
        ),
        (two, {"inputs": {"up": "silver.up", "users": USERS}, "partition": None}, "point in time"),
        (
            two,
            {"inputs": {"up": "silver.up", "users": USERS}, "incremental": "replace_partitions"},
            "point in time",
        ),
        (one, {"inputs": {"up": USERS}}, "lookups only"),
        # what has no meaning here
        (one, {"recompute_key": ("k",)}, "recompute_key is for incremental='merge_by_key', and not for 'app"),
        (
            one,
            {"incremental": "replace_partitions", "recompute_key": ("k",)},
            "recompute_key is for incremental='merge_by_key', and not for 'repl",
        ),
        (one, {"inputs": {"up": Upstream("silver.up", 2)}}, "its lookback_days mean nothing"),
        (
            one,
            {
                "inputs": {"up": Upstream("silver.up", 2)},
                "partition": None,
                "incremental": "replace_partitions",
            },
            "lookback_days of silver.up needs a partition",
        ),
        # what is none of what the option takes
        (
            one,
            {"contract": object()},
            "contract is <object .*, and not a contract: MyModel.contract",
        ),
        (one, {"contract": str}, "contract is the class str, and not a contract"),
        (one, {"partition": "day"}, "partition is 'day', and not daily"),
        (one, {"inputs": ["silver.up"]}, r"inputs is \['silver.up'\], and not"),
        (one, {"inputs": {"up": 7}}, "input 'up' is 7, and not the name of a table"),
        (one, {"recompute_key": "k"}, r"recompute_key is 'k', and not a tuple of texts: \('k',\)"),
        (one, {"cluster_by": "k"}, "cluster_by is 'k', and not a tuple"),
        (one, {"cluster_by": ("k", "k")}, "cluster_by names 'k' twice"),
        (one, {"cluster_by": (None,)}, "cluster_by: None is no text"),
        (one, {"cluster_by": ("k\0",)}, "has a NUL"),
        (
            one,
            {"fresh_within": timedelta(-1)},
            "fresh_within is -1 day.*: it has to be at least 0:01:00",
        ),
        (one, {"fresh_within": timedelta(seconds=5)}, "it has to be at least 0:01:00"),
        (one, {"fresh_within": 3600}, "fresh_within is 3600, and not a timedelta"),
        (one, {"owner": "the data team"}, "is neither an e-mail address nor 'team:'"),
        (one, {"owner": "team:"}, "is neither an e-mail address nor 'team:'"),
        (one, {"mask_undeclared": "no"}, "mask_undeclared is 'no', and neither True nor False"),
        (one, {"kubernetes": "large"}, "kubernetes is 'large', and not"),
        (
            one,
            {"kubernetes": {"pod": {}}},
            "kubernetes={'pod': ...} is none of container_config, pod_spec_config",
        ),
        (one, {"kubernetes": {"job_metadata": {1j}}}, "kubernetes has to be what JSON can hold"),
        (one, {"cluster_by": ("day",)}, "cluster_by names 'day', which has one value in each partition"),
        ("select 1", {}, "'select 1' is decorated, and not a function"),
        (lambda *up: up, {}, "is called with its inputs by their names, and '.up' cannot be given so"),
        (lambda up: (yield up), {}, "cannot be a generator or async"),
        (one, {"source_row_count": "n >"}, "source_row_count='n >' is no SQL expression"),
        (one, {"source_row_count": "select 1"}, "is no SQL expression"),
        (one, {"source_row_count": "k as n"}, "is no SQL expression"),
        (one, {"source_row_count": "size(split(k, 'x'))"}, "that Spark and Polars both know"),
        (one, {"source_row_count": 1}, "source_row_count: 1 is no text"),
        (
            one,
            {"contract": BY_TEXT, "partition": daily("k")},
            "column 'k' is a string, and not a date",
        ),
        (two, {"inputs": {"up": "silver.up", "users": Upstream("silver.up", 7)}}, "named twice"),
    ],
)
def test_what_cannot_work_is_refused(
    transform: Callable[..., Any], given_options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DeclarationError, match=reason) as refused:
        declare(transform, **given_options)
    assert given_options.get("name", "gold.t") in str(refused.value)


def test_a_declaration_tells_its_parts() -> None:
    t = declare(two, inputs={"up": Upstream("silver.up"), "users": USERS})
    assert t.layer == "gold"
    assert (t.main_argument, t.main_upstream) == ("up", Upstream("silver.up"))
    assert t.upstreams == {"up": Upstream("silver.up")}
    assert t.lookups == {"users": USERS}
    assert t.upstream_names == ("silver.up", "silver.users")
    assert declare().description == "One row."


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (lambda: Upstream("silver.up", -1), "lookback_days of silver.up is -1: it has to be at least 0"),
        (lambda: Upstream("silver.up", cast(Any, 1.5)), "is 1.5, and not a whole number"),
        (lambda: Upstream("silver.up", 10**6), "is 1000000: it has to be at most 36500"),
        (lambda: Upstream("silver.up", True), "is True, and not a whole number"),
        (lambda: Upstream(""), "the table of an upstream: '' is empty"),
        (lambda: Upstream(cast(Any, declare())), "is no text"),
        (lambda: Lookup("silver.users", key=("k", "k"), by=("a", "b")), "key names 'k' twice"),
        (lambda: TimePartition("day", cast(Any, "month")), "a partition is one of day, week, not 'month'"),
        (lambda: daily(""), "the column of a partition: '' is empty"),
    ],
)
def test_a_part_that_cannot_be_meant_is_refused(declared: Callable[[], object], reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason) as refused:
        declared()
    assert refused.value.kind is Kind.PERMANENT


@given(st.dates(date(1, 1, 8), date(9999, 12, 24)))
def test_a_day_is_in_its_own_day_and_week(day: date) -> None:
    assert daily("day").of(day) == day
    monday = weekly("day").of(day)
    assert monday.weekday() == 0
    assert monday <= day < monday + timedelta(days=weekly("day").days)


# catalogs -----------------------------------------------------------------------------------------


def source(name: str) -> FileSource:
    return FileSource(name, f"bronze.{name}", CONTRACT, Csv(), "x", claims=(f"{name}/*",))


def made(name: str, *upstream: str) -> Table:
    """A table of any upstreams; transforms take as many arguments as there are."""
    arguments = ", ".join(f"a{i}" for i in range(len(upstream)))
    transform = cast(Callable[..., Any], eval(f"lambda {arguments}: None"))
    return declare(transform, name, inputs={f"a{i}": u for i, u in enumerate(upstream)})


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ((made("silver.a", "bronze.x"), made("silver.a", "bronze.x")), "silver.a is declared more than once"),
        ((made("silver.a", "bronze.y"),), "made from bronze.y: no such table"),
        ((made("silver.a", "silver.b"), made("silver.b", "silver.a")), "made from each other"),
        ((made("silver.a", "silver.a"),), "made from each other"),
    ],
)
def test_a_catalog_that_cannot_run_is_refused(tables: tuple[Table, ...], reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):
        Catalog((source("x"),), tables)


@pytest.mark.parametrize(
    ("changed", "tables", "reason"),
    [
        ({"name": "x y"}, (), "'x y': its name has more than letters"),
        ({"name": ""}, (), "name: '' is empty"),
        ({"domain": "Einkäufe"}, (), "its domain has more than"),
        ({"domain": "a.b"}, (), "its domain has more than"),
        ({"table": "x"}, (), "its table 'x' is not named 'bronze.'"),
        ({"table": "bronze.x.y"}, (), r"its table 'bronze\.x\.y' is not named"),
        ({"table": "silver.x"}, (), r"its table 'silver\.x' is not named"),
        ({}, (made("silver.a-b", "bronze.x"),), r"table 'silver\.a-b': behind its layer"),
        ({}, (made("gold.a.b", "bronze.x"),), r"table 'gold\.a\.b': behind its layer"),
        ({}, (made("silver.A", "bronze.x"), made("silver.a", "bronze.x")), "are one table to readers"),
    ],
)
def test_a_name_that_has_no_place_is_refused(
    changed: dict[str, str], tables: tuple[Table, ...], reason: str
) -> None:
    """Dagster refused it with an error of its own, and nothing of the project could be loaded."""
    with pytest.raises(DeclarationError, match=reason):
        Catalog((replace(source("x"), **cast("dict[str, Any]", changed)),), tables)


@pytest.mark.parametrize(
    ("given_options", "reason"),
    [
        ({"sources": source("x")}, r"catalog: sources is FileSource\("),
        ({"sources": (FileSource,)}, "one of sources is the class FileSource, and not a source"),
        (
            {"sources": (replace(source("x"), table="bronze.y"), source("x"))},
            "source x is declared more than once",
        ),
        (
            {"sources": (source("X"), replace(source("x"), table="bronze.y"))},
            "source x is declared more than once",
        ),
        (
            {
                "sources": (
                    source("x"),
                    FileSource("y", "bronze.y", CONTRACT, Csv(), "y", claims=("y/*", "x/*")),
                )
            },
            "sources 'x' and 'y' both claim 'x/.'",
        ),
        (
            {
                "tables": (
                    made("silver.h", "bronze.x"),
                    declare(two, inputs={"up": "bronze.x", "users": Lookup("silver.h", key="nope", by="k")}),
                )
            },
            "gold.t: its lookup has the key 'nope', a column that C, the contract of silver.h, does not",
        ),
        ({"tables": (one,)}, "one of tables is <function one .*, and not a table, as @table makes it"),
        ({"features": (made("gold.t", "bronze.x"),)}, "one of features is .*and not features"),
    ],
)
def test_a_catalog_holds_declarations_only(given_options: dict[str, Any], reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):
        Catalog(**({"sources": (source("x"),), "tables": ()} | given_options))


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        ("1", None),
        ("2", None),
        ("k is not null", None),
        ("case when k = 'a' then 2 else 0 end", None),
        ("_offset > 7", None),
        ("event_date is null", None),
        ("nope > 1", "speaks of 'nope', which C does not declare"),
        ("K is null", "speaks of 'K', which C does not declare"),
        ("k", "is neither a condition nor a whole number"),
        ("k + day", "cannot be computed of C"),
        ("0.5", "is neither a condition nor a whole number"),
    ],
)
def test_a_count_of_source_rows_speaks_of_the_upstream(count: str, reason: str | None) -> None:
    counting = declare(lambda up: up, "silver.a", inputs={"up": "bronze.x"}, source_row_count=count)
    if reason is None:
        Catalog((source("x"),), (counting,))
        return
    with pytest.raises(DeclarationError, match=reason) as refused:
        Catalog((source("x"),), (counting,))
    assert "silver.a, made from bronze.x" in str(refused.value)


def test_personal_data_is_declared_all_the_way_down() -> None:
    email = Column("email", ColumnType("string"), pii="email")
    raw = replace(CONTRACT, columns=(*CONTRACT.columns, email))
    told = replace(source("x"), contract=raw)
    forgot = replace(CONTRACT, columns=(*CONTRACT.columns, replace(email, pii=None)))
    for contract, refused in ((forgot, True), (raw, False), (CONTRACT, False)):
        below = replace(made("silver.a", "bronze.x"), contract=contract)
        if refused:
            with pytest.raises(DeclarationError, match=r"'email' is personal data \(email\) in bronze\.x"):
                Catalog((told,), (below,))
        else:
            Catalog((told,), (below,))


def test_what_was_made_of_personal_data_stays_the_same_further_down() -> None:
    raw = Column("email", ColumnType("string"), pii="email")
    told = replace(source("x"), contract=replace(CONTRACT, columns=(*CONTRACT.columns, raw)))
    token = replace(told.contract, columns=(*CONTRACT.columns, replace(raw, protect="tokenize")))
    first = replace(made("silver.a", "bronze.x"), contract=token)
    for contract, refused in ((token, False), (told.contract, True)):
        catalog = (told,), (first, replace(made("silver.b", "silver.a"), contract=contract))
        if refused:
            with pytest.raises(DeclarationError, match=r"silver\.b: .*protect='tokenize'; declare it alike"):
                Catalog(*catalog)
        else:
            Catalog(*catalog)


def test_a_source_s_table_is_taken_once() -> None:
    with pytest.raises(DeclarationError, match="more than once"):
        Catalog((source("x"), source("x")), ())


@given(st.data())
def test_every_table_comes_after_all_that_it_is_made_from(data: st.DataObject) -> None:
    names = ["bronze.x"]
    tables: list[Table] = []
    for i in range(data.draw(st.integers(0, 6))):
        upstream = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        tables.append(made(f"silver.t{i}", *upstream))
        names.append(f"silver.t{i}")
    catalog = Catalog((source("x"),), tuple(data.draw(st.permutations(tables))))
    order = list(catalog.names)
    assert sorted(order) == sorted(names)
    for t in tables:
        assert all(order.index(u) < order.index(t.name) for u in t.upstream_names)


def test_partitions_of_every_table() -> None:
    catalog = Catalog((source("x"),), (made("silver.a", "bronze.x"),))
    assert catalog.partition_columns == {"bronze.x": None, "silver.a": "day"}
    assert catalog.contract_of("bronze.x") is CONTRACT
    assert catalog.contract_of("silver.a") is CONTRACT
