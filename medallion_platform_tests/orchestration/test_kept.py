"""Who looks again and again finds what a fresh look finds, whatever happened in between."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.lakehouse import (
    dead_letters,
    delta_log,
    file_registry,
    known_facts,
    polars_writer,
    table_state,
)
from medallion_platform.lakehouse.commit import next_sequence
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.intakes import waiting_arrivals
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.pipeline import out_of_date
from medallion_platform.pipeline.answer_cache import AnswerCache
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.out_of_date import out_of_date_tables
from medallion_platform.pipeline.refresh.plan import CODE, code_version
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform_tests.benchmarks.many import catalog_of

CATALOG = catalog_of(2)
NAMES = [*CATALOG.names, *(file_registry.registry_table(s.name) for s in CATALOG.sources)]
NAMES += [dead_letters.name(name) for name in CATALOG.names]
TICK_SECONDS = 0.02
"""What stands for the coarsest clock of a file system here: more than this one's."""


class World:
    """A lake and a landing zone in which things happen, each by a few numbers."""

    def __init__(self, home: Path) -> None:
        self.facts = home / "known_facts.json"
        self.place = Lakehouse(
            lake_root=str(home / "lake"),
            landing=str(home / "landing"),
            feature_repo=str(home / "features"),
            settle_seconds=0,
        )
        self.zone, self.lake = Path(self.place.landing), self.place.lake
        self.changes: list[Callable[[int, int], object]] = [
            *(self.land, self.take_in, self.refresh, self.refresh, self.by_others),
            *(self.drop, self.compact, self.lose_file, self.reject),
        ]

    def land(self, n: int, day: int) -> None:
        file = self.zone / self.source(n).name / f"{day % 2}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"sold_at,euros\n2026-02-0{1 + day}T10:00:00Z,{n}\nnever,{n}\n")
        os.utime(file, (n, day))

    def take_in(self, n: int, _: int) -> None:
        source, run = self.source(n), Run.now("intake")
        seen = landing_scan.scan_landing_zone(self.zone, [source], run.at, 0).claimed[source.name]
        intake(landing_zone.landed_files(source, self.zone, seen, self.lake, run), self.lake, run)

    def refresh(self, n: int, day: int) -> None:
        """As a refresh commits: it says from which versions."""
        made = CATALOG.in_order[n % len(CATALOG.in_order)]
        if any(not self.lake.exists(u) for u in made.upstream_names):
            return
        new = pl.DataFrame({"event_date": [datetime(2026, 2, 1 + day).date()], "euros": [n]})
        target = self.lake.ensure(made.name, new.to_arrow().schema, ["event_date"])
        position = {u: {UNPARTITIONED: self.lake.version(u)} for u in made.upstream_names}
        position[CODE] = {UNPARTITIONED: code_version(made)}
        record = CommitRecord(
            "refresh", f"r{n}", "now", Counts(1, 1), position=position, sequence=next_sequence(target)
        )
        polars_writer.append_rows(target, new, record, {})

    def by_others(self, n: int, day: int) -> None:
        if table := self.lake.open(self.table(n)):
            write_deltalake(
                table, pl.DataFrame(table.to_pyarrow_table().slice(0, 1 + day % 2)), mode="append"
            )

    def drop(self, n: int, _: int) -> None:
        shutil.rmtree(self.lake.path(self.table(n)), ignore_errors=True)

    def compact(self, n: int, _: int) -> None:
        if table := self.lake.open(self.table(n)):
            table.optimize.compact()

    def lose_file(self, n: int, day: int) -> None:
        (self.zone / self.source(n).name / f"{day % 2}.csv").unlink(missing_ok=True)

    def reject(self, n: int, _: int) -> None:
        """As a refresh that dies after its dead letters."""
        made = CATALOG.in_order[n % len(CATALOG.in_order)]
        row = pl.DataFrame([{"source": made.name, "offset": n}], schema=dead_letters.columns())
        sequence = self.lake.sequence(made.name) + 1
        if self.lake.sequence(dead_letters.name(made.name)) < sequence:
            dead_letters.append(
                self.lake, made.name, row, CommitRecord("refresh", f"r{n}", "now", sequence=sequence)
            )

    def source(self, n: int) -> FileSource:
        source = CATALOG.sources[n % len(CATALOG.sources)]
        assert isinstance(source, FileSource)
        return source

    def table(self, n: int) -> str:
        return NAMES[n % len(NAMES)]

    def look(self, kept: AnswerCache | None = None) -> tuple[object, object]:
        lake = self.lake.snapshot()
        waits = waiting_arrivals(CATALOG, self.place, datetime.now(UTC), lake, kept)
        return waits, out_of_date_tables(CATALOG, lake, kept)

    def look_remembering(self) -> tuple[object, object]:
        """The same by a process that knows what the one before it kept."""
        known, table_state._places = table_state._places, type(table_state._places)()
        time.sleep(1.5 * TICK_SECONDS)
        try:
            with pytest.MonkeyPatch.context() as patch, known_facts.use_known_facts(self.facts):
                patch.setattr(delta_log, "_CLOCK_NS", int(TICK_SECONDS * 1e9))
                return self.look()
        finally:
            table_state._places = known

    def look_afresh(self) -> tuple[object, object]:
        """The same by who never looked before."""
        known, table_state._places = table_state._places, type(table_state._places)()
        try:
            return self.look()
        finally:
            table_state._places = known


