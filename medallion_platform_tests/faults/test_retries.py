"""The real daemon, told by a user to try everything again: nothing is attempted more often than allowed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import pytest

from medallion_platform.errors import Kind
from medallion_platform.healing.policy import POLICY
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.catch_up import UNFINISHED
from medallion_platform.orchestration.retries import MOST_RETRIES
from medallion_platform_tests.faults.retried_location import ASKED, ATTEMPTS, AWAY, HOLD
from medallion_platform_tests.faults.test_daemon import wait
from medallion_platform_tests.pipeline import toy
from medallion_platform_tests.ui.server import serving

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

INSTANCE = """
instance_class: {module: medallion_platform.orchestration.instance, class: Instance}
"""
SETTINGS = """
run_retries: {enabled: true, max_retries: 5}
run_monitoring:
  enabled: true
  poll_interval_seconds: 1
  max_resume_run_attempts: 3
  free_slots_after_run_end_seconds: 1
concurrency: {pools: {default_limit: 1, granularity: op}}
run_queue: {dequeue_interval_seconds: 1}
telemetry: {enabled: false}
"""
SECONDS = 120
"""The longest wait."""
CURSOR = "EVENT_LOG_CONSUMER_CURSOR-PIPELINE_FAILURE"
"""Up to where the daemon has read of failures; it keeps it once it has asked for what it tries again."""


class Installation:
    """A home, its Dagster, and the daemon that works at it now."""

    def __init__(self, home: Path, on: dg.DagsterInstance) -> None:
        self.home, self.on, self.daemons = home, on, 0
        self.log = home / "daemon.log"

    @property
    def attempts(self) -> list[int]:
        """The process of each attempt so far."""
        file = self.home / ATTEMPTS
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    @property
    def failures_are_read(self) -> bool:
        """Whether the daemon has decided about all that failed."""
        read = self.on.daemon_cursor_storage.get_cursor_values({CURSOR}).get(CURSOR)
        failed = {dg.DagsterEventType.RUN_FAILURE}
        of_all = self.on.event_log_storage.get_logs_for_all_runs_by_log_id
        return read is not None and not of_all(int(read), dagster_event_type=failed, limit=1)

    @property
    def at_rest(self) -> bool:
        """Whether no run is at work or waits."""
        return not self.on.get_run_ids(dg.RunsFilter(statuses=UNFINISHED), limit=1)

    @contextmanager
    def daemon(self) -> Generator[None]:
        """A daemon that reads of failures only once, as it starts, and is killed in the end."""
        self.daemons += 1
        self.log = self.home / f"daemon{self.daemons}.log"
        env = {
            "MEDALLION_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "3600",
        }
        program = Path(sys.executable).with_name("dagster-daemon")
        location = ("-m", "medallion_platform_tests.faults.retried_location")
        groups: list[int] = []
        with serving(lambda _: [str(program), "run", *location], self.log, env, groups.append):
            wait("the daemon reads of failures", lambda: self.failures_are_read, self.log, SECONDS)
            try:
                yield
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(groups[0], signal.SIGKILL)

    def work_until_at_rest(self, *, kill: bool) -> None:
        """Wait until no run is left; kill: the process of each attempt from outside."""
        killed = set(self.attempts)

        def over() -> bool:
            for process in set(self.attempts) - killed if kill else ():
                os.kill(process, signal.SIGKILL)
                killed.add(process)
            return self.at_rest

        wait("the run ends", over, self.log, SECONDS)

    def attempts_at(self, asked: str, *, kill: bool = False) -> int:
        """How often something is attempted that fails: after each failure the daemon is killed before it has
        read of it, and another one decides."""
        before, known = len(self.attempts), len(self.on.get_run_ids())
        with self.daemon():
            (self.home / ASKED).write_text(asked)
            wait("a run", lambda: len(self.on.get_run_ids()) > known, self.log, SECONDS)
            self.work_until_at_rest(kill=kill)
        while not self.failures_are_read:
            with self.daemon():
                self.work_until_at_rest(kill=kill)
        return len(self.attempts) - before


@pytest.fixture
def installation(tmp_path: Path) -> Generator[Installation]:
    """A table that is out of date, and a Dagster that is to try again all it can."""
    zone = toy.Zone(tmp_path)
    zone.csv("events/a.csv", [toy.good("one")])
    zone.take()
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text(INSTANCE + SETTINGS)
    with runs.open_instance(tmp_path / "dagster") as on:
        yield Installation(tmp_path, on)


def test_no_failure_is_attempted_more_often_than_allowed(installation: Installation) -> None:
    assert installation.attempts_at("one that fails") == 1
    assert installation.attempts_at(AWAY) == 1 + len(POLICY[Kind.NETWORK].in_process)
    (installation.home / HOLD).touch()
    assert installation.attempts_at("one that is killed", kill=True) == 1 + MOST_RETRIES
