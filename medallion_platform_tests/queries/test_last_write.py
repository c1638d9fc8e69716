"""When a table was last made before an instant, and what has come into its inputs since; without Spark."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medallion_platform.healing.report import InputChange
from medallion_platform.queries.last_write import last_write
from medallion_platform_tests.lakehouse.small_lake import SmallLake

SILVER, BRONZE = "silver.orders", "bronze.orders"


def instant() -> datetime:
    """Now, apart from the commits before and after it, whose times are whole milliseconds."""
    time.sleep(0.002)
    now = datetime.now(UTC)
    time.sleep(0.002)
    return now


def test_the_last_write_before_an_instant_and_what_came_in_until_another(tmp_path: Path) -> None:
    small = SmallLake(str(tmp_path))
    before = instant()
    small.round()
    made, inputs = instant(), small.lake.version(BRONZE)
    small.take_in()
    small.take_in()
    failed = instant()
    small.round()
    last, changed = last_write(small.lake, SILVER, made, failed)
    assert last
    assert (last.version, last.run_id, last.rows, last.usual_rows) == (1, "run", 2, 2)
    (change,) = changed
    assert change == InputChange(BRONZE, inputs, inputs + 2, 4, change.bytes)
    assert change.bytes and change.bytes == small.lake.sizes_added(BRONZE, inputs)["*"].bytes - sum(
        size.bytes for size in small.lake.sizes_added(BRONZE, inputs + 2).values()
    )
    last, changed = last_write(small.lake, SILVER, failed + timedelta(days=1), failed + timedelta(days=1))
    assert last and (last.version, last.rows) == (2, 8)
    assert changed == (), "it was made from the newest version"
    assert last_write(small.lake, SILVER, before, failed) == (None, ())


def test_of_a_source_s_table_the_intakes_count_and_no_inputs_are_told(tmp_path: Path) -> None:
    small = SmallLake(str(tmp_path))
    small.take_in()
    last, changed = last_write(small.lake, BRONZE, instant(), instant())
    assert last and (last.run_id, last.rows) == ("run-1", 3)
    assert changed == ()


def test_of_a_log_that_no_longer_tells_the_versions_are_known_and_no_rows(tmp_path: Path) -> None:
    small = SmallLake(str(tmp_path))
    small.round()
    made, version = instant(), small.lake.version(BRONZE)
    small.take_in()
    small.take_in()
    assert small.lake.version(BRONZE) == version + 2
    (tmp_path / "bronze" / "orders" / "_delta_log" / f"{version + 1:020}.json").unlink()
    _, (change,) = last_write(small.lake, SILVER, made, instant())
    assert change == InputChange(BRONZE, version, version + 2)


def test_rows_are_usual_by_the_median_of_the_writes_before(tmp_path: Path) -> None:
    small = SmallLake(str(tmp_path))
    for _ in range(3):
        small.round()
    last, _ = last_write(small.lake, SILVER, instant(), instant())
    assert last and (last.rows, last.usual_rows) == (6, 4)
