"""What is launched as a run, and what is said of one that failed."""

from __future__ import annotations

import errno
from pathlib import Path

import dagster as dg
import pytest
from dagster_shared.error import SerializableErrorInfo

from medallion_platform.errors import Kind, chain_of
from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration import assets, runs
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.failures import TableFailure
from medallion_platform.orchestration.location import catalog, lakehouse_of
from medallion_platform.orchestration.names import pool_name, table_of
from medallion_platform.orchestration.runs import Outcome, run_error_in_words
from medallion_platform.orchestration.written_tables_tag import with_tables
from medallion_platform.pipeline.catalog import Catalog


@pytest.mark.parametrize(
    ("before", "tables", "after"),
    [
        ("", ["silver.a"], "silver.a"),
        ("bronze.a", ["bronze.b", "bronze.a"], "bronze.a, bronze.b"),
        ("a, b, c, d", ["e", "f", "g"], "a, b, c, d, e and 2 more"),
        ("a, b, c, d, e and 2 more", ["h"], "a, b, c, d, e and 3 more"),
        ("a, b, c, d, e and 2 more", [], "a, b, c, d, e and 2 more"),
        ("", [], ""),
        ("a and b", ["c"], "a and b, c"),
        ("a and some more", ["c"], "a and some more, c"),
        ("mine\n", ["c"], "mine\n, c"),
    ],
)
def test_the_tag_of_a_run_names_the_tables_that_it_wrote(before: str, tables: list[str], after: str) -> None:
    assert with_tables(before, tables) == after


def test_a_pool_is_told_as_its_table() -> None:
    for table in ("silver.events", "gold.user_features", "serving.user_features", "bronze.a_b_c"):
        assert table_of(pool_name(table)) == table


def test_a_failure_is_told_by_our_own_sentence() -> None:
    engine = SerializableErrorInfo("py4j.Py4JJavaError: john.doe@example.com\n", [], "Py4JJavaError")
    ours = SerializableErrorInfo(
        "medallion_platform.pipeline.refresh.RefreshFailed: silver.x: its transform failed (Error: y).\n",
        [],
        "RefreshFailed",
        engine,
    )
    wrapper = SerializableErrorInfo(
        "dagster.DagsterExecutionStepExecutionError: Error\n", [], "DagsterExecutionStepExecutionError", ours
    )
    assert run_error_in_words(wrapper) == "silver.x: its transform failed (Error: y)."
    assert run_error_in_words(None) == "failed"


def test_the_engine_starts_beside_an_intake_and_not_where_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table without input is no reason: another domain's may never come."""
    started: list[object] = []
    monkeypatch.setattr(runs, "start_spark_early", started.append)
    place = lakehouse_of(Settings(home=tmp_path, settle_seconds=0))
    sources = (catalog.source_of["bronze.departments"], catalog.source_of["bronze.jobs"])
    few = Catalog(sources, (catalog.by_name["silver.jobs"],))
    defs = build_defs(few, place)

    def round() -> Outcome:
        return runs.run_everything(lambda: defs, few, place, on)

    with dg.DagsterInstance.ephemeral() as on:
        assert not round().failed
        assert started == []
        file = Path(place.landing) / "hr" / "departments" / "departments.csv"
        file.parent.mkdir(parents=True)
        file.write_text("1,Sales\n")
        assert not round().failed
        assert started == [place]
        round()
        assert started == [place]


def test_a_failure_has_a_class_whatever_its_text_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_in(*_: object) -> None:
        raise OSError(errno.ENOSPC, "kein Platz")

    place = lakehouse_of(Settings(home=tmp_path, settle_seconds=0))
    few = Catalog((catalog.source_of["bronze.departments"],), ())
    file = Path(place.landing) / "hr" / "departments" / "departments.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1,Sales\n")
    monkeypatch.setattr(assets, "_take_in_source", take_in)
    monkeypatch.setattr(runs, "start_spark_early", lambda _: None)
    with dg.DagsterInstance.ephemeral() as on:
        outcome = runs.run_everything(lambda: build_defs(few, place), few, place, on)
    told = TableFailure("[Errno 28] kein Platz", chain_of(OSError(errno.ENOSPC, "kein Platz")))
    assert outcome.failed == {"bronze.departments": told}
    assert told.kind is Kind.DISK


def test_a_run_for_some_tables_takes_in_what_they_are_made_from(tmp_path: Path) -> None:
    assert catalog.with_upstream(["gold.department_metrics", "bronze.users"]) == {
        "gold.department_metrics",
        "silver.hired_employees",
        "silver.departments",
        "bronze.hired_employees",
        "bronze.departments",
        "bronze.users",
    }
    place = lakehouse_of(Settings(home=tmp_path, settle_seconds=0))
    few = Catalog((catalog.source_of["bronze.departments"], catalog.source_of["bronze.jobs"]), ())
    defs = build_defs(few, place)
    for name in ("departments", "jobs"):
        file = Path(place.landing) / "hr" / name / f"{name}.csv"
        file.parent.mkdir(parents=True)
        file.write_text("1,Sales\n")
    with dg.DagsterInstance.ephemeral() as on:
        assert not runs.run_everything(lambda: defs, few, place, on, ["bronze.jobs"]).failed
        assert (place.lake.rows("bronze.jobs"), place.lake.version("bronze.departments")) == (1, -1)


def test_where_there_is_nothing_to_do_no_run_is_made(tmp_path: Path) -> None:
    """And what Dagster shows is not built: that takes longer than the look."""
    place = lakehouse_of(Settings(home=tmp_path, settle_seconds=0))
    few = Catalog((catalog.source_of["bronze.departments"],), ())
    file = Path(place.landing) / "hr" / "departments" / "departments.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1,Sales\n")
    built: list[object] = []

    def defs() -> dg.Definitions:
        built.append(place)
        return build_defs(few, place)

    with dg.DagsterInstance.ephemeral() as on:
        first = runs.run_everything(defs, few, place, on)
        assert len(first.run_ids) == len(on.get_runs()) == len(built) == 1
        assert first.before == {"bronze.departments": -1}
        again = runs.run_everything(defs, few, place, on)
        assert (again.run_ids, again.before) == (
            [],
            {"bronze.departments": place.lake.version("bronze.departments")},
        )
        assert len(on.get_runs()) == len(built) == 1
