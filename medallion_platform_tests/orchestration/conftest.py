"""Dagster's storage in a folder of the test."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from medallion_platform.orchestration import runs


@pytest.fixture
def on(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with runs.open_instance(tmp_path / "dagster") as found:
        yield found
