"""What several modules break."""

from __future__ import annotations

from pathlib import Path

import pytest

from medallion_platform_tests.pipeline.toy import Zone, good


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    """A table of three commits, and a file that waits."""
    made = Zone(tmp_path)
    for n in range(4):
        made.csv(f"events/{n}.csv", [good(f"k{n}", n)])
        if n < 3:
            made.take()
    return made
