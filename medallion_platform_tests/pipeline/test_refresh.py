"""One refresh at a time: schema, severities, failures, two at once, a log that is gone, masking."""

from __future__ import annotations

import hashlib
import hmac
import json
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyspark.sql.types as T
import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.contract import ColumnType, Contract, IsType
from medallion_platform.contracts.masking import KEY_VARIABLE
from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse import dead_letters, maintenance
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline import refresh as stages
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh import commit as steps
from medallion_platform.pipeline.refresh.changes import of_other_code, out_of_date_partitions
from medallion_platform.pipeline.refresh.errors import MissingUpstream, RefreshFailed
from medallion_platform.pipeline.refresh.explain import Why
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Table, daily, table
from medallion_platform.queries.plans import plans_of_tables

from .shop import EVENTS, USERS, bring, change, content, dead, event, no_spark, rebuilt, users
from .toy import Row, Zone


class Number(ContractModel):
    event_id: T.StringType = Field()
    event_date: T.DateType = Field()
    amount: T.IntegerType = Field(nullable=True)

    class Config:
        metadata = {"key": ["event_id"], "partitioned_by": ["event_date"]}  # noqa: RUF012


class Strict(ContractModel):
    event_id: T.StringType = Field()
    event_date: T.DateType = Field()
    amount: T.LongType = Field(nullable=True, lt=1000, severity="fail")

    class Config:
        metadata = {"key": ["event_id"], "partitioned_by": ["event_date"]}  # noqa: RUF012


def numbers(events: DataFrame) -> DataFrame:
    """Amounts of events."""
    return events.select("event_id", "event_date", "amount")


def declared(contract: Contract = Number.contract, transform: Any = numbers) -> Table:
    return table(
        "silver.numbers",
        contract=contract,
        inputs={"events": "bronze.events"},
        incremental="append",
        partition=daily("event_date"),
    )(transform)


def typed(kind: Any) -> Contract:
    """The contract with another type of amount."""
    of = {"int": ColumnType("integer"), "long": ColumnType("long")}[kind]
    name = {"int": "amount: is an integer", "long": "amount: is a long"}[kind]
    columns = tuple(replace(c, type=of) if c.name == "amount" else c for c in Number.contract.columns)
    found = tuple(
        replace(e, name=name) if e.columns == ("amount",) and isinstance(e.test, IsType) else e
        for e in Number.contract.expectations
    )
    return replace(Number.contract, columns=columns, expectations=found)


def catalog(*tables: Table) -> Catalog:
    return Catalog((EVENTS,), tables)


BIG = 2**40


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


def arrive(zone: Zone, *rows: Row) -> None:
    zone.json(f"events/{zone.clock}.json", rows)
    zone.take(EVENTS)


def amounts(lake: Lake, name: str = "silver.numbers") -> dict[str, Any]:
    return dict(pl.read_delta(lake.path(name)).select("event_id", "amount").sort("event_id").rows())


def snapshot(lake: Lake) -> Iterator[tuple[str, int]]:
    """Every table's version: what a refresh that wrote nothing leaves as it was."""
    for layer in ("silver", "dead_letters"):
        for folder in sorted((lake.root / layer).glob("*/_delta_log")):
            yield str(folder), len(list(folder.glob("*.json")))


@pytest.mark.failure("conflict")
def test_types_widen_by_a_rebuild_and_never_narrow(zone: Zone, spark: SparkSession) -> None:
    arrive(zone, event("a", 0, amount=1), event("b", 0, amount=BIG), event("c", 1, amount=3))
    narrow, wide = declared(typed("int")), declared(typed("long"))
    bring(narrow, zone.lake, spark, catalog(narrow))
    assert amounts(zone.lake) == {"a": 1, "c": 3}
    assert [eval(v)[1] for v in dead(zone.lake, "silver.numbers")] == [["amount: is an integer"]]

    # A widening that dies before its commit leaves the table readable and as it was.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "commit_files", lambda *_, **__: (_ for _ in ()).throw(CommitConflict("died")))
        with pytest.raises(CommitConflict):
            bring(wide, zone.lake, spark, catalog(wide))
    assert amounts(zone.lake) == {"a": 1, "c": 3}

    done = bring(wide, zone.lake, spark, catalog(wide))
    assert done.record
    assert "widened column: amount" in done.record.notes
    assert amounts(zone.lake) == {"a": 1, "b": BIG, "c": 3}
    assert not dead(zone.lake, "silver.numbers")
    assert (
        spark.read.format("delta").load(zone.lake.path("silver.numbers")).agg(F.sum("amount")).head()[0]
        == 4 + BIG
    )

    done = bring(narrow, zone.lake, spark, catalog(narrow))
    assert done.record
    assert any("amount: stays int64" in n for n in done.record.notes)
    assert pl.read_delta(zone.lake.path("silver.numbers")).schema["amount"] == pl.Int64
    assert amounts(zone.lake) == {"a": 1, "c": 3}
    assert len(dead(zone.lake, "silver.numbers")) == 1


