"""Runs each fault, and adds what became of it to a file of figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg

from medallion_platform.drills.verdict import differences
from medallion_platform_tests.bare.work import FAULTS, content, expected, land
from medallion_platform_tests.ui.server import serving

INSTANCE = """
run_retries: {enabled: true, max_retries: 3}
run_monitoring: {enabled: true, poll_interval_seconds: 1}
telemetry: {enabled: false}
"""
"""A Dagster that tries again all that it can."""
SECONDS = 300
"""The longest that it may take."""
QUIET = 20
"""So many seconds after its last run has ended nothing more comes of it."""
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

Told = Mapping[str, object]


def prepare(where: Path, fault: str) -> dict[str, str]:
    """A file has arrived, and the fault waits; gives the variables with which a process works there."""
    land(where)
    (where / "fault").write_text(fault)
    if fault == "source-unavailable":
        (where / "landing").rename(where / "away")
    return {"BARE_HOME": str(where), "MEDALLION_HOME": str(where), "DAGSTER_HOME": str(where / "dagster")}


def end(where: Path) -> None:
    """The landing zone is back, if it was away: something has failed by it."""
    if (where / "away").exists():
        (where / "away").rename(where / "landing")


def told(fault: str, system: str, where: Path, *, by_itself: bool) -> Told:
    """What became of it."""
    lost, doubled = differences(expected(), content(where))
    row = {"drill": fault, "system": system, "lost": lost, "doubled": doubled, "by_itself": by_itself}
    print(json.dumps(row), flush=True)
    return row


def on_dagster(where: Path, fault: str) -> Told:
    """The assets, with a daemon."""
    environment = prepare(where, fault)
    (where / "dagster").mkdir()
    (where / "dagster" / "dagster.yaml").write_text(INSTANCE)
    program = str(Path(sys.executable).with_name("dagster-daemon"))
    location = ("-m", "medallion_platform_tests.bare.dagster_location")
    with (
        dg.DagsterInstance.from_config(str(where / "dagster")) as on,
        serving(lambda _: [program, "run", *location], where / "daemon.log", environment),
    ):
        since, until = time.monotonic(), time.monotonic() + SECONDS
        while time.monotonic() < until and time.monotonic() - since < QUIET:
            time.sleep(0.5)
            runs = on.get_runs()
            if any(run.status is dg.DagsterRunStatus.FAILURE for run in runs):
                end(where)
            if not runs or any(run.status not in _ENDED for run in runs):
                since = time.monotonic()
        print([(run.run_id[:8], run.status.value) for run in on.get_runs()], file=sys.stderr)
    return told(fault, "Dagster", where, by_itself=True)


def on_spark(where: Path, fault: str) -> Told:
    """The streams: started once more where their process has ended by the fault, as nobody but a person, or
    what watches over processes, does."""
    environment = {**os.environ, **prepare(where, fault)}
    command = [sys.executable, "-m", "medallion_platform_tests.bare.spark_stream"]
    with (where / "stream.log").open("wb") as log:
        ended = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
        end(where)
        if ended:
            subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    return told(fault, "Spark", where, by_itself=not ended)


def main(file: Path) -> None:
    """Run all, and add what was seen to the figures."""
    found: list[Told] = []
    for run in (on_spark, on_dagster):
        with TemporaryDirectory(prefix="bare-") as folder:
            control = run(Path(folder), "")
        assert (control["lost"], control["doubled"]) == (0, 0), "undisturbed it is not whole either"
        for fault in FAULTS:
            with TemporaryDirectory(prefix="bare-") as folder:
                found.append(run(Path(folder), fault))
    figures = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**figures, "bare": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
