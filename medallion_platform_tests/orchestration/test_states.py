"""What a table's page says, whoever looked last: the age of data, missing inputs, bad rows that are there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.definitions.freshness import FreshnessState

from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse.commit import commit_files
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.location import catalog, definitions_of
from medallion_platform.orchestration.partitions import range_tags
from medallion_platform.orchestration.states import report_states, report_tables

EVENTS = dg.AssetKey("bronze_events")
SILVER = dg.AssetKey("silver_events")
COMPLETE = "medallion/complete_tables"
SERVED = {dg.AssetKey("serving_user_features"): "gold.user_features"}


class Place:
    """A home, its definitions and an instance."""

    def __init__(self, home: Path, on: dg.DagsterInstance) -> None:
        self.settings = Settings(home=home, settle_seconds=0)
        self.defs, self.on = definitions_of(self.settings), on
        self.lake = Lake(self.settings.lake)

    def land(self, name: str, *rows: dict[str, Any]) -> None:
        file = self.settings.landing / "clickstream" / "events" / name / "events.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def click(self, *days: str, **config: Any) -> dg.ExecuteInProcessResult:
        """Materialize bronze.events for a range of days, as a click in the UI does."""
        job = self.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={EVENTS})
        chosen = {"ops": {"bronze_events": {"config": config}}} if config else {}
        tags = range_tags(days[0], days[-1])
        result = job.execute_in_process(instance=self.on, run_config=chosen, tags=tags)
        assert result.success
        return result

    def intake(self) -> None:
        assert self.defs.resolve_job_def("intake").execute_in_process(instance=self.on).success

    def told(self, key: dg.AssetKey, check: str) -> Any:
        asked = dg.AssetCheckKey(key, check)
        record = self.on.event_log_storage.get_latest_asset_check_execution_by_key([asked]).get(asked)
        event = record.event if record else None
        return event.dagster_event.asset_check_evaluation_data if event and event.dagster_event else None

    def fresh(self, *keys: dg.AssetKey) -> list[FreshnessState | None]:
        found = self.on.get_freshness_state_records(list(keys))
        return [found[k].freshness_state if k in found else None for k in keys]

    def tell(self, at: datetime) -> None:
        report_states(catalog, SERVED, self.lake, self.on, at)

    def report_tables(self, at: datetime, *, forgotten: bool = False) -> dict[str, str]:
        """Gives what is remembered of it."""
        memory = self.on.daemon_cursor_storage
        if forgotten:
            memory.set_cursor_values({COMPLETE: "{}"})
        report_tables(catalog, self.lake, self.on, at)
        return json.loads(memory.get_cursor_values({COMPLETE})[COMPLETE])


def days_of(table: str, now: datetime) -> set[str]:
    first = catalog.origin(table).first_day
    return {str(first + timedelta(days=n)) for n in range((now.date() - first).days + 1)}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with dg.DagsterInstance.ephemeral() as on:
        yield Place(tmp_path, on)


def event(key: str | None, at: str) -> dict[str, Any]:
    return {"event_id": key, "user_id": "u1", "event_type": "click", "event_timestamp": at}


def test_a_click_on_bronze_takes_in_what_waits_and_parses_again_only_by_name(place: Place) -> None:
    place.land("a", event("a", "2026-01-05T10:00:00Z"), event("b", "2026-01-07T10:00:00Z"))
    place.click("2026-01-05", "2026-01-06")
    assert place.lake.rows("bronze.events") == 2
    days = {"2026-01-05", "2026-01-06", "2026-01-07"}
    assert place.on.get_materialized_partitions(EVENTS) == days
    place.report_tables(datetime.now(UTC))
    assert place.on.get_materialized_partitions(EVENTS) == days_of("bronze.events", datetime.now(UTC))
    version = place.lake.version("bronze.events")
    result = place.click("2026-01-05", "2026-01-06")
    assert place.lake.version("bronze.events") == version
    (said,) = {
        str(event.materialization.metadata["what_was_done"].value)
        for event in result.all_events
        if event.is_step_materialization
    }
    assert said.startswith("nothing to do")
    place.click("2026-01-05", parse_again=True)
    assert place.lake.version("bronze.events") == version, "every record is as it was"


def test_each_partition_tells_its_own_numbers(place: Place) -> None:
    place.land(
        "a", *(event(f"a{n}", "2026-01-05T10:00:00Z") for n in range(3)), event("b", "2026-01-06T10:00:00Z")
    )
    place.intake()
    place.land("c", event("c", "2026-01-05T11:00:00Z"))
    place.intake()
    written: dict[str | None, list[tuple[object, object]]] = {}
    of_the_table = []
    for record in place.on.fetch_materializations(EVENTS, limit=1000).records:
        assert record.asset_materialization
        told = record.asset_materialization.metadata
        counts = (told["dagster/partition_row_count"].value, told["partition_rows_written"].value)
        written.setdefault(record.partition_key, []).append(counts)
        if "dagster/row_count" in told:
            of_the_table.append((record.partition_key, told["dagster/row_count"].value))
            records = counted(int(str(told["run_rows_read"].value)), "records")
            assert told["what_was_done"].value == f"{records} from 1 file"
        elif counts[0] == 0:
            assert told["what_was_done"].value == "nothing to do: it has no rows"
    assert written.pop("2026-01-05") == [(4, 1), (3, 3)]
    assert written.pop("2026-01-06") == [(1, 1)]
    assert set(map(tuple, written.values())) == {((0, 0),)}, "a day without rows is done"
    # What the page of the table shows is what the newest event says, and no other says it.
    assert of_the_table == [("2026-01-05", 5), ("2026-01-06", 4)]


def test_a_complete_table_looks_complete_after_midnight_too(place: Place) -> None:
    now = datetime.now(UTC)
    place.land("a", event("a", "2026-02-05T10:00:00Z"))
    place.intake()
    assert place.on.get_materialized_partitions(EVENTS) == days_of("bronze.events", now)
    known = place.report_tables(now)
    told = len(place.on.fetch_materializations(EVENTS, limit=1000).records)
    for _ in range(2):
        assert place.report_tables(now) == known
        place.report_tables(now, forgotten=True)  # whoever remembers nothing finds nothing to tell
    assert len(place.on.fetch_materializations(EVENTS, limit=1000).records) == told
    place.report_tables(now + timedelta(days=3))
    assert len(place.on.fetch_materializations(EVENTS, limit=1000).records) == told + 3
    assert place.on.get_materialized_partitions(EVENTS) == days_of("bronze.events", now + timedelta(days=3))
    newest = place.on.get_latest_materialization_event(EVENTS)
    assert newest
    assert newest.asset_materialization
    assert newest.asset_materialization.metadata["dagster/row_count"].value == 1, "the page shows the table"
    assert "run_rows_written" not in newest.asset_materialization.metadata, "no plot falls as if cured"


def test_a_table_without_partitions_that_nobody_told_of_is_told_once(place: Place) -> None:
    key = dg.AssetKey("bronze_departments")
    file = place.settings.landing / "hr" / "departments" / "departments.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1,Sales\n")
    with dg.DagsterInstance.ephemeral() as forgotten:
        assert place.defs.resolve_job_def("intake").execute_in_process(instance=forgotten).success
    for forgotten in (False, True):
        known = place.report_tables(datetime.now(UTC), forgotten=forgotten)
        assert known == {"bronze.departments": "made"}
    (told,) = place.on.fetch_materializations(key, limit=5).records
    assert told.asset_materialization
    assert told.asset_materialization.metadata["dagster/row_count"].value == 1


def test_what_was_told_of_tables_under_former_names_is_taken_back_once(place: Place) -> None:
    former, other = dg.AssetKey(["bronze", "events"]), dg.AssetKey(["bronze", "mine"])
    place.land("a", event("a", "2026-01-05T10:00:00Z"))
    place.intake()
    for key in (former, other):
        place.on.report_runless_asset_event(dg.AssetMaterialization(key))
    place.on.daemon_cursor_storage.set_cursor_values(
        {"medallion/complete_partitions": '{"bronze.events": ""}'}
    )
    place.report_tables(datetime.now(UTC))
    assert not place.on.has_asset_key(former)
    assert place.on.has_asset_key(other), "an asset of somebody else's"
    assert place.on.has_asset_key(EVENTS)
    place.on.report_runless_asset_event(dg.AssetMaterialization(former))
    place.report_tables(datetime.now(UTC))
    assert place.on.has_asset_key(former), "whoever uses the name now keeps it"


def test_what_a_killed_run_did_not_tell_is_told_and_what_is_out_of_date_is_not(place: Place) -> None:
    place.land("a", event("a", "2026-02-05T10:00:00Z"), event("b", "2026-02-05T11:00:00Z"))
    with dg.DagsterInstance.ephemeral() as forgotten:
        assert place.defs.resolve_job_def("intake").execute_in_process(instance=forgotten).success
    for name in ("silver.events", "gold.daily_user_metrics"):  # there, and made from nothing yet
        place.lake.ensure(name, pa.schema([("event_date", pa.date32())]), ("event_date",))
    now = datetime.now(UTC)
    known = place.report_tables(now)
    assert known.keys() == {"bronze.events"}
    assert place.on.get_materialized_partitions(EVENTS) == days_of("bronze.events", now)
    (told,) = place.on.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=EVENTS, asset_partitions=["2026-02-05"]), limit=2
    ).records
    assert told.asset_materialization
    assert told.asset_materialization.metadata["dagster/partition_row_count"].value == 2
    for key in (SILVER, dg.AssetKey("gold_daily_user_metrics")):
        assert place.on.get_materialized_partitions(key) == set()


def test_a_check_tells_the_table_and_not_who_pressed_last(place: Place) -> None:
    good = [event(f"g{n}", "2026-01-05T10:00:00Z") for n in range(30)]
    place.land("a", *good, event(None, "2026-01-05T10:00:00Z"))
    place.intake()
    held = place.told(EVENTS, "contract_holds")
    assert held.passed, "a dirty feed is none that breaks its contract"
    assert held.metadata["dead_letters_now"].value == 1
    place.land("b", *(event(None, "2026-01-05T11:00:00Z") | {"n": n} for n in range(5)))
    place.intake()
    place.click("2026-01-05")  # with nothing to do
    held = place.told(EVENTS, "contract_holds")
    assert not held.passed
    assert held.metadata["share_of_the_last_write"].value == 1
    assert held.metadata["dead_letters_now"].value == 6
    assert held.metadata["last write, reject: event_id: not null"].value == 5
    place.land("c", *(event(f"c{n}", "2026-01-05T12:00:00Z") for n in range(30)))
    place.intake()
    held = place.told(EVENTS, "contract_holds")
    assert held.passed, "the letters that are there do not turn every later write yellow"
    assert held.metadata["dead_letters_now"].value == 6


def test_an_intake_of_rejected_rows_only_turns_nothing_green(place: Place) -> None:
    file = place.settings.landing / "hr" / "departments" / "departments.csv"
    file.parent.mkdir(parents=True)
    file.write_text("x,Nobody\n")
    place.intake()
    key = dg.AssetKey("bronze_departments")
    assert place.on.get_latest_materialization_event(key) is None
    assert len(place.on.fetch_observations(key, limit=2).records) == 1
    place.tell(datetime.now(UTC))
    assert place.fresh(key) == [FreshnessState.FAIL]


def test_freshness_is_told_by_the_age_of_the_data_and_what_waits_by_its_input(place: Place) -> None:
    now = datetime.now(UTC)
    place.land("a", event("a", (now - timedelta(hours=2)).isoformat()))
    place.intake()
    place.tell(now)
    assert place.fresh(EVENTS, SILVER) == [FreshnessState.PASS, None]
    waits = place.told(SILVER, "inputs_have_landed")
    assert not waits.passed
    assert waits.metadata["waits_for"].value == "bronze.regions, bronze.users"
    behind = place.told(dg.AssetKey("gold_user_features"), "inputs_have_landed")
    assert behind.metadata["waits_for"].value == waits.metadata["waits_for"].value

    def told() -> int:
        return len(place.on.all_logs("", of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION))

    before = told()
    place.tell(now + timedelta(days=2))  # nobody wrote anything
    assert place.fresh(EVENTS) == [FreshnessState.FAIL]
    assert told() == before, "what did not change is not told again"

    for name, rows in (("regions", "region_code"), ("users", "user_id")):
        place.lake.ensure(f"bronze.{name}", pa.schema([(rows, pa.string())]))
    place.lake.ensure("silver.regions", pa.schema([("region_code", pa.string())]))
    commit_files(
        place.lake.ensure("silver.regions", pa.schema([])),
        CommitRecord("refresh", "r", now.isoformat(), sequence=1),
    )
    for _ in range(2):
        place.tell(now)
    assert place.told(SILVER, "inputs_have_landed").passed
    assert place.told(dg.AssetKey("silver_regions"), "inputs_have_landed").passed, "a table that is there"
    assert place.told(dg.AssetKey("gold_user_features"), "inputs_have_landed").passed
    assert told() == 2 * before + 1, "once of each that waited, and of the one that is there now"