def test_a_widening_is_never_done_to_some_partitions_alone(zone: Zone, spark: SparkSession) -> None:
    arrive(zone, event("a", 0, amount=1), event("b", 0, amount=BIG), event("c", 1, amount=3))
    narrow, wide = declared(typed("int")), declared(typed("long"))
    bring(narrow, zone.lake, spark, catalog(narrow))
    bring(wide, zone.lake, spark, catalog(wide), partitions=["2026-01-05"])
    assert amounts(zone.lake) == {"a": 1, "b": BIG, "c": 3}
    assert (
        spark.read.format("delta").load(zone.lake.path("silver.numbers")).agg(F.sum("amount")).head()[0]
        == 4 + BIG
    )


def test_a_new_column_flows_through(zone: Zone, spark: SparkSession) -> None:
    t = declared(transform=everything)
    arrive(zone, event("a", 0, amount=1))
    bring(t, zone.lake, spark, catalog(t))
    arrive(zone, event("b", 0, amount=2, color="red"))
    done = bring(t, zone.lake, spark, catalog(t))
    assert done.record
    assert done.record.partitions == {"2026-01-05": 1}
    assert "new column: color" in done.record.notes
    arrive(zone, event("c", 0, amount=3))
    bring(t, zone.lake, spark, catalog(t))
    rows = pl.read_delta(zone.lake.path("silver.numbers")).sort("event_id")
    assert rows["color"].to_list() == [None, "red", None]
    fresh = rebuilt(zone.lake, spark, zone.root / "fresh", catalog(t))
    assert content(fresh, t.name) == content(zone.lake, t.name)


def everything(events: DataFrame) -> DataFrame:
    return events


@pytest.mark.failure("data")
def test_a_fail_expectation_writes_nothing_and_names_itself_alone(zone: Zone, spark: SparkSession) -> None:
    t = declared(Strict.contract)
    arrive(zone, event("a", 0, amount=1))
    bring(t, zone.lake, spark, catalog(t))
    arrive(zone, event("secret-id", 0, amount=987654321))
    before = list(snapshot(zone.lake))
    with pytest.raises(RefreshFailed) as failed:
        bring(t, zone.lake, spark, catalog(t))
    told = str(failed.value)
    assert "amount: below 1000" in told
    assert "silver.numbers" in told
    assert "severity fail" in told
    assert "secret-id" not in told
    assert "987654321" not in told
    assert "\n" not in told
    assert list(snapshot(zone.lake)) == before
    assert amounts(zone.lake) == {"a": 1}


class Whole(ContractModel):
    event_id: T.StringType = Field()
    event_date: T.DateType = Field()
    amount: T.LongType = Field(nullable=True, unique_values_eq=[1, 2], severity="fail")

    class Config:
        metadata = {"key": ["event_id"], "partitioned_by": ["event_date"]}  # noqa: RUF012


@pytest.mark.failure("data")
def test_what_holds_for_the_frame_as_a_whole_fails_the_refresh_too(zone: Zone, spark: SparkSession) -> None:
    t = declared(Whole.contract)
    arrive(zone, event("a", 0, amount=1))
    with pytest.raises(RefreshFailed, match=r"amount: all of its values are 1, 2.*severity fail"):
        bring(t, zone.lake, spark, catalog(t))
    assert zone.lake.rows("silver.numbers") == 0
    arrive(zone, event("b", 1, amount=2))
    bring(t, zone.lake, spark, catalog(t))
    assert amounts(zone.lake) == {"a": 1, "b": 2}


