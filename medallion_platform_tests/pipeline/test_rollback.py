"""What a run did is taken back, what others did stays, and nothing is read twice afterwards."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyspark.sql import SparkSession

from medallion_platform.contracts.contract import Expectation, Severity, Sql
from medallion_platform.lakehouse import dead_letters
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake.replay import parse_table_again
from medallion_platform.pipeline.out_of_date import out_of_date_tables
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.rollback import CannotRollBack, rollback
from medallion_platform.pipeline.run import Run, UnknownRun

from .shop import EVENTS, bring, content, dead, event, rebuilt
from .test_refresh import amounts, declared, picky
from .toy import Row, Zone, bad

STRICTER = replace(
    EVENTS,
    contract=replace(
        EVENTS.contract,
        expectations=(
            *EVENTS.contract.expectations,
            Expectation("amount is above one", ("amount",), Severity.REJECT, Sql("amount > 1")),
        ),
    ),
)
LATER = Run("the-rollback", datetime(2026, 11, 21, 13, tzinfo=UTC))


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


def take(zone: Zone, run_id: str, *rows: Row) -> None:
    zone.json(f"events/{run_id}.json", rows)
    zone.take_seen(EVENTS, zone.seen(EVENTS), zone.lake, Run(run_id, LATER.at), batch_rows=2)


def ids(zone: Zone) -> list[str]:
    return sorted(pl.read_delta(zone.lake.path("bronze.events"))["event_id"])


def test_an_intake_s_rows_go_and_those_of_later_ones_stay(zone: Zone, spark: SparkSession) -> None:
    t = picky(50)
    known = Catalog((EVENTS,), (t,))
    take(zone, "first", event("a", 0, amount=1), bad(b"{"))
    take(zone, "wrong", *(event(f"w{n}", n, amount=n) for n in range(5)), bad(b"["))
    take(zone, "third", event("c", 2, amount=3), event("x", 2, amount=99), bad(b"]"))
    bring(t, zone.lake, spark, known)
    done = rollback(known, zone.lake, "wrong", LATER)
    assert [(d.table, d.rows_before, d.rows) for d in done] == [("bronze.events", 8, 3)]
    assert ids(zone) == ["a", "c", "x"]
    assert sorted(dead_letters.read(zone.lake, "bronze.events")["payload"]) == [b"]", b"{"]
    # What follows sees days that changed, and is made from what is left.
    bring(t, zone.lake, spark, known)
    assert amounts(zone.lake) == {"a": 1, "c": 3}
    fresh = rebuilt(zone.lake, spark, zone.root / "fresh", known)
    assert content(fresh, t.name) == content(zone.lake, t.name)
    assert dead(fresh, t.name) == dead(zone.lake, t.name)
    # The position stays: no file is read twice, and new ones are taken in as ever.
    take(zone, "fourth", event("d", 1, amount=4))
    assert ids(zone) == ["a", "c", "d", "x"]
    assert zone.lake.records("bronze.events")[1][1].notes == ["withdrew run wrong"]


def test_the_first_intake_is_taken_back_whatever_columns_it_made(zone: Zone) -> None:
    """Columns of undeclared fields are a commit of their own: the log seemed to lack its beginning."""
    known = Catalog((EVENTS,), ())
    take(zone, "first", event("a", 0, amount=1, color="red"), event("b", 0, amount=2), bad(b"{"))
    take(zone, "second", event("c", 0, amount=3, size="M", shape="round"))
    (done,) = rollback(known, zone.lake, "first", LATER)
    assert (done.rows_before, done.rows, ids(zone)) == (3, 1, ["c"])
    assert dead_letters.read(zone.lake, "bronze.events").is_empty()


def test_what_was_taken_back_before_is_not_committed_again(zone: Zone) -> None:
    known = Catalog((EVENTS,), ())
    take(zone, "first", event("a", 0, amount=1))
    take(zone, "wrong", event("w", 0, amount=2), bad(b"["))
    take(zone, "only-bad", bad(b"{"))
    for run_id in ("wrong", "only-bad"):
        (once,) = rollback(known, zone.lake, run_id, replace(LATER, run_id=f"back-{run_id}"))
        versions = zone.lake.version("bronze.events"), zone.lake.version("dead_letters.bronze.events")
        assert once.version == versions[0]
        (again,) = rollback(known, zone.lake, run_id, replace(LATER, run_id="again"))
        assert (again.version, again.rows_before, again.rows) == (None, 1, 1)
        assert again.how == "nothing of it is left to take back"
        now = zone.lake.version("bronze.events"), zone.lake.version("dead_letters.bronze.events")
        assert now == versions
    take(zone, "later", event("b", 0, amount=3))
    (later,) = rollback(known, zone.lake, "later", replace(LATER, run_id="back-later"))
    assert later.version is not None
    assert ids(zone) == ["a"]


def test_a_refresh_is_taken_back_with_its_dead_letters_and_caught_up_later(
    zone: Zone, spark: SparkSession
) -> None:
    t = picky(50)
    known = Catalog((EVENTS,), (t,))
    take(zone, "first", event("a", 0, amount=1), event("x", 0, amount=99))
    bring(t, zone.lake, spark, known)
    before = (content(zone.lake, t.name), dead(zone.lake, t.name))
    take(zone, "second", event("b", 0, amount=2), event("y", 1, amount=98))
    wrong = Run("wrong", LATER.at)
    refresh(t, zone.lake, lambda: spark, wrong, partition_columns=known.partition_columns)
    assert amounts(zone.lake) == {"a": 1, "b": 2}
    done = rollback(known, zone.lake, "wrong", LATER)
    assert [(d.table, d.how) for d in done] == [(t.name, "as of version 1")]
    assert (content(zone.lake, t.name), dead(zone.lake, t.name)) == before
    (again,) = rollback(known, zone.lake, "wrong", LATER)
    assert (again.version, zone.lake.version(t.name)) == (None, done[0].version)
    assert out_of_date_tables(known, zone.lake)[t.name].taken_back, "nobody makes the same again unasked"
    # Nothing is lost: the next refresh starts from the position that the table is back at.
    bring(t, zone.lake, spark, known)
    assert amounts(zone.lake) == {"a": 1, "b": 2}
    assert dead(zone.lake, t.name).total() == 2
    assert bring(t, zone.lake, None, known).reason == "up to date"


def test_the_first_refresh_of_a_table_is_taken_back_to_nothing(zone: Zone, spark: SparkSession) -> None:
    t = picky(50)
    known = Catalog((EVENTS,), (t,))
    take(zone, "first", event("a", 0, amount=1), event("x", 0, amount=99))
    refresh(t, zone.lake, lambda: spark, Run("wrong", LATER.at), partition_columns=known.partition_columns)
    rollback(known, zone.lake, "wrong", LATER)
    assert (zone.lake.rows(t.name), dead(zone.lake, t.name).total()) == (0, 0)
    assert out_of_date_tables(known, zone.lake)[t.name].taken_back
    take(zone, "second", event("b", 1, amount=2))
    assert not out_of_date_tables(known, zone.lake)[t.name].taken_back, "something changed"
    bring(t, zone.lake, spark, known)
    assert amounts(zone.lake) == {"a": 1, "b": 2}
    assert out_of_date_tables(known, zone.lake) == {}


@pytest.mark.failure("permanent")
def test_what_cannot_be_taken_back_is_told_and_left(zone: Zone) -> None:
    known = Catalog((EVENTS,), ())
    take(zone, "first", event("a", 0, amount=1))
    with pytest.raises(UnknownRun, match="no table has a commit of run nobody"):
        rollback(known, zone.lake, "nobody", LATER)
    parse_table_again(STRICTER, zone.lake, Run("parsed-again", LATER.at))
    take(zone, "second", event("b", 0, amount=1))
    before = zone.lake.version("bronze.events")
    with pytest.raises(CannotRollBack, match="run second wrote to it after"):
        rollback(known, zone.lake, "parsed-again", LATER)
    assert zone.lake.version("bronze.events") == before


def test_the_beginning_of_a_run_s_id_will_do_where_it_means_one(zone: Zone) -> None:
    take(zone, "0d24-one", event("a", 0, amount=1))
    take(zone, "0d25-two", event("b", 0, amount=1))
    with pytest.raises(UnknownRun, match="2 runs begin with 0d2"):
        rollback(Catalog((EVENTS,), ()), zone.lake, "0d2", LATER)
    rollback(Catalog((EVENTS,), ()), zone.lake, "0d25", LATER)
    assert ids(zone) == ["a"]


def test_a_refresh_as_of_an_instant_and_back_to_now(zone: Zone, spark: SparkSession) -> None:
    t = declared()
    known = Catalog((EVENTS,), (t,))
    take(zone, "first", event("a", 0, amount=1))
    time.sleep(0.01)
    then = datetime.now(UTC)
    time.sleep(0.01)
    take(zone, "second", event("b", 0, amount=2), event("c", 3, amount=3))
    bring(t, zone.lake, spark, known)
    assert zone.lake.version_at("bronze.events", then) == 1
    options: dict[str, Any] = {"as_of": then}
    bring(t, zone.lake, spark, known, **options)
    assert amounts(zone.lake) == {"a": 1}
    assert bring(t, zone.lake, None, known, **options).reason == "up to date"
    bring(t, zone.lake, spark, known)
    assert amounts(zone.lake) == {"a": 1, "b": 2, "c": 3}


def test_a_log_that_was_trimmed_does_not_guess(zone: Zone) -> None:
    known = Catalog((EVENTS,), ())
    for n in range(3):
        take(zone, f"run-{n}", event(f"e{n}", 0, amount=n))
    found = zone.lake.open("bronze.events")
    assert found
    found.create_checkpoint()
    log = zone.lake.root / "bronze" / "events" / "_delta_log"
    for version in (0, 1):
        (log / f"{version:020}.json").unlink()
    with pytest.raises(CannotRollBack, match=r"^bronze\.events: its log no longer says where run run-1 "):
        rollback(known, zone.lake, "run-1", LATER)
    rollback(known, zone.lake, "run-2", replace(LATER, run_id="other"))
    assert ids(zone) == ["e0", "e1"]


def test_a_refresh_that_rejected_nothing_is_taken_back(zone: Zone, spark: SparkSession) -> None:
    t = picky(50)
    known = Catalog((EVENTS,), (t,))
    take(zone, "first", event("a", 0, amount=1), event("x", 0, amount=99))
    bring(t, zone.lake, spark, known)
    take(zone, "second", event("b", 0, amount=2))
    refresh(t, zone.lake, lambda: spark, Run("wrong", LATER.at), partition_columns=known.partition_columns)
    rollback(known, zone.lake, "wrong", LATER)
    assert amounts(zone.lake) == {"a": 1}
    assert dead(zone.lake, t.name).total() == 1


@pytest.mark.parametrize("wrong", [[bad(b"[")], [event("w", 0, amount=2), bad(b"[")]])
def test_what_was_withdrawn_stays_so_when_a_later_run_is_taken_back(zone: Zone, wrong: list[Row]) -> None:
    known = Catalog((EVENTS,), ())
    take(zone, "first", event("a", 0, amount=1), bad(b"{"))
    take(zone, "wrong", *wrong)
    rollback(known, zone.lake, "wrong", LATER)
    parse_table_again(STRICTER, zone.lake, Run("parsed-again", LATER.at))
    rollback(known, zone.lake, "parsed-again", replace(LATER, run_id="another-rollback"))
    assert ids(zone) == ["a"]
    assert dead_letters.read(zone.lake, "bronze.events")["payload"].to_list() == [b"{"]
