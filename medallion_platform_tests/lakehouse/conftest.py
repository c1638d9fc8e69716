"""A small lake and a place for its backups."""

from __future__ import annotations

from pathlib import Path

import pytest

from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform_tests.lakehouse.small_lake import SmallLake


@pytest.fixture
def small(tmp_path: Path) -> SmallLake:
    made = SmallLake(str(tmp_path / "ein lake"))
    for _ in range(3):
        made.round()
    return made


@pytest.fixture
def place(tmp_path: Path) -> BackupPlace:
    return BackupPlace(str(tmp_path / "back up"))
