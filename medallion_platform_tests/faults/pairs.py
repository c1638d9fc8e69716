"""Two faults at once in the world of a drill, again and again: `pairs.py FOLDER SEED COUNT [PATIENT]`.

Prints for each pair a line of JSON: what came of it. The clock of the sensor leaps, so that no pause is
waited for. PATIENT: with faults at which a client is patient for a minute.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from medallion_platform.drills.drill import Drill, InARun, Refuse
from medallion_platform.drills.faults import Fault
from medallion_platform.drills.injections import inject
from medallion_platform.drills.run import ALL_WELL, all_drills
from medallion_platform.drills.traffic import BROKEN, Traffic, spoiled, traffic_of
from medallion_platform.drills.verdict import Rows, differences
from medallion_platform.drills.world import Workers, World, can_mount, new_world
from medallion_platform.errors import MedallionError
from medallion_platform.healing.incident import breaker
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.damaged_files import verify_table
from medallion_platform.lakehouse.lake import files_of
from medallion_platform.orchestration import sensors
from medallion_platform_tests.faults.drilled_shop import catalog
from medallion_platform_tests.faults.test_files import spoil

LEAP = timedelta(minutes=11)
"""Between two looks: more than all pauses but those of an open breaker."""
LOOKS = 80
IDLE = 3
DRILLS = {drill.name: drill for drill in all_drills()}
SOURCES = tuple(source.table for source in catalog.sources)
TABLES = tuple(table.name for table in catalog.in_order)
LAST = tuple(name for name in TABLES if not any(name in t.upstream_names for t in catalog.tables))
READ = {"silver.events": "amount", "silver.history": "segment"}
"""Tables whose files the traffic makes others read, with a column."""
PATIENT = ("503 for all", "no answer for all")


@dataclass(frozen=True)
class Trouble:
    """A fault at a table."""

    name: str
    table: str

    @property
    def drill(self) -> Drill | None:
        """The drill that injects it; None for damage."""
        injection: Any = None
        match self.name.split(" "):
            case ["kill" | "fail" | "write" as how]:
                injection = InARun(type=how)
            case ["403" | "503" as status, "for", files]:
                injection = Refuse(type="refuse", answer=int(status), files=files)  # type: ignore[arg-type]
            case ["no", "answer", "for", files]:
                injection = Refuse(type="refuse", answer="none", files=files)  # type: ignore[arg-type]
            case _:
                return DRILLS.get(self.name)
        return DRILLS["killed-intake"].model_copy(update={"injection": injection})

    @property
    def refuses(self) -> bool:
        return " for " in self.name


def troubles(patient: bool) -> list[Trouble]:
    """All that there are on this machine."""
    found = [Trouble("kill", name) for name in (*SOURCES, *TABLES)]
    found += [Trouble("write", name) for name in TABLES]
    found += [Trouble("fail", name) for name in LAST]
    found += [Trouble("403 for target", name) for name in SOURCES]
    found += [Trouble(name, SOURCES[0]) for name in ("403 for all", *(PATIENT if patient else ()))]
    found += [Trouble("broken-rows", name) for name in SOURCES]
    found += [Trouble(damage, name) for damage in ("gone", "cut", "a bit flipped") for name in READ]
    found += [Trouble("checkpoint", name) for name in (*SOURCES, *TABLES)]
    return found + ([Trouble("full-disk", SOURCES[0])] if can_mount() else [])


def pairs(patient: bool) -> list[tuple[Trouble, Trouble]]:
    """All pairs of troubles that can be there at once."""
    every = combinations(troubles(patient), 2)
    return [(a, b) for a, b in every if a.name != b.name and not (a.refuses and b.refuses)]


def cause(trouble: Trouble, world: World) -> Callable[[], None] | None:
    """Let it happen; gives what ends it, if it does not end by itself."""
    if trouble.drill:
        return inject(trouble.drill, world, trouble.table)
    opened = world.lake.open(trouble.table)
    assert opened
    if trouble.name == "checkpoint":
        opened.create_checkpoint()
        newest = max(Path(world.lake.path(trouble.table)).rglob("*.checkpoint.parquet"))
        newest.write_bytes(b"")
    else:
        file = max(files_of(opened), key=lambda f: f["size_bytes"])
        spoil(world.lake.path(trouble.table), file["path"], trouble.name, READ[trouble.table])
    return None


@dataclass
class Clock:
    """The time of looks."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def now(self, _: object) -> datetime:
        self.at += LEAP
        return self.at


