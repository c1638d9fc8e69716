"""How soon a file that lands under `medallion dev` is in gold and in the feature store, unasked."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.benchmarks.figure import spent
from medallion_platform_tests.command import MEDALLION
from medallion_platform_tests.ui.server import serving

GOLD = ("gold.daily_user_metrics", "gold.user_features")
_WAIT_SECONDS = 600
_REST_SECONDS = 60


def measure(rounds: int, *, rest: int = _REST_SECONDS) -> list[dict[str, str]]:
    """Seconds from a file's landing to its rows in each place, in the lake of the demo; then a rest."""
    with TemporaryDirectory(prefix="medallion-bench-") as folder:
        home = Path(folder)
        subprocess.run([*MEDALLION, "demo", "--json", "--home", str(home)], check=True, capture_output=True)
        with _dev(home, rest / 2):
            found = [_land(home, n) for n in range(rounds)]
            time.sleep(rest / 2)  # the process of the last run has ended
            resting = spent(lambda: time.sleep(rest)) * 60 / rest
    rows = []
    for place, goal in (("bronze", ""), ("gold", "30 s"), ("the feature store", "45 s")):
        seconds = [times[place] for times in found]
        rows.append(
            {
                "a file that lands is in": place,
                "min": f"{min(seconds):.0f} s",
                "median": f"{median(seconds):.0f} s",
                "max": f"{max(seconds):.0f} s",
                "goal": goal,
            }
        )
    rest_row = dict.fromkeys(rows[0], "") | {
        "a file that lands is in": "nothing lands: CPU seconds of a minute",
        "median": f"{resting:.1f} s",
    }
    return [*rows, rest_row]


@contextmanager
def _dev(home: Path, first_looks: float) -> Generator[None]:
    def command(port: int) -> list[str]:
        return [*MEDALLION, "dev", "--home", str(home), "--port", str(port)]

    with serving(command, home / "dev.log", {}) as answering:
        answering()
        time.sleep(first_looks)  # its first looks are behind it
        yield


def _land(home: Path, number: int) -> dict[str, float]:
    """Land a file of 20 events of a known user, and watch the places."""
    lake = Lake(home / "lake")
    before = {table: lake.version(table) for table in ("bronze.events", *GOLD)}
    day = f"2026-01-{12 + number:02}"
    rows = [
        {
            "event_id": f"landed-{number}-{n}",
            "user_id": "u0001",
            "event_type": "click",
            "event_timestamp": f"{day}T10:00:00Z",
        }
        for n in range(20)
    ]
    file = home / "landing" / "clickstream" / "events" / day / "landed.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def moved(*tables: str) -> bool:
        return all(lake.version(table) > before[table] for table in tables)

    def is_published() -> bool:
        held = json.loads((home / "features" / "published" / "user_features.json").read_text())
        return held["version"] == lake.version("gold.user_features")

    found: dict[str, float] = {}

    part.rename(file)
    began = time.monotonic()
    for place, there in (
        ("bronze", lambda: moved("bronze.events")),
        ("gold", lambda: moved(*GOLD)),
        ("the feature store", is_published),
    ):
        _wait(there, place)
        found[place] = time.monotonic() - began
    return found


def _wait(there: Callable[[], bool], place: str) -> None:
    until = time.monotonic() + _WAIT_SECONDS
    while not there():
        if time.monotonic() > until:
            raise TimeoutError(f"after {_WAIT_SECONDS} s the rows are not in {place}")
        time.sleep(0.25)