class PerDay(ContractModel):
    event_date: T.DateType = Field()
    events: T.LongType = Field()

    class Config:
        metadata = {"key": ["event_date"], "partitioned_by": ["event_date"], "row_count_column": "events"}  # noqa: RUF012


@pytest.mark.parametrize("source_row_count", ["1", "amount is not null"])
@pytest.mark.parametrize("lost", [0, 1, -1])
def test_an_aggregate_that_loses_or_doubles_source_rows_is_not_committed(
    zone: Zone, spark: SparkSession, lost: int, source_row_count: str
) -> None:
    def count(events: DataFrame) -> DataFrame:
        """Events of a day."""
        known = events.where(F.expr(source_row_count).cast("boolean"))
        wrong = F.when(F.col("event_date") > "2026-01-05", lost).otherwise(0)
        counted = known.groupBy("event_date").agg(F.count(F.lit(1)).alias("n"))
        return counted.select("event_date", (F.col("n") - wrong).cast("long").alias("events"))

    per_day = table(
        "gold.per_day", contract=PerDay.contract, inputs={"events": "bronze.events"},
        incremental="replace_partitions", partition=daily("event_date"), source_row_count=source_row_count,
    )(count)  # fmt: skip
    arrive(zone, event("a", 0, amount=1), event("b", 0, amount=2), event("x", 0, amount=None))
    done = bring(per_day, zone.lake, spark, catalog(per_day))
    assert done.record
    assert done.record.source_row_count == (3 if source_row_count == "1" else 2)
    arrive(zone, event("c", 1, amount=3))
    if lost:
        with pytest.raises(
            RefreshFailed, match=rf"counts {1 - lost} rows of bronze\.events, and there are 1"
        ):
            bring(per_day, zone.lake, spark, catalog(per_day))
    else:
        bring(per_day, zone.lake, spark, catalog(per_day))
    assert zone.lake.rows("gold.per_day") == (1 if lost else 2)


def misspelt(events: DataFrame) -> DataFrame:
    """The amount under another name."""
    return events.withColumnRenamed("amount", "amonut")


@pytest.mark.failure("permanent")
def test_a_column_that_the_transform_forgot_does_not_empty_the_table(zone: Zone, spark: SparkSession) -> None:
    t = declared()
    arrive(zone, event("a", 0, amount=1))
    bring(t, zone.lake, spark, catalog(t))
    wrong = declared(transform=misspelt)
    with pytest.raises(RefreshFailed, match=r"returns no column amount \(declared\), and returns .*amonut"):
        bring(wrong, zone.lake, spark, catalog(wrong))
    assert amounts(zone.lake) == {"a": 1}


def test_partitions_that_a_former_contract_emptied_are_known_to_be_so(
    zone: Zone, spark: SparkSession
) -> None:
    t = picky(0)
    arrive(zone, event("a", 0, amount=1), event("b", 1, amount=2))
    bring(t, zone.lake, spark, catalog(t))
    assert amounts(zone.lake) == {}
    mended = picky(50)
    days = of_other_code(mended, zone.lake, catalog(mended).partition_columns)
    assert len(days) == 2
    assert days == out_of_date_partitions(mended, zone.lake, no_spark, catalog(mended).partition_columns)


def homeless(events: DataFrame) -> DataFrame:
    """A transform that loses the date of some rows."""
    day = F.when(F.col("amount") < 5, F.col("event_date")).alias("event_date")
    return events.select("event_id", day, "amount")


def test_a_table_of_keys_that_was_emptied_takes_new_ones(zone: Zone, spark: SparkSession) -> None:
    zone.json("users/a", [change("a", 1, 0, "wrong")])
    zone.take(USERS)
    assert bring(users, zone.lake, spark).record
    assert zone.lake.rows("silver.users") == 0
    zone.json("users/b", [change("b", 2, 1, "x")])
    zone.take(USERS)
    done = bring(users, zone.lake, spark)
    assert done.record
    assert pl.read_delta(zone.lake.path("silver.users")).select("user_id", "segment").rows() == [("b", "x")]
    assert dead_letters.count(zone.lake, "silver.users") == 1