CHANGE = st.tuples(st.integers(0, 8), st.integers(0, len(NAMES) - 1), st.integers(0, 2))


@settings(max_examples=8)
@given(st.lists(st.lists(CHANGE, min_size=1, max_size=3), min_size=4, max_size=8))
def test_a_kept_look_finds_what_a_fresh_one_finds(rounds: list[list[tuple[int, int, int]]]) -> None:
    with TemporaryDirectory() as folder:
        world, kept = World(Path(folder)), AnswerCache()
        for n in range(2):  # so that there is something to change
            world.land(n, 0)
            world.take_in(n, 0)
            world.refresh(2 * n, 0)
            world.refresh(2 * n + 1, 0)
        for changes in rounds:
            assert world.look(kept) == world.look_afresh() == world.look_remembering()
            for what, n, day in changes:
                world.changes[what](n, day)
        assert world.look(kept) == world.look_afresh() == world.look_remembering()


def test_what_did_not_change_is_not_found_out_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, kept = World(tmp_path), AnswerCache()
    world.land(0, 0)
    world.take_in(0, 0)
    asked: Counter[str] = Counter()
    out_of_date_table, files_waiting = out_of_date.out_of_date_table, landing_zone.waiting_files

    def one_behind(table: out_of_date.Table, *others: object) -> object:
        asked[table.name] += 1
        return out_of_date_table(table, *others)  # type: ignore[arg-type]

    def one_waiting(source: FileSource, *others: object) -> object:
        asked[source.name] += 1
        return files_waiting(source, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(out_of_date, "out_of_date_table", one_behind)
    monkeypatch.setattr(landing_zone, "waiting_files", one_waiting)
    world.look(kept)
    assert len(asked) == 6
    asked.clear()
    world.look(kept)
    assert not asked
    world.land(1, 0)
    world.look(kept)
    assert asked == {"sales_001": 1}
    asked.clear()
    world.take_in(1, 0)
    world.look(kept)
    assert asked == {"sales_001": 1, "silver.sales_001": 1}, "gold is made from silver, which is as it was"


def test_a_damaged_log_keeps_no_other_source_from_being_taken_in(tmp_path: Path) -> None:
    world = World(tmp_path)
    for n in range(2):
        world.land(n, 0)
    world.take_in(0, 0)
    assert len(world.look()[0]) == 1  # type: ignore[arg-type]
    for commit in (Path(world.lake.path("bronze.sales_000")) / "_delta_log").glob("*.json"):
        commit.write_text("{ damaged")
    waiting = waiting_arrivals(CATALOG, world.place, datetime.now(UTC), world.lake.snapshot())
    (damaged,), (other,) = waiting["bronze.sales_000"], waiting["bronze.sales_001"]
    assert "bronze.sales_000" in damaged, "its intake says why"
    assert other.startswith("sales_001/0.csv")
    assert out_of_date.tables_waiting_for_inputs(CATALOG, world.lake.snapshot()) == {}


def test_the_state_of_a_table_tells_it_from_one_made_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "silver" / "a")
    lake = Lake(tmp_path)
    assert lake.state("silver.a") is None
    states = []
    for _ in range(2):
        write_deltalake(path, pl.DataFrame({"a": [1]}))
        states.append(lake.state("silver.a"))
        assert lake.state("silver.a") == states[-1]
        assert DeltaTable(path).version() == 0
        shutil.rmtree(path)
    assert states[0] != states[1]
