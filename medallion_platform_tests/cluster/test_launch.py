"""What the benchmark of launches measures, on an installation."""

from __future__ import annotations

import os

import pytest

from medallion_platform_tests.benchmarks.launching import Release, figures
from medallion_platform_tests.cluster.installation import RELEASE, Installation

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(2400)]

THREADS, EXECUTORS = (int(n) for n in os.environ.get("MEDALLION_TEST_LAUNCHES", "3,2").split(","))


@pytest.mark.usefixtures("arrival")
def test_a_launch_is_told_phase_by_phase(installed: Installation, image: str) -> None:
    found = figures(Release(installed.admin, RELEASE, image), {"threads": THREADS, "executors": EXECUTORS})
    for row in found:
        print(*row.values(), sep="\t")
    phases = {
        mode: [row["phase"] for row in found if mode in row["launch"]] for mode in ("threads", "executors")
    }
    assert phases["threads"][-3:] == ["session", "first task", "together"]
    assert phases["executors"][-4:] == ["session", "first executor", "first task", "together"]
