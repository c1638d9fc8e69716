"""Runs drills: steady state, injection, traffic, looks until all is well or the time is over, verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from medallion_platform.drills.drill import (
    Drill,
    FillDisk,
    InARun,
    Poison,
    Refuse,
    Spoil,
    SteadyState,
    drill_of,
)
from medallion_platform.drills.injections import End, inject
from medallion_platform.drills.place import part_of
from medallion_platform.drills.traffic import Piece, Traffic, can_be_spoiled, poisoned, spoiled, traffic_of
from medallion_platform.drills.verdict import (
    Observed,
    Result,
    Rows,
    differences,
    differing,
    done_in_words,
    seconds_between,
    verdict_of,
)
from medallion_platform.drills.world import (
    CannotDrill,
    Workers,
    World,
    can_mount,
    folder_of_drills,
    new_world,
)
from medallion_platform.lakehouse import dead_letters
from medallion_platform.pipeline.catalog import Catalog

if TYPE_CHECKING:
    from medallion_platform.installation.settings import Settings

PATIENCE = 2
"""So many times its target a drill waits: what comes later is no recovery."""
_ROUNDS = 20
"""Looks within which an undisturbed world has to be caught up."""
_IDLE = 3
"""Looks in a row that ask for nothing, after which no more comes where nothing is tried again."""
_LOOK_EVERY = 1.0
ALL_WELL = SteadyState(checks=("conserved", "caughtUp"))


def all_drills() -> list[Drill]:
    """The drills of this package, by name."""
    folder = files(__package__ or "")
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return [drill_of(file.read_text(encoding="utf-8")) for file in found]


def run_drills(
    drills: Iterable[Drill],
    catalog: Catalog,
    settings: Settings,
    example: Path | None,
    *,
    healed: bool = True,
    say: Callable[[str], None] = print,
) -> Iterator[Result]:
    """Run drills one after the other. healed: False: nothing that failed is tried again.

    example: the folder of files that are used where nothing has landed yet.

    Raises:
        TooClose, CannotDrill: no drill can be run here.
        Unusable: the landing zone is in a bucket that cannot be reached.
    """
    with folder_of_drills(settings) as folder:
        workers = Workers(folder / "runs.log")
        try:
            session = _Session(catalog, settings, example, folder, workers, healed, say)
            for drill in drills:
                yield session.run(drill)
        finally:
            workers.stop()


@dataclass
class _Session:
    """Drills that share their traffic, their processes, and an undisturbed copy."""

    catalog: Catalog
    settings: Settings
    example: Path | None
    folder: Path
    workers: Workers
    healed: bool
    say: Callable[[str], None]

    def run(self, drill: Drill) -> Result:
        """Run one drill."""
        at, began = datetime.now(UTC), time.monotonic()
        self.say(f"{drill.name}: {drill.description}")
        target = drill.target.table_in(self.part)
        problem = self._lacking(drill, target)
        seen = Observed(target or "", problem) if problem else self._observe(drill, target or "")
        verdict, reason = verdict_of(drill, seen, [s.table for s in self.part.sources])
        return Result(drill, at, seen, verdict, reason, not self.healed, round(time.monotonic() - began, 1))

    @cached_property
    def traffic(self) -> Traffic:
        """Copies of the user's files, or of the example's."""
        sources = self.catalog.file_sources
        found = traffic_of(str(self.settings.landing), sources)
        if not found.during and self.example is not None:
            found = traffic_of(str(self.example), sources)
        return found

    @cached_property
    def part(self) -> Catalog:
        """The part of the catalog that the traffic reaches."""
        return part_of(self.catalog, {p.source for p in (*self.traffic.before, *self.traffic.during)})

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The tables of its sources."""
        return tuple(source.table for source in self.part.sources)

    @cached_property
    def undisturbed(self) -> Rows:
        """What is in the tables when all has arrived and nothing happened.

        Raises:
            CannotDrill: they are not made even then.
        """
        return self._undisturbed()

    @cached_property
    def never_the_same(self) -> set[str]:
        """Tables whose rows come out otherwise each time (a transform asks for the time, say)."""
        return differing(self.undisturbed, self._undisturbed())

    def _undisturbed(self) -> Rows:
        self.say("an undisturbed copy, to compare with")
        with new_world(self.folder, self.sources, self.workers) as world:
            world.land(*self.traffic.before)
            _bring_up(world)
            world.land(*self.traffic.during)
            _bring_up(world)
            return world.content()

    def _lacking(self, drill: Drill, target: str | None) -> str:
        """Why a drill cannot be run here; "" if it can."""
        if not self.traffic.during:
            return "there are no files to drill with: none in the landing zone, and no example"
        if target is None:
            return f"nothing in this catalog is {drill.target}"
        if isinstance(drill.injection, FillDisk) and not can_mount():
            return "a small disk is mounted by root only"
        if isinstance(drill.injection, Spoil | Poison) and self._extended(target) is None:
            return f"no file of {target} is text to which a row can be added"
        return ""

    def _extended(self, target: str) -> Piece | None:
        (source,) = (s for s in self.part.file_sources if s.table == target)
        fitting = (p for p in self.traffic.during if p.source == target and can_be_spoiled(source, p))
        return next(fitting, None)

    def _observe(self, drill: Drill, target: str) -> Observed:
        try:
            want = self.undisturbed
            with new_world(
                self.folder,
                self.sources,
                self.workers,
                in_bucket=isinstance(drill.injection, Refuse),
                small_disk=isinstance(drill.injection, FillDisk),
                impatient=drill.injection == InARun(type="stop"),
            ) as world:
                world.land(*self.traffic.before)
                _bring_up(world, drill.steady_state)
                return self._disturb(drill, world, target, want)
        except CannotDrill as error:
            return Observed(target, str(error))

    def _disturb(self, drill: Drill, world: World, target: str, want: Rows) -> Observed:
        began = datetime.now(UTC)
        end = inject(drill, world, target)
        during = self.traffic.during
        if isinstance(drill.injection, Spoil | Poison):
            extended = self._extended(target)
            extend = spoiled if isinstance(drill.injection, Spoil) else poisoned
            during = tuple(extend(p) if p is extended else p for p in during)
        world.land(*during)
        over, healed, wrong = self._attend(drill, world, target, end)
        over = over or began
        incidents = list(world.known().incidents.values())
        have = world.content()
        alone = _otherwise(drill, target)
        lost, doubled = differences(want, have, alone)
        if lost or doubled:
            lost, doubled = differences(want, have, alone | self.never_the_same)
        _, dead_lettered = differences(_letters(want), _letters(have))
        detected = min((i.detected for i in incidents), default=None)
        observed = Observed(
            target,
            detected_after=seconds_between(began, detected),
            lasted=seconds_between(began, over) or 0.0,
            healed_after=seconds_between(over, healed),
            still_wrong=tuple(wrong),
            disturbed=tuple(sorted({i.table for i in incidents})),
            lost=lost,
            doubled=doubled,
            dead_lettered=dead_lettered,
            done=done_in_words(incidents),
        )
        struck = world.strikes or incidents or dead_lettered
        return observed if struck else replace(observed, problem="the fault came to nobody")

    def _attend(
        self, drill: Drill, world: World, target: str, end: End | None
    ) -> tuple[datetime | None, datetime | None, list[str]]:
        """Look until all is well; gives when the fault was ended, when all was well, and what is not."""
        failed, idle, over = world.failed_runs(), 0, None
        until = time.monotonic() + drill.hypothesis.recovery_timeout * PATIENCE
        while True:
            idle = 0 if world.look() else idle + 1
            if end and (world.failed_runs() > failed or idle == _IDLE):
                end()
                end, over = None, datetime.now(UTC)
                until = time.monotonic() + drill.hypothesis.recovery_timeout * PATIENCE
            if not self.healed and world.failed_runs() > failed:
                world.pause_what_failed()
            wrong = _still_wrong(drill, world, target)
            if not wrong:
                return over, datetime.now(UTC), []
            nothing_more = idle >= _IDLE and not end and not self.healed
            if time.monotonic() > until or nothing_more:
                return over, None, [*wrong, *world.failed_look]
            if idle:
                time.sleep(_LOOK_EVERY)