@pytest.mark.failure("data")
def test_rows_without_a_partition_are_never_dropped_in_silence(zone: Zone, spark: SparkSession) -> None:
    t = declared(transform=homeless)
    arrive(zone, event("a", 0, amount=1))
    bring(t, zone.lake, spark, catalog(t))
    arrive(zone, event("b", 1, amount=2), event("c", 1, amount=9))
    with pytest.raises(RefreshFailed, match="no event_date in 1 row"):
        bring(t, zone.lake, spark, catalog(t))
    assert amounts(zone.lake) == {"a": 1}


def test_files_that_are_deleted_since_mean_a_rebuild(
    zone: Zone, spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "medallion_platform.pipeline")
    t = declared()
    arrive(zone, event("a", 0, amount=1))
    bring(t, zone.lake, spark, catalog(t))
    for n in range(3):
        arrive(zone, event(f"b{n}", 0, amount=n))
    found = zone.lake.open("bronze.events")
    assert found
    found.optimize.compact()
    found.vacuum(0, enforce_retention_duration=False, dry_run=False)
    done = bring(t, zone.lake, spark, catalog(t))
    assert done.record
    assert amounts(zone.lake) == {"a": 1, "b0": 0, "b1": 1, "b2": 2}
    assert [r.__dict__["kind"] for r in caplog.records if r.getMessage().endswith(": retried")] == [
        "position_lost"
    ]


def broken(events: DataFrame) -> DataFrame:
    return events.select("event_id", "event_date", F.col("event_id").cast("long").alias("amount"))


def missing(events: DataFrame) -> DataFrame:
    return events.select("event_id", "event_date", "no_such_column")


def raising(events: DataFrame) -> DataFrame:
    raise ZeroDivisionError("no rows,\nsays the transform")


@pytest.mark.parametrize("transform", [broken, missing, raising])
def test_a_transform_that_fails_says_so_in_a_sentence(
    zone: Zone, spark: SparkSession, transform: Any
) -> None:
    t = declared(transform=transform)
    arrive(zone, event("john.doe@example.com", 0, amount=1))
    with pytest.raises(RefreshFailed) as failed:
        bring(t, zone.lake, spark, catalog(t))
    told = str(failed.value)
    assert told.startswith("silver.numbers: its transform failed (")
    assert "\n" not in told
    assert len(told) < 600
    whole = "".join(traceback.format_exception(failed.value))
    assert "john.doe" not in whole, "a row's value is in the message or in what it was raised from"
    assert zone.lake.rows("silver.numbers") == 0
    mended = declared()
    bring(mended, zone.lake, spark, catalog(mended))
    assert zone.lake.rows("silver.numbers") == 1


@pytest.mark.failure("permanent")
def test_an_upstream_that_is_not_there_is_named(tmp_path: Path) -> None:
    t = declared()
    with pytest.raises(MissingUpstream, match=r"bronze\.events"):
        bring(t, Lake(tmp_path), None, catalog(t))


def picky(limit: int) -> Table:
    """The table with an expectation that rejects."""
    from medallion_platform.contracts.contract import Compare, Expectation, Severity

    small = Expectation("amount: small", ("amount",), Severity.REJECT, Compare("lt", limit))
    contract = replace(typed("long"), expectations=(*typed("long").expectations, small))
    return declared(contract)


@pytest.mark.failure("conflict")
def test_of_two_refreshes_at_once_the_later_is_fenced_and_nothing_is_doubled(
    zone: Zone, spark: SparkSession
) -> None:
    """Another one runs from start to end while this one waits before each of its two commits."""
    t = picky(10)
    known = catalog(t)
    arrive(zone, event("a", 0, amount=1), event("b", 0, amount=99))
    bring(t, zone.lake, spark, known)
    for turn, (module, name) in enumerate([(steps, "_commit_dead_letters"), (steps, "commit_files")]):
        arrive(zone, event(f"c{turn}", 0, amount=2), event(f"d{turn}", 0, amount=99))
        patch = pytest.MonkeyPatch()

        made = getattr(module, name)

        def overtaken(
            *given: Any,
            step: Any = made,
            patch: pytest.MonkeyPatch = patch,
            **named: Any,
        ) -> Any:
            patch.undo()
            bring(t, zone.lake, spark, known)
            return step(*given, **named)

        patch.setattr(module, name, overtaken)
        with pytest.raises(CommitConflict):
            bring(t, zone.lake, spark, known)
        bring(t, zone.lake, spark, known)
    assert sorted(amounts(zone.lake)) == ["a", "c0", "c1"]
    assert sum(dead(zone.lake, t.name).values()) == 3
    assert bring(t, zone.lake, None, known).reason == "up to date"


