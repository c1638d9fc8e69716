"""What is launched as a run, and what is said of one that failed."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster_shared.error import SerializableErrorInfo

from medallion_platform.assembly import catalog, lakehouse_of
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.runs import Outcome, in_words
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.settings import Settings


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
    assert in_words(wrapper) == "silver.x: its transform failed (Error: y)."
    assert in_words(None) == "failed"


def test_the_engine_starts_beside_an_intake_and_not_where_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table without input is no reason: another domain's may never come."""
    started: list[object] = []
    monkeypatch.setattr(runs, "warm_up", started.append)
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