def _letters(content: Rows) -> Rows:
    return {name: rows for name, rows in content.items() if name.startswith(f"{dead_letters.LAYER}.")}


def _otherwise(drill: Drill, target: str) -> set[str]:
    """What is not to be as in the undisturbed copy."""
    if drill.hypothesis.end == "contained":
        return {target, dead_letters.name(target)}
    return {dead_letters.name(target)} if isinstance(drill.injection, Spoil | Poison) else set()


def _still_wrong(drill: Drill, world: World, target: str) -> list[str]:
    """What is not yet as the hypothesis says."""
    from medallion_platform.healing.incident import breaker

    known = world.known()
    still_open = [i for i in known.incidents.values() if not i.closed]
    if drill.hypothesis.end == "healed":
        return [
            *world.violated(drill.steady_state.checks),
            *(f"{i.table}: its incident is open" for i in still_open),
        ]
    wrong = world.violated(drill.steady_state.checks, without=target)
    opened = [i for i in still_open if i.table == target and breaker(i, known) == "open"]
    return wrong if opened else [*wrong, f"{target}: its breaker is not open"]


def _bring_up(world: World, steady: SteadyState = ALL_WELL) -> None:
    """Let an undisturbed world catch up.

    Raises:
        CannotDrill: it does not.
    """
    for _ in range(_ROUNDS):
        if not world.look():
            break
    wrong = world.violated(steady.checks)
    if wrong or world.failed_runs():
        raise CannotDrill(
            f"even without a fault not all is well: {'; '.join(wrong) or 'a run failed'}",
            remedy="`medallion run` says what is wrong",
        )