def bring_up(world: World) -> None:
    """Until nothing is asked for."""
    while world.look():
        pass
    assert not world.violated(ALL_WELL.checks)


def undisturbed(folder: Path, traffic: Traffic, workers: Workers) -> Rows:
    """What is in the tables if nothing happens."""
    with new_world(folder, SOURCES, workers) as world:
        world.land(*traffic.before)
        bring_up(world)
        world.land(*traffic.during)
        bring_up(world)
        return world.content()


def attend(world: World, faults: list[Fault], ends: list[Callable[[], None]], failing: set[str]) -> list[str]:
    """Look until all is well; gives what is not."""
    failed, idle, wrong = world.failed_runs(), 0, ["nobody has looked"]
    for _ in range(LOOKS):
        if world.fault is None and faults:
            world.fault = faults.pop(0)
        idle = 0 if world.look() else idle + 1
        if ends and (world.failed_runs() > failed or idle == IDLE):
            while ends:
                ends.pop()()
        wrong = still_wrong(world, failing)
        if not wrong and not ends and not faults and (world.fault is None or idle == IDLE):
            break
    return [*wrong, *(world.failed_look if wrong else ())]


def still_wrong(world: World, failing: set[str]) -> list[str]:
    """What is not well. failing: tables that may be left alone."""
    known = world.known()
    found = [line for line in world.violated(ALL_WELL.checks) if line.partition(":")[0] not in failing]
    for incident in known.incidents.values():
        alone = incident.table in failing and breaker(incident, known) == "open"
        if not incident.closed and not alone:
            found.append(f"{incident.table}: its incident {incident.id} is open ({incident.kind})")
    return found


def damaged(world: World) -> Iterator[str]:
    """Tables with a damaged file or log."""
    for name in (*SOURCES, *TABLES):
        try:
            verify_table(world.lake, name)
        except MedallionError as error:
            yield str(error)


def disturb(pair: Sequence[Trouble], world: World, traffic: Traffic, want: Rows) -> dict[str, Any]:
    """What comes of two faults."""
    ends: list[Callable[[], None]] = []
    faults: list[Fault] = []
    for trouble in pair:
        if end := cause(trouble, world):
            ends.append(end)
        faults += [world.fault] if world.fault else []
        world.fault = None
    faults.sort(key=lambda fault: fault.type == "fail")  # which goes on until the end
    broken = [t.table for t in pair if t.name == "broken-rows"]
    first = {p.source: p for p in reversed(traffic.during)}
    world.land(*(spoiled(p) if p.source in broken and p is first[p.source] else p for p in traffic.during))
    failing = {t.table for t in pair if t.name == "fail"}
    wrong = attend(world, faults, ends, failing)
    have = world.content()
    behind = {name for name in failing if world.known().open_of(name)}
    alone = behind | {dead_letters.name(name) for name in behind}
    letters = {dead_letters.name(name) for name in broken}
    lost, doubled = differences(want, have, alone | letters)
    for name in letters:
        wrong += [] if have[name].total() == want[name].total() + BROKEN else [f"{name}: {have[name]}"]
    incidents = world.known().incidents.values()
    return {
        "pair": [f"{trouble.name} at {trouble.table}" for trouble in pair],
        "wrong": [*wrong, *damaged(world)],
        "contained": sorted(behind),
        "lost": lost,
        "doubled": doubled,
        "incidents": [f"{i.table}: {i.kind}, {len(i.tries)} tries, {i.closed or 'open'}" for i in incidents],
    }


def main(folder: Path, seed: int, count: int, patient: bool) -> None:
    """Draw pairs, and cause them."""
    sensors.datetime = Mock(now=Clock().now)  # type: ignore[attr-defined]
    workers = Workers(folder / "runs.log")
    traffic = traffic_of(folder / "landing", catalog.file_sources)
    try:
        want = undisturbed(folder, traffic, workers)
        for pair in random.Random(seed).sample(pairs(patient), count):
            refused, small = any(t.refuses for t in pair), any(t.name == "full-disk" for t in pair)
            with new_world(folder, SOURCES, workers, in_bucket=refused, small_disk=small) as world:
                world.land(*traffic.before)
                bring_up(world)
                print(json.dumps(disturb(pair, world, traffic, want)), flush=True)
    finally:
        workers.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "PATIENT" in sys.argv[4:])
