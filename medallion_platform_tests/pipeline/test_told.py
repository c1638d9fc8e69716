"""What an operator reads of a table's life in JSON lines: a line for each thing done, with its fields."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from medallion_platform.cli.logs import PLATFORM, JsonFormatter
from medallion_platform.contracts.contract import Expectation, Severity, Sql
from medallion_platform.lakehouse import lake_format
from medallion_platform.lakehouse.maintenance import maintain_table
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake.replay import replay
from medallion_platform.pipeline.publish import Delivery, publish
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.rollback import rollback
from medallion_platform.pipeline.run import Run
from medallion_platform_tests.serving.test_publish import Mirror

from .shop import EVENTS, event
from .test_refresh import declared
from .toy import NOW, Zone, bad

SECRET = "jane.roe@example.com"
STRICTER = replace(
    EVENTS,
    contract=replace(
        EVENTS.contract,
        expectations=(
            *EVENTS.contract.expectations,
            Expectation("above one", ("amount",), Severity.REJECT, Sql("amount > 1")),
        ),
    ),
)


class Counting(Mirror):
    """A consumer that takes any table."""

    def take(self, delivery: Delivery) -> int:
        self.held = delivery.edition
        return delivery.rows(["event_id"]).height


@contextmanager
def lines(level: int = logging.INFO) -> Iterator[list[dict[str, Any]]]:
    """What `--log-format json` prints meanwhile."""
    out, told = io.StringIO(), list[dict[str, Any]]()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(PLATFORM)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield told
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        assert SECRET not in out.getvalue(), "the value of a row"
        told += map(json.loads, out.getvalue().splitlines())


def fields(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """The room that said a line, its message behind the table, and some of its fields."""
    room = line["logger"].removeprefix(f"{PLATFORM}.")
    return (room, line["message"].partition(": ")[2], *(line[name] for name in names))


def test_a_life_of_a_table(tmp_path: Path, spark: SparkSession) -> None:
    zone, silver = Zone(tmp_path), declared()
    lake, known = zone.lake, Catalog((EVENTS,), (silver,))
    mirror = Counting("feast", silver.name)
    zone.json("events/1.json", [event("a", 0, amount=1), event(SECRET, 0, amount=5), bad(b'{"x": ')])
    zone.put("events/2.json", b"\x1f\x8b\x08\x00 no gzip")
    with lines() as told:
        zone.take_seen(STRICTER, zone.seen(STRICTER), lake, Run("taken", NOW))
        replay(EVENTS, lake, Run("replayed", NOW))
        refresh(silver, lake, lambda: spark, Run("made", NOW), partition_columns=known.partition_columns)
        publish(mirror, lake, Run("published", NOW))
        maintain_table(lake, "bronze.events", retention=timedelta(0))
        rollback(known, lake, "made", Run("back", NOW))
    assert {line["level"] for line in told} == {"info"}
    registered, planned, staged, taken, quarantined, replayed, *others = told
    assert fields(registered, "source", "run_id", "files", "unreadable", "first", "last") == (
        *("pipeline.intake.landing_zone", "2 files registered", EVENTS.name, "taken", 2, 0, 1, 2),
    )
    counts = ("read", "written", "dead_lettered", "duplicate", "superseded")
    assert fields(planned, "table")[1:] == ("planned", "bronze.events")
    assert fields(staged, *counts)[1:] == ("staged", 4, 1, 3, 0, 0)
    assert fields(taken, "table", "version", "run_id", "verb", *counts)[1:] == (
        *("committed", "bronze.events", 1, "taken", "intake", 4, 1, 3, 0, 0),
    )
    said = fields(quarantined, "code", "file", "run_id", "detail")
    assert said[:-1] == (
        *("pipeline.intake.polars_engine", "unreadable of events/2.json"),
        *("unreadable", "events/2.json", "taken"),
    )
    assert said[-1]["kept"].startswith("quarantine/")
    assert fields(replayed, "table", "source", "run_id", "version", *counts) == (
        *("pipeline.intake.replay", "replay", "bronze.events", EVENTS.name, "replayed", 2, 2, 1, 1, 0, 0),
    )
    made = [line for line in others if line["logger"] == f"{PLATFORM}.pipeline.refresh"]
    assert [fields(line, "table", "run_id")[1:] for line in made] == [
        (what, silver.name, "made") for what in ("planned", "staged", "committed")
    ]
    published, merged, deleted, back = (line for line in others if line not in made)
    assert fields(published, "consumer", "table", "run_id", "version", "written") == (
        *("pipeline.publish", "published", "feast", silver.name, "published", made[-1]["version"], 2),
    )
    assert fields(merged, "table", "files_before", "files_after", "rewritten") == (
        *("lakehouse.maintenance", "2 files rewritten", "bronze.events", 2, 1, 2),
    )
    assert fields(deleted, "table")[::2] == ("lakehouse.maintenance", "bronze.events")
    assert fields(back, "table", "run_id", "rolled_back", "rows_before", "rows") == (
        *("pipeline.rollback", "rolled back", silver.name, "back", "made", 2, 0),
    )


def test_each_commit_is_told_to_who_debugs(tmp_path: Path) -> None:
    """Those of registries and dead letters, too."""
    zone = Zone(tmp_path)
    zone.json("events/1.json", [event("a", 0, amount=1), bad(b"{")])
    with lines(logging.DEBUG) as told:
        zone.take_seen(EVENTS, zone.seen(EVENTS), zone.lake, Run("taken", NOW))
    commits = [line for line in told if line["logger"].endswith(".lakehouse.commit")]
    assert [(line["table"], line["message"], line.get("run_id"), line.get("verb")) for line in commits] == [
        (name, f"{name}: version 1", run, verb)
        for name, run, verb in (
            ("files.events", None, None),
            ("dead_letters.bronze.events", "taken", "intake"),
            ("bronze.events", "taken", "intake"),
        )
    ]
    (file,) = [line for line in told if line["message"].endswith("1.json registered")]
    assert (file["level"], file["path"], file["sequence"], file["state"]) == (
        *("debug", "events/1.json", 1, "new"),
    )


def test_a_migration_is_told_by_its_steps(tmp_path: Path) -> None:
    (tmp_path / "bronze" / "old" / "_delta_log").mkdir(parents=True)
    (tmp_path / "bronze" / "old" / "_delta_log" / f"{0:020}.json").write_text("{}")
    assert lake_format.read_format(str(tmp_path)) == 1
    with lines() as told:
        lake_format.migrate_lake(str(tmp_path))
    assert all(line["lake"] == str(tmp_path) for line in told)
    assert [(line["format"], line.get("step")) for line in told][-1] == (lake_format.FORMAT, None)
    assert len([line for line in told if "step" in line]) == sum(map(len, lake_format._MIGRATIONS.values()))


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_nothing_is_said_where_nothing_is_asked_for(tmp_path: Path, level: int) -> None:
    zone = Zone(tmp_path)
    zone.json("events/1.json", [event("a", 0, amount=1), bad(b"{")])
    with lines(level) as told:
        zone.take(EVENTS)
        replay(EVENTS, zone.lake, Run("replayed", NOW))
    assert told == []
