"""Where the real data is, and small helpers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with data as it really comes."""
    given = os.environ.get("MEDALLION_SHARED_DATA")
    data = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"no real data at {data}: set MEDALLION_SHARED_DATA to where it is")
    return data