@pytest.mark.failure("conflict")
def test_dead_letters_of_a_fenced_refresh_that_saw_more_are_made_anew(
    zone: Zone, spark: SparkSession
) -> None:
    """The winner had nothing to reject, the loser saw newer rows: its dead letters came too early."""
    t = picky(10)
    known = catalog(t)
    arrive(zone, event("a", 0, amount=1))
    bring(t, zone.lake, spark, known)
    arrive(zone, event("b", 0, amount=2))
    look = stages.planned

    def overtaken(*given: Any, **named: Any) -> Any:
        patch.undo()
        bring(t, zone.lake, spark, known)
        arrive(zone, event("c", 0, amount=99))
        return look(*given, **named)

    patch = pytest.MonkeyPatch()
    patch.setattr(stages, "planned", overtaken)
    with pytest.raises(CommitConflict):
        bring(t, zone.lake, spark, known)
    bring(t, zone.lake, spark, known)
    assert sorted(amounts(zone.lake)) == ["a", "b"]
    assert sum(dead(zone.lake, t.name).values()) == 1


def test_dead_letters_that_a_loser_left_behind_are_made_anew(zone: Zone, spark: SparkSession) -> None:
    """Between its last look and its dead letters another one committed: same sequence, other letters."""
    t = picky(10)
    known = catalog(t)
    arrive(zone, event("a", 0, amount=99))
    done = bring(t, zone.lake, spark, known)
    arrive(zone, event("b", 0, amount=99))
    assert done.record
    (letter,) = dead_letters.read(zone.lake, t.name).to_dicts()
    early = {**letter, "payload": letter["payload"].replace(b'"a"', b'"b"')}
    loser = replace(done.record, run_id="loser")
    polars_append(zone.lake, t.name, [letter, early], loser)
    (found,) = plans_of_tables(known, zone.lake)
    assert [c.why for c in found.causes] == [Why.REFRESH_DIED, Why.UPSTREAM_CHANGED]
    assert bring(t, zone.lake, spark, known).record
    assert sum(dead(zone.lake, t.name).values()) == 2


def polars_append(lake: Lake, name: str, rows: list[dict[str, Any]], record: Any) -> None:
    """Dead letters of a writer that got in between, with the sequence that the table has now."""
    import shutil

    shutil.rmtree(lake.path(dead_letters.name(name)))
    dead_letters.append(lake, name, pl.DataFrame(rows, schema=dead_letters.columns()), record)


def test_upkeep_is_no_change_and_a_lost_log_is_a_rebuild(zone: Zone, spark: SparkSession) -> None:
    t = picky(10)
    known = catalog(t)
    for n in range(3):
        arrive(zone, event(f"a{n}", 0, amount=n), event(f"b{n}", n, amount=99))
        bring(t, zone.lake, spark, known)
    for name in ("bronze.events", t.name):
        found = zone.lake.open(name)
        assert found
        found.optimize.compact()
    assert bring(t, zone.lake, None, known).reason == "up to date"
    arrive(zone, event("z", 0, amount=5))
    bronze = zone.lake.open("bronze.events")
    assert bronze
    bronze.create_checkpoint()
    for version in range(bronze.version()):
        (zone.lake.root / "bronze" / "events" / "_delta_log" / f"{version:020}.json").unlink()
    before = content(zone.lake, t.name)
    done = bring(t, zone.lake, spark, known)
    assert "log" in done.reason
    assert content(zone.lake, t.name) == before + content_of("z", 5)
    assert sum(dead(zone.lake, t.name).values()) == 3


def content_of(key: str, amount: int) -> Any:
    from collections import Counter
    from datetime import date

    return Counter([repr({"amount": amount, "event_date": date(2026, 1, 5), "event_id": key})])


# partitions with odd names ------------------------------------------------------------------------


class Odd(ContractModel):
    event_id: T.StringType = Field()
    event_date: T.DateType = Field()
    region: T.StringType = Field(nullable=True)

    class Config:
        metadata = {"key": ["event_id"], "partitioned_by": ["event_date", "region"]}  # noqa: RUF012


