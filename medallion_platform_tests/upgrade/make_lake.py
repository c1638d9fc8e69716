"""How `lake-of-format-1.tar.xz` was made, by the code of commit 8442fd9; run once, with a FOLDER to work in.

The lake lies at `/lake`, so that its logs name no folder of a machine; FOLDER gets the archive and the home.
What it holds is told in the README beside this. It is kept for reading: later code writes another lake.
"""

# ruff: noqa: I001 - the names are those of that commit

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.domains.clickstream.sources import EVENTS
from medallion_platform.lakehouse import dead_letters, log_archive
from medallion_platform.lakehouse.commit import commit_files, next_sequence
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline import landing_zone
from medallion_platform.pipeline.intake import intake
from medallion_platform.pipeline.refresh import Run
from medallion_platform.sources.arrivals import Batch, Unread
from medallion_platform.sources.landing import look
from medallion_platform.sources.source import FileSource

LAKE = Path("/lake")
OLD = Path(__file__).with_name("lake-of-0.1.tar.xz")
LATER = ("2026-01-08", "2026-01-09", "2026-01-10", "2026-01-11")
"""Days of the landing zone that the next run takes in."""
COMMITS = 2_060
"""So many that the first thousand are archived."""


def main(folder: Path) -> None:
    os.environ |= {"MEDALLION_HOME": str(folder / "home"), "MEDALLION_LAKE": str(LAKE)}
    with tarfile.open(OLD) as packed:
        packed.extractall(folder, filter="data", members=[m for m in packed if "/landing" in m.name])
    landing = folder / "landing"
    for path in [p for p in landing.rglob("*") if p.is_file() and any(d in str(p) for d in LATER)]:
        path.unlink()
    odd = landing / "clickstream/events/2026-01-07"
    good = (odd / "part-0000.jsonl").read_bytes().splitlines()[0]
    (odd / "odd.jsonl").write_bytes(b'{"event_id": "\xff\xfe"}\nno JSON\n' + good + b"\n")
    (odd / "wide.jsonl").write_bytes(b'{"event_id": "' + b"w" * 10_000 + b'"}\n')
    medallion("run", "--landing", str(landing), "--quiet")
    in_process(landing)
    medallion("dead-letters", "replay", "bronze.events")
    medallion("run", "--landing", str(landing), "--quiet")
    with tarfile.open(folder / "lake-of-format-1.tar.xz", "w:xz", preset=9) as packed:
        packed.add(LAKE, "lake")


def medallion(*command: str) -> None:
    subprocess.run([sys.executable, "-c", PATCHED, *command], check=True)


PATCHED = """
import sys
from medallion_platform.sources import records, blocks, csv, debezium, jsonlines
for module in (records, blocks, csv, debezium, jsonlines):
    module.LONGEST = 8_000
from medallion_platform.cli import main
sys.argv[0] = "medallion"
main()
"""
"""The command line, with a line of 8,000 bytes for one of 64 MiB."""


def in_process(landing: Path) -> None:
    """What no command brings about: a file that is lost, offsets that are gone, a log that is archived."""
    lake, run = Lake(LAKE), Run.now("intake-of-what-is-gone")
    source = EVENTS
    lost = landing / "clickstream/events/2026-01-07/lost.jsonl"
    lost.write_bytes(b'{"event_id": "lost"}\n')
    os.utime(lost, (1_767_830_000, 1_767_830_000))
    seen = look(str(landing), [source], datetime.now(UTC), 0.0).claimed[source.name]
    arrived = landing_zone.arrivals(source, str(landing), seen, lake, run)
    lost.unlink()
    intake(arrived, lake, run)
    intake(Gone(source), lake, run)
    mended(lake, (landing / "clickstream/events/2026-01-07/part-0000.jsonl").read_bytes().splitlines()[0])
    table = lake.open("bronze.jobs")
    assert table is not None
    for _ in range(COMMITS):
        record = CommitRecord("intake", "many", run.at.isoformat(), sequence=next_sequence(table))
        commit_files(table, record)
    moved = log_archive.archive_log(lake.path("bronze.jobs"), datetime.now(UTC) + timedelta(hours=2))
    assert moved == 1_000


def mended(lake: Lake, line: bytes) -> None:
    """A dead letter that the replay takes back: it broke the contract of its time, and not that of today."""
    event = json.loads(line) | {"event_id": "00000000-0000-4000-8000-000000000001"}
    letter = {
        "source": "clickstream.events/clicks/0",
        "offset": 1,
        "file": "clicks/0",
        "row": 2,
        "payload": json.dumps(event).encode(),
        "violations": ["amount: at most 1"],
        "code": "violates",
        "at": datetime.now(UTC),
        "run_id": "stricter",
    }
    sequence = next_sequence(lake.open("dead_letters.bronze.events"))
    record = CommitRecord("intake", "stricter", datetime.now(UTC).isoformat(), sequence=sequence)
    dead_letters.append(lake, "bronze.events", pl.DataFrame([letter]), record)


@dataclass
class Gone:
    """Arrivals of a topic whose first offsets are deleted."""

    source: FileSource
    pieces: str = "partitions"
    notes: list[str] = field(default_factory=list)

    def waiting(self, _position: object) -> list[str]:
        return []

    def batches(self, position: object, rows: int, size: int) -> Iterator[Batch]:
        log = "clickstream.events/clicks/0"
        why = "lost offsets 3 to 8: deleted before they were read"
        gone = {"first": 3, "last": 8}
        piece = Unread(log, 3, "clicks/0", Code.GAP, f"topic: {why}", f"clicks/0: {why}", gone)
        yield Batch(pl.DataFrame(), [piece], {log: 9})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
