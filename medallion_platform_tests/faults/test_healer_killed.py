"""The healer is killed at each of its effects, and begins anew: it heals, and tries nothing too often."""

from __future__ import annotations

import random
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from medallion_platform.errors import Kind
from medallion_platform.healing.incident import Known, known_from
from medallion_platform.healing.policy import POLICY
from medallion_platform.lakehouse import dead_letters, incidents
from medallion_platform.lakehouse.backup import back_up
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.damaged_files import verify_table
from medallion_platform.orchestration.names import INTAKE
from medallion_platform_tests.faults.healer import BEGUN, STEPS, settings_of, turn
from medallion_platform_tests.faults.victim import Aim
from medallion_platform_tests.pipeline.toy import CSV, Zone, bad, check, good

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
MINUTE = timedelta(minutes=1)
MOST_TURNS = 30
AIMS = [Aim(step, call, after) for step in STEPS for call in (1, 2, 3) for after in (False, True)]
ALWAYS = [Aim(step, 1, True) for step in ("a decision is written", "a copy is put back", "a log is repaired")]
"""What the run in short does besides some of the others."""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Zone:
    """A table of which a file is gone and a checkpoint is damaged, with a backup, and another file waits."""
    zone = Zone(tmp_path_factory.mktemp("damaged"))
    zone.csv("events/first.csv", [good("a"), good("first", 1), bad()])
    zone.take()
    back_up(zone.lake, BackupPlace(str(settings_of(zone.root).backup)), datetime.now(UTC))
    (file,) = Path(zone.lake.path(CSV.table)).rglob("*.parquet")
    file.unlink()
    letters = zone.lake.open(dead_letters.name(CSV.table))
    assert letters
    letters.create_checkpoint()
    (checkpoint,) = Path(zone.lake.path(dead_letters.name(CSV.table))).rglob("*.checkpoint.parquet")
    checkpoint.write_bytes(b"")
    zone.csv("events/second.csv", [good("a"), good("second", 1), bad()])
    return zone


def begun(home: Path) -> int:
    """How many intakes were begun."""
    file = home / BEGUN
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(line.startswith(INTAKE) for line in lines)


def known(zone: Zone) -> Known:
    return known_from(incidents.read(zone.lake.snapshot()))


def heal(zone: Zone, aim: Aim | None, most: int = MOST_TURNS) -> bool:
    """Turns until all is well, the first ones until it is killed with an aim; gives whether it was."""
    now, killed = datetime.now(UTC), False
    for _ in range(most):
        now += 6 * MINUTE
        process = turn(zone.root, now, None if killed else aim)
        process.join(300)
        assert process.exitcode in (0, -signal.SIGKILL), aim
        killed |= process.exitcode == -signal.SIGKILL
        found = known(zone)
        if found.incidents and not found.open and zone.lake.rows(CSV.table) == 3:
            return killed
    raise AssertionError(f"{aim}: {[(i.id, i.kind, i.closed) for i in known(zone).incidents.values()]}")


@pytest.fixture
def shop(damaged: Zone, tmp_path: Path) -> Zone:
    shutil.copytree(damaged.root, tmp_path, dirs_exist_ok=True)
    return Zone(tmp_path, damaged.clock, damaged.rows)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "aim" in metafunc.fixturenames:
        chance = random.Random(7)
        some = AIMS if metafunc.config.getoption("--long") else [*ALWAYS, *chance.sample(AIMS, 3)]
        metafunc.parametrize("aim", dict.fromkeys(some), ids=lambda a: f"{a.step} {a.call} {a.after}")


def test_killed_at_an_effect_it_ends_healed_and_nothing_is_tried_too_often(shop: Zone, aim: Aim) -> None:
    killed = heal(shop, aim)
    assert killed or aim.call > 1
    found = list(known(shop).incidents.values())
    assert {i.kind for i in found} <= {Kind.CORRUPT, Kind.EVICTED, Kind.UNKNOWN}
    assert Kind.CORRUPT in {i.kind for i in found}
    assert {i.closed for i in found} <= {"healed", "passed"}
    for incident in found:
        assert incident.tried <= sum(len(step.pauses) for step in POLICY[incident.kind].steps)
    tries = {one.at for i in found for one in i.tries}
    # Killed before it remembers the first time that it asked, it asks once more.
    assert begun(shop.root) <= len(tries) + 1 + killed
    for table in (CSV.table, dead_letters.name(CSV.table)):
        verify_table(shop.lake, table)
    check(shop)