def test_partition_values_of_any_text_are_kept(zone: Zone, spark: SparkSession) -> None:
    t = declared(Odd.contract, lambda events: events.select("event_id", "event_date", "region"))
    odd = ["a b", "x=y/%", "é€😀", "São 'Paulo'", "50%20", None, "a:b", "../x", "#?&"]
    arrive(zone, *(event(f"e{i}", i % 2, region=r) for i, r in enumerate(odd)))
    bring(t, zone.lake, spark, catalog(t))
    arrive(zone, event("late", 0, region="x=y/%"))
    bring(t, zone.lake, spark, catalog(t), partitions=["2026-01-05"], rebuild=True)
    expected = {f"e{i}": r for i, r in enumerate(odd)} | {"late": "x=y/%"}
    path = zone.lake.path("silver.numbers")
    assert dict(pl.read_delta(path).select("event_id", "region").rows()) == expected
    assert {
        r[0]: r[1] for r in spark.read.format("delta").load(path).select("event_id", "region").collect()
    } == expected


# personal data ------------------------------------------------------------------------------------


class Personal(ContractModel):
    event_id: T.StringType = Field()
    event_date: T.DateType = Field()
    amount: T.LongType = Field(lt=10, nullable=True)
    email: T.StringType = Field(nullable=True, pii="email", str_contains="example")
    phone: T.StringType = Field(nullable=True, pii="phone")

    class Config:
        metadata = {"key": ["event_id"], "partitioned_by": ["event_date"]}  # noqa: RUF012


PLANTED = {
    "email": "planted.mailbox@example.com",
    "phone": "+49 170 5550123",
    "note": "write to planted.other@example.org or call +1 (212) 555-0144",
    "nested": {"contact": "planted.nested@example.net"},
    "local": "jörg.planted.müller@beispiel.de oder планктон@пример.рф",
    "short": "212-555-0123, (030) 12, 030/5550123",
}
AS_THEY_CAME = {"price": "60417.35", "due": "2031-04-17", "ip": "192.168.100.200", "no": "000123-004567"}
CLEAR = [b"planted.", b"5550123", b"170 555", b"555-0144", b"mailbox", b"555-0123"]
CLEAR += ["planted.müller".encode(), "планктон".encode()]


def texts_of(lake: Lake, table: str) -> list[bytes]:
    """All that is kept of a table and its dead letters, as rows and as files."""
    names = [n for n in (table, dead_letters.name(table)) if lake.exists(n)]
    rows = [b"".join(repr(r).encode() for r in pl.read_delta(lake.path(n)).to_dicts()) for n in names]
    return rows + [f.read_bytes() for n in names for f in Path(lake.path(n)).rglob("*") if f.is_file()]


def test_no_clear_value_leaves_bronze_where_that_is_asked_for(zone: Zone, spark: SparkSession) -> None:
    t = replace(declared(Personal.contract, everything), mask_undeclared=True)
    wrong = {**PLANTED, "email": "planted.wrong@elsewhere.com"}
    arrive(
        zone,
        event("a", 0, amount=1, **PLANTED, **AS_THEY_CAME),
        event("b", 0, amount=99, **PLANTED, **AS_THEY_CAME),
        event("c", 0, amount=1, **wrong, **AS_THEY_CAME),
    )
    done = bring(t, zone.lake, spark, catalog(t))
    assert done.record
    assert done.record.counts.dead_lettered == 2
    row = pl.read_delta(zone.lake.path(t.name)).to_dicts()[0]
    assert row["email"] == "pla***@example.com"
    assert row["phone"] == "***0123"
    assert row["note"] == "write to pla***@example.org or call ***"
    assert {name: row[name] for name in AS_THEY_CAME} == AS_THEY_CAME
    assert done.record.masked == dict.fromkeys(PLANTED, 3)
    texts = texts_of(zone.lake, t.name)
    assert len(texts) > 5
    assert [value for text in texts for value in CLEAR if value in text] == []


