"""SIGKILL in the middle of a backup or a restore: the last backup stays good, and the next try continues."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.lakehouse import backup, backup_tables, restore
from medallion_platform.lakehouse.backup import back_up
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.lake_format import HalfRestored, read_format
from medallion_platform.lakehouse.restore import choose_backup, restore_lake
from medallion_platform_tests.faults.victim import Aim, _forked, load
from medallion_platform_tests.lakehouse.small_lake import NOW, SIX_HOURS, SmallLake

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
BACKUP_STEPS: dict[str, tuple[Any, str]] = {
    "a data file": (backup, "copy_file"),
    "a part of a log": (BackupPlace, "keep"),
    "the backup itself": (BackupPlace, "write"),
    "deleting old ones": (BackupPlace, "prune"),
}
RESTORE_STEPS: dict[str, tuple[Any, str]] = {
    "a data file": (backup_tables, "copy_file"),
    "a log": (backup_tables, "_put_log"),
    "the lake's format": (restore, "write_format"),
}


def make_backup(root: str, place: str, n: int, aim: Aim | None) -> None:
    if aim:
        load(BACKUP_STEPS, aim)
    back_up(Lake(root), BackupPlace(place), NOW + n * SIX_HOURS)


def make_lake(place: str, root: str, aim: Aim | None) -> None:
    if aim:
        load(RESTORE_STEPS, aim)
    name, made = choose_backup(BackupPlace(place))
    restore_lake(BackupPlace(place), name, made, root)


def undisturbed(body: Any, *arguments: object) -> float:
    """Let a process do it; the seconds that it takes here."""
    began = time.monotonic()
    process = _forked(body, *arguments, None)
    process.join(120)
    assert process.exitcode == 0
    return time.monotonic() - began


def killed(body: Any, *arguments: object, after: float, aim: Aim | None) -> bool:
    """Let a process do it and die: by itself at a step, or after so many seconds; whether it died."""
    victim = _forked(body, *arguments, aim)
    if aim is None:
        time.sleep(after)
        victim.kill()
    victim.join(120)
    assert victim.exitcode in (0, -signal.SIGKILL), victim.exitcode
    return victim.exitcode != 0


def content(root: str) -> dict[str, Any]:
    found = object.__new__(SmallLake)
    found.lake = Lake(root)
    return found.content()


@pytest.mark.parametrize("aimed", [True, False], ids=["at each step", "at any instant"])
def test_a_killed_backup_leaves_the_last_one_good(
    tmp_path: Path, long: bool, recovering: Any, aimed: bool
) -> None:
    root, place = str(tmp_path / "lake"), BackupPlace(str(tmp_path / "backups"))
    small, chance = SmallLake(root), random.Random(21)
    small.round()
    good, kills = {0: small.content()}, 0
    seconds = undisturbed(make_backup, root, place.root, 0)
    for n in range(1, 400 if long else 12):
        small.round()
        now = small.content()
        step = chance.choice(list(BACKUP_STEPS))
        calls = 1 if step in ("the backup itself", "deleting old ones") else chance.randint(1, 6)
        aim = Aim(step, calls, chance.random() < 0.5) if aimed else None
        kills += killed(make_backup, root, place.root, n, after=chance.uniform(0, seconds), aim=aim)
        newest, made = choose_backup(place)
        number = round((newest.at - NOW) / SIX_HOURS)
        if number == n:
            good[n] = now
        again = str(tmp_path / "again")
        restore_lake(place, newest, made, again)
        assert content(again) == good[number]
        shutil.rmtree(again)
    assert kills > 1
    with recovering(f"{kills} killed backups"):
        last = back_up(small.lake, place, NOW + 500 * SIX_HOURS).backup
    assert all(Path(place.root, key).is_file() for key in last.needed_files())


@pytest.mark.parametrize("aimed", [True, False], ids=["at each step", "at any instant"])
def test_a_killed_restore_continues(tmp_path: Path, long: bool, recovering: Any, aimed: bool) -> None:
    place, small = BackupPlace(str(tmp_path / "backups")), SmallLake(str(tmp_path / "lake"))
    for _ in range(4):
        small.round()
    back_up(small.lake, place, NOW)
    seconds = undisturbed(make_lake, place.root, str(tmp_path / "whole"))
    chance, kills = random.Random(22), 0
    for n in range(100 if long else 40):
        if n >= 4 and kills > 1 and not long:
            break  # on a machine with other work some come too late
        root = str(tmp_path / f"restored {n}")
        for _ in range(4):
            step = chance.choice(list(RESTORE_STEPS))
            aim = Aim(step, chance.randint(1, 4), chance.random() < 0.5) if aimed else None
            after = chance.uniform(0, seconds)
            if not killed(make_lake, place.root, root, after=after, aim=aim):
                break
            kills += 1
            if Path(root, "_medallion/format/restoring.json").exists():
                with pytest.raises(HalfRestored):
                    read_format(root)
            elif Path(root, "_medallion/format").exists():
                break  # it died when all was done
        else:
            with recovering("a killed restore"):
                make_lake(place.root, root, None)
        assert content(root) == small.content()
        shutil.rmtree(root)
    assert kills > 1
