"""Keeps a shop in a process of its own, as it is told line by line: `shop_driver.py ROOT [STEP CALL after]`.

`take` takes in what landed, `refresh` brings all tables up to date, `rebuild` makes the events anew, `repair`
repairs what is damaged in them, by `ROOT/backups` where it is there. The answer to each is a line of JSON:
null, or the one sentence that a person would read. Where a step is named, the process kills itself before or
after the so manieth call of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

REPOSITORY = Path(__file__).resolve().parents[2]

STEPS = {
    "staging": "stage",
    "moving what was staged": "move_staged_files",
    "dead letters": "_commit_dead_letters",
    "rows and positions": "commit_files",
}
"""What a refresh does between rows that were made and a position that is known, in this order."""

MENDING = {"a copy is looked for": "has_good_copy", "a copy is put back": "put_file_back"}
"""What a repair does besides those."""

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.pipeline.catalog import Catalog
    from medallion_platform_tests.faults.victim import Aim
    from medallion_platform_tests.pipeline.toy import Zone


class Killed(Exception):
    """The process is no more."""


class Shop:
    """The process that keeps it; ends with the `with`."""

    def __init__(
        self, root: Path | str, environment: Mapping[str, str] | None = None, aim: Aim | None = None
    ) -> None:
        shot = [aim.step, str(aim.call), str(aim.after)] if aim else []
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(root), *shot],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, todo: str) -> str | None:
        """What went wrong, None for nothing.

        Raises:
            Killed: it hit its aim.
        """
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(todo + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            assert self.process.wait() == -signal.SIGKILL
            raise Killed
        return json.loads(answer)

    def __enter__(self) -> Shop:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def _zone(root: str) -> Zone:
    from medallion_platform.storage import in_bucket
    from medallion_platform_tests.pipeline.toy import Zone
    from medallion_platform_tests.s3.zone import BucketZone

    return BucketZone(root) if in_bucket(root) else Zone(Path(root))  # type: ignore[return-value]


def _session(root: str) -> SparkSession:
    from medallion_platform.installation.local_spark import local_spark

    spark = local_spark(root, cores=2).session()
    spark.sparkContext.setLogLevel("OFF")
    return spark


def small_shop() -> Catalog:
    """A table made by key, and one made by rows with that as its lookup."""
    from medallion_platform.pipeline.catalog import Catalog
    from medallion_platform_tests.pipeline import shop

    return Catalog((shop.EVENTS, shop.USERS), (shop.history, shop.events))


def _repair(root: str, lake: Lake, small: Catalog) -> None:
    from medallion_platform.lakehouse.backup_place import BackupPlace
    from medallion_platform.lakehouse.damaged_files import verify_table
    from medallion_platform.pipeline.repair import repair, repair_what_is_met
    from medallion_platform_tests.pipeline.toy import RUN

    place = BackupPlace(f"{root}/backups") if Path(root, "backups").exists() else None
    repair_what_is_met(
        lambda: verify_table(lake, "silver.events"),
        lambda damage: repair(damage, small, lake, lambda: _session(root), RUN, place),
    )


def main(root: str, *shot: str) -> None:
    """Do what is told until there is no more."""
    from medallion_platform.cli.exits import error_in_words
    from medallion_platform.pipeline.refresh.errors import RefreshFailed
    from medallion_platform_tests.pipeline import shop
    from medallion_platform_tests.pipeline.shop import bring, bring_all, take_all

    small = small_shop()
    if shot:
        from medallion_platform.lakehouse import spark_tables
        from medallion_platform.pipeline import repair as repairing
        from medallion_platform.pipeline.refresh import commit as steps
        from medallion_platform_tests.faults.victim import Aim, load

        step, call, after = shot
        modules = dict(zip(STEPS, (spark_tables, spark_tables, steps, steps), strict=True))
        steps_of = {s: (modules[s], name) for s, name in STEPS.items()}
        steps_of |= {s: (repairing, name) for s, name in MENDING.items()}
        load(steps_of, Aim(step, int(call), after == "True"))

    answers, sys.stdout = sys.stdout, sys.stderr
    zone = _zone(root)
    for line in sys.stdin:
        said: Any = None
        try:
            todo = line.strip()
            if todo == "take":
                take_all(zone)
            elif todo == "rebuild":
                bring(shop.events, zone.lake, _session(root), small, rebuild=True)
            elif todo == "repair":
                _repair(root, zone.lake, small)
            else:
                bring_all(zone.lake, _session(root), small)
        except RefreshFailed as error:
            said = str(error)
        except Exception as error:
            said = error_in_words(error)
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main(*sys.argv[1:])
