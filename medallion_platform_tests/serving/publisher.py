"""A publish in a process of its own: `publisher.py LAKE COPY before|within|never`.

It says `paused` before its first write, or between that write's look and its writing, and goes on at a line.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.publish import Delivery, Edition, publish
from medallion_platform_tests.serving.world import RUN, TABLE


@dataclass
class FileCopy:
    """Keeps the largest number of each user in a file, and looks before it writes."""

    file: Path
    pause: str
    name: str = "copy"
    table: str = TABLE
    partition_column: str | None = "event_date"
    place: str = "publish/copy"

    def prepare(self) -> None: ...

    def forget(self) -> None:
        self.file.unlink(missing_ok=True)

    def holds(self) -> Edition | None:
        found = self._held().get("edition")
        return found and Edition(*found)

    def take(self, delivery: Delivery) -> int:
        rows = delivery.rows(["user_id", "events_7d"]).sort("events_7d").rows()
        self._wait("before")
        for user, number in rows:
            with delivery.fence.writing():
                held = self._held()
                self._wait("within")
                if held.get(user, -1) <= number:
                    self._write({**held, user: number})
        with delivery.fence.writing():
            edition = [delivery.edition.table_id, delivery.edition.version]
            self._write({**self._held(), "edition": edition})
        return len(rows)

    def _held(self) -> dict:
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def _write(self, held: dict) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(held))
        part.replace(self.file)

    def _wait(self, where: str) -> None:
        if self.pause == where:
            self.pause = "never"
            print("paused", flush=True)
            sys.stdin.readline()


if __name__ == "__main__":
    lake, copy, pause = sys.argv[1:]
    try:
        print(publish(FileCopy(Path(copy), pause), Lake(lake), RUN).reason)
    except CommitConflict as conflict:
        sys.exit(str(conflict))
