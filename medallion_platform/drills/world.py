"""The world of a drill: a lake of its own in which data flows, as the daemon would let it flow.

Looks are those of the real sensor; the runs that it asks for are executed in processes of their own, which
can be killed. All of it is below `<home>/drills` and is deleted at the end, or by the next drill where one
was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from medallion_platform.drills.bucket import Bucket, serving
from medallion_platform.drills.drill import Check
from medallion_platform.drills.faults import Fault
from medallion_platform.drills.place import Place, refuse_places_of
from medallion_platform.drills.traffic import Piece, land
from medallion_platform.drills.verdict import Rows
from medallion_platform.drills.worker import Worker
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import dead_letters
from medallion_platform.pipeline.catalog import Catalog

if TYPE_CHECKING:
    import dagster as dg

    from medallion_platform.healing.incident import Known
    from medallion_platform.installation.settings import Settings
    from medallion_platform.lakehouse.lake import Lake

DISK_BYTES = 200_000_000
"""Of the small disk of a lake that is to be full."""
IMPATIENT = {"MEDALLION_HUNG_AFTER_MINUTES": "0.25"}
"""The setting of a world in which a run is stopped: a drill does not wait as long as one does in earnest."""

_DIGITS = 9
_WORLD = "world-"
"""Folders whose names begin so are deleted; others are not of a drill."""


class CannotDrill(MedallionError):
    """This machine or this project lacks what a drill needs."""

    kind = Kind.PERMANENT


@dataclass
class Workers:
    """The processes of runs, one for each job: one that takes in has no JVM, so to kill it costs little."""

    log: Path

    @cached_property
    def by_job(self) -> dict[str, Worker]:
        """The process by the name of the job."""
        return {}

    def of(self, job: str) -> Worker:
        """The process for runs of a job."""
        return self.by_job.setdefault(job, Worker(self.log))

    def stop(self) -> None:
        """End them."""
        for worker in self.by_job.values():
            worker.stop()


@dataclass
class World:
    """A place, its Dagster, and what the last look remembered. fault: comes to each run until it has come."""

    place: Place
    on: dg.DagsterInstance
    workers: Workers
    bucket: Bucket | None = None
    fault: Fault | None = None
    strikes: int = 0
    cursor: str | None = None
    failed_look: tuple[str, ...] = ()

    @cached_property
    def catalog(self) -> Catalog:
        """What it runs."""
        return self.place.catalog

    @cached_property
    def definitions(self) -> dg.Definitions:
        """Its jobs and its sensor."""
        return self.place.definitions

    @property
    def lake(self) -> Lake:
        """Its tables."""
        return self.place.lakehouse.lake

    def land(self, *pieces: Piece) -> None:
        """Let files arrive."""
        land(pieces, self.place.files)

    def look(self) -> int:
        """One look of the sensor, and the runs that it asks for, to their ends; gives how many.

        A look that fails is one that the daemon would repeat; `failed_look` says why the last one did.
        """
        import dagster as dg

        sensor = self.definitions.get_repository_def().get_sensor_def("catch_up_sensor")
        context = dg.build_sensor_context(
            self.on, cursor=self.cursor, resources={"lakehouse": self.place.lakehouse}
        )
        self.failed_look = ()
        try:
            seen: Any = sensor(context)
        except Exception as error:
            self.failed_look = (f"the last look failed: {type(error).__name__}: {error}",)
            return 0
        if isinstance(seen, dg.SkipReason):
            self.failed_look = (str(seen.skip_message),)
            return 0
        self.cursor = seen.cursor
        requests = list(seen.run_requests or ())
        for request in requests:
            self._execute(request)
        return len(requests)

    def _execute(self, request: dg.RunRequest) -> None:
        from dagster._core.storage.tags import RUN_KEY_TAG

        from medallion_platform.orchestration.hung_runs import Silences, end_hung_runs
        from medallion_platform.orchestration.pools import PID_TAG, close_dead_runs

        worker = self.workers.of(str(request.job_name))
        job = self.definitions.resolve_job_def(str(request.job_name))
        tags = {RUN_KEY_TAG: str(request.run_key)}  # as of the daemon
        run = self.on.create_run_for_job(
            job,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **request.run_config},
            tags={**job.run_tags, **request.tags, **tags, PID_TAG: str(worker.pid)},
        )
        silences: Silences = {}
        listen = partial(end_hung_runs, self.on, silences)  # as the sensor does at each look
        answer = worker.run(run.run_id, self.place, self.fault, listen)
        self.strikes += answer.strikes if self.fault else 0
        if self.fault and not self.fault.lasts and answer.strikes:
            self.fault = None
        if not answer.ended:
            close_dead_runs(self.on)  # as the daemon's monitor does

    def failed_runs(self) -> int:
        """How many runs have failed."""
        import dagster as dg

        return self.on.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))

    def known(self) -> Known:
        """What its ledger says."""
        from medallion_platform.healing.incident import known_from
        from medallion_platform.lakehouse import incidents

        return known_from(incidents.read(self.lake))

    def pause_what_failed(self) -> None:
        """Keep what failed from being tried again, as a person can (`medallion incidents pause`)."""
        from medallion_platform.healing.decide import pause
        from medallion_platform.lakehouse import incidents
        from medallion_platform.orchestration.failed_runs import evidence_of, failed_runs
        from medallion_platform.orchestration.healing import Memory, asked_of

        asked = Memory.from_text(self.cursor).asked
        runs, _ = failed_runs(self.on, None)
        failed = {e.table for run in runs for e in evidence_of(run, asked_of(run, asked))}
        ledger, now = incidents.read(self.lake), datetime.now(UTC)
        rows = [
            row for name in sorted(failed - self.known().paused.keys()) for row in pause(name, now, "drill")
        ]
        incidents.decide(self.lake, rows, ledger.seen)

    def violated(self, checks: tuple[Check, ...], without: str = "") -> list[str]:
        """What does not hold of these, in words. without: a table that may be out of date."""
        find: Mapping[Check, Callable[[str], list[str]]] = {
            "conserved": self._unaccounted,
            "caughtUp": self._behind,
        }
        try:
            return [line for check in checks for line in find[check](without)]
        except MedallionError as error:  # a log is damaged: nothing holds of what nobody can read
            return [str(error)]

    def _unaccounted(self, _: str) -> list[str]:
        lake = self.lake.snapshot()
        missing = {n: sum(r.counts.missing for _, r in lake.records(n)) for n in self.catalog.names}
        return [f"{name}: {n} rows are nowhere" for name, n in missing.items() if n]

    def _behind(self, without: str) -> list[str]:
        from medallion_platform.orchestration.intakes import waiting_arrivals
        from medallion_platform.pipeline.out_of_date import out_of_date_tables

        lake = self.lake.snapshot()
        late = dict.fromkeys(out_of_date_tables(self.catalog, lake), "it is out of date")
        waiting = waiting_arrivals(self.catalog, self.place.lakehouse, datetime.now(UTC), lake)
        late |= {name: f"{len(pieces)} files wait" for name, pieces in waiting.items()}
        return [f"{name}: {why}" for name, why in late.items() if name != without]

    def content(self) -> Rows:
        """What is in its tables: rows without their provenance, and how many dead letters.

        A table that nobody can read has none.
        """
        lake = self.lake.snapshot()
        letters = {n: Counter({"a letter": dead_letters.count(lake, n)}) for n in self.catalog.names}
        rows = {name: _rows(lake, name) for name in self.catalog.names}
        return rows | {dead_letters.name(n): found for n, found in letters.items()}


def _rows(lake: Lake, table: str) -> Counter[str]:
    import polars as pl
    import polars.selectors as cs

    try:
        found = lake.open(table)
        if found is None:
            return Counter()
        # The last digits of a sum of floats depend on the order in which Spark adds them.
        rows = pl.scan_delta(found).with_columns(cs.float().round_sig_figs(_DIGITS)).collect()
    except (MedallionError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return Counter()
    columns = sorted(column for column in rows.columns if not column.startswith("_"))
    return Counter(map(repr, rows.select(columns).iter_rows()))


@contextmanager
def folder_of_drills(settings: Settings) -> Generator[Path]:
    """The folder of all worlds of this installation, for one command at a time, without what others left.

    Raises:
        TooClose: it is where the user has data.
        CannotDrill: another command drills there.
    """
    folder = settings.home / "drills"
    refuse_places_of(settings, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotDrill(f"another command runs drills in {folder}", remedy="wait for its end") from None
        for left in folder.glob(f"{_WORLD}*"):
            if left.is_dir() and not left.is_symlink():
                _delete(left)
        yield folder


@contextmanager
def new_world(
    folder: Path,
    sources: tuple[str, ...],
    workers: Workers,
    *,
    in_bucket: bool = False,
    small_disk: bool = False,
    impatient: bool = False,
) -> Generator[World]:
    """A world with nothing in it, until the end of the `with` block.

    in_bucket: its landing zone is served like a bucket. small_disk: its lake has a disk of its own, for which
    one has to be root. impatient: a run counts as hung as soon as `IMPATIENT` says.

    Raises:
        CannotDrill: nothing can be mounted.
    """
    from medallion_platform.orchestration.runs import open_instance

    home = folder / f"{_WORLD}{uuid4().hex[:12]}"
    home.mkdir()
    name = f"drill-{home.name}"
    with ExitStack() as stack:
        stack.callback(_delete, home)
        stack.enter_context(_kept_environment())
        (home / "landing").mkdir()
        if small_disk:
            _mount(home / "lake")
        bucket = None
        place = Place(home, sources, variables=json.dumps(IMPATIENT if impatient else {}))
        if in_bucket:
            bucket = stack.enter_context(serving(Bucket(name, home)))
            place = Place(home, sources, name, bucket.variables)
        os.environ.update(place.environment)
        on = stack.enter_context(open_instance(home / "dagster"))
        yield World(place, on, workers, bucket)


@contextmanager
def _kept_environment() -> Generator[None]:
    """What the `with` block sets in the environment ends with it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def can_mount() -> bool:
    """Whether this process may mount a disk in memory."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


def _mount(folder: Path) -> None:
    folder.mkdir()
    size = f"size={DISK_BYTES}"
    done = subprocess.run(  # noqa: S603
        ["mount", "-t", "tmpfs", "-o", size, "drill", str(folder)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotDrill(f"no small disk can be mounted: {done.stderr.strip()}")


def _delete(home: Path) -> None:
    """Delete a world, and unmount its disk."""
    lake = home / "lake"
    if lake.is_mount():
        subprocess.run(["umount", "--lazy", str(lake)], check=False, capture_output=True)  # noqa: S603, S607
    shutil.rmtree(home, ignore_errors=True)
