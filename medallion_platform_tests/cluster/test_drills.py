"""Drills in the pod of a run, as asked for in Dagster: with the image, the catalog and the files of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from medallion_platform.drills.run import all_drills
from medallion_platform.lakehouse import drill_verdicts
from medallion_platform.lakehouse.drill_verdicts import DrillVerdict
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster.graphql import Dagster
from medallion_platform_tests.cluster.installation import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

TWO = ("killed-intake", "killed-refresh")
HAVE_NOTHING = {"full-disk"}
"""What cannot be caused in a pod: it is not root."""


@pytest.mark.parametrize(
    "names", [pytest.param(TWO, id="two"), pytest.param(("all",), id="all", marks=pytest.mark.long)]
)
def test_an_installation_heals_in_its_drills(
    installed: Installation, dagster: Dagster, names: Sequence[str]
) -> None:
    before = len(verdicts(installed))
    config = {"ops": {"drills": {"config": {"drills": list(names)}}}}
    dagster.succeeded(dagster.launch("__ASSET_JOB", ["drills"], config), 2000)
    said = {one.drill: one for one in verdicts(installed)[before:]}
    print("\n".join(map(str, said.values())))
    assert said.keys() == set(TWO if names == TWO else (drill.name for drill in all_drills()))
    assert well(said)


def verdicts(installed: Installation) -> list[DrillVerdict]:
    return drill_verdicts.read(Lake(installed.lake))


def well(said: Mapping[str, DrillVerdict]) -> bool:
    """Whether each that could be run has healed, without a row lost or doubled."""
    run = [one for name, one in said.items() if name not in HAVE_NOTHING]
    assert {one.verdict for one in run} <= {"Resilient", "Degraded"}, run
    return not any(one.rows_lost or one.rows_doubled for one in run)