def test_undeclared_text_flows_on_as_it_came(zone: Zone, spark: SparkSession) -> None:
    """Also what looks personal: bronze says so, with its number, and only what is declared is masked."""
    t = declared(Personal.contract, everything)
    arrive(zone, event("a", 0, amount=1, **PLANTED, **AS_THEY_CAME), event("b", 0, amount=99, **PLANTED))
    done = bring(t, zone.lake, spark, catalog(t))
    row = pl.read_delta(zone.lake.path(t.name)).to_dicts()[0]
    expected = AS_THEY_CAME | {name: PLANTED[name] for name in ("note", "local", "short")}
    assert {name: row[name] for name in expected} == expected
    assert json.loads(row["nested"]) == PLANTED["nested"]
    assert done.record
    assert done.record.masked == {"email": 2, "phone": 2}
    taken = zone.lake.last_record("bronze.events")
    assert taken
    assert taken.looks_personal == dict.fromkeys(PLANTED, 2)


class Tokens(ContractModel):
    event_id: T.StringType = Field()
    event_date: T.DateType = Field()
    email: T.StringType = Field(nullable=True, pii="email", protect="tokenize")
    phone: T.StringType = Field(nullable=True, pii="phone")
    name: T.StringType = Field(nullable=True, pii="name", protect="hash")

    class Config:
        metadata = {"key": ["event_id"], "partitioned_by": ["event_date"]}  # noqa: RUF012


def test_tokens_can_be_joined_and_need_a_key(
    zone: Zone, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = declared(Tokens.contract, everything)
    behind = table(
        "gold.numbers",
        contract=Tokens.contract,
        inputs={"numbers": first.name},
        incremental="append",
        partition=daily("event_date"),
    )(lambda numbers: numbers)
    both = Catalog((EVENTS,), (first, behind))
    people = {"a": "jane@example.com", "b": "jane@example.com", "c": "joe@example.com", "d": None}
    arrive(zone, *(event(i, 0, email=e, name="Jane Doe") for i, e in people.items()))

    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(
        RefreshFailed, match=r"^silver.numbers: its contract asks for tokens, and MEDALLION_TOKEN_K"
    ):
        bring(first, zone.lake, spark, both)
    assert zone.lake.version(first.name) < 0

    for key in ("the first secret key", "another secret key"):
        monkeypatch.setenv(KEY_VARIABLE, key)
        for t in (first, behind):
            done = bring(t, zone.lake, spark, both)
            assert done.record, "a new key makes the table anew"
            assert done.record.masked == {"email": 3, "name": 4}
            found = dict(pl.read_delta(zone.lake.path(t.name)).select("event_id", "email").rows())
            assert found == {
                i: e and hmac.new(key.encode(), e.encode(), "sha256").hexdigest() for i, e in people.items()
            }
            assert bring(t, zone.lake, spark, both).record is None
    names = set(pl.read_delta(zone.lake.path(behind.name))["name"])
    assert names == {hashlib.sha256(b"Jane Doe").hexdigest()}
    for t in (first, behind):
        for text in texts_of(zone.lake, t.name):
            assert b"secret key" not in text
            assert b"jane@" not in text


def test_nothing_to_do_asks_for_no_spark_and_reads_no_log_again(zone: Zone, spark: SparkSession) -> None:
    opened: list[str] = []

    class Watched(Lake):
        def open(self, table: str, version: int | None = None) -> DeltaTable | None:
            opened.append(table)
            return super().open(table, version)

    t = declared()
    arrive(zone, event("a", 0, amount=1))
    bring(t, zone.lake, spark, catalog(t))
    arrive(zone, Row(b"{", False))
    for _ in range(2):
        opened.clear()
        lake, columns = Watched(zone.lake.root), catalog(t).partition_columns
        assert stages.refresh(t, lake, no_spark, Run.now(), partition_columns=columns).record is None
    assert t.name not in opened
    assert EVENTS.table not in opened


def test_a_table_whose_files_tell_of_dead_letters_is_clustered(zone: Zone, spark: SparkSession) -> None:
    """Good rows of a write that rejected others lie in files with columns that the table does not have."""
    table = declared()
    for n in range(2):
        zone.json(f"events/{n}.json", [event(f"a{n}", 0, amount=1), event(f"b{n}", 0, amount=2**40)])
        zone.take(EVENTS)
        bring(table, zone.lake, spark, Catalog((EVENTS,), (table,)))
    before = content(zone.lake, table.name)
    assert (len(before), sum(dead(zone.lake, table.name).values())) == (2, 2)
    assert maintenance.optimize(zone.lake, table.name).files_after == 1
    assert content(zone.lake, table.name) == before
