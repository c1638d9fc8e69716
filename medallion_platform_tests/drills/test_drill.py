"""What a drill's YAML may say, and which table of a catalog it is about."""

from __future__ import annotations

import pytest
import yaml

from medallion_platform.drills.drill import (
    InARun,
    NoSuchDrill,
    Target,
    drill_of,
    named,
)
from medallion_platform.drills.run import all_drills
from medallion_platform.installation.catalog import catalog
from medallion_platform.pipeline.catalog import Catalog

WHOLE = """
name: killed-refresh
description: A run is killed.
target: {work: refresh, role: beside others}
steadyState: {checks: [conserved, caughtUp]}
injection: {type: kill}
hypothesis: {description: The next one does it., recoveryTimeout: 2m}
blastRadius: {tables: target}
"""


def test_a_drill_is_read_whole() -> None:
    drill = drill_of(WHOLE)
    assert drill.target == Target(work="refresh", role="beside others")
    assert drill.steady_state.checks == ("conserved", "caughtUp")
    assert drill.injection == InARun(type="kill")
    assert (drill.hypothesis.recovery_timeout, drill.hypothesis.end) == (120.0, "healed")
    assert (drill.blast_radius.tables, drill.resilient_by) == ("target", "")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": "Killed"}, "name"),
        ({"target": None}, "target"),
        ({"target": {"work": "intake", "table": "x"}}, "target.table"),
        ({"steadyState": {"checks": []}}, "steadyState.checks"),
        ({"injection": {"type": "burn"}}, "injection"),
        ({"injection": {"type": "refuse"}}, "injection.refuse.answer"),
        ({"hypothesis": {"description": "x", "recoveryTimeout": 120}}, "hypothesis.recoveryTimeout"),
        ({"blastRadius": {"tables": "many"}}, "blastRadius.tables"),
        ({"tier": "process"}, "tier"),
    ],
)
def test_a_mistake_is_refused_where_it_is(change: dict[str, object], where: str) -> None:
    with pytest.raises(ValueError, match=f"(?m)^{where}$"):
        drill_of(yaml.safe_dump(yaml.safe_load(WHOLE) | change))


def test_the_drills_here_are_right() -> None:
    drills = all_drills()
    assert len({drill.name for drill in drills}) == len(drills) >= 9
    assert {drill.injection.type for drill in drills} == {
        "kill",
        "stop",
        "fail",
        "write",
        "damageFile",
        "damageLog",
        "refuse",
        "fillDisk",
        "poison",
        "spoil",
    }


def test_a_drill_is_found_by_its_name() -> None:
    drills = all_drills()
    assert named(drills, ["all"]) == drills
    assert [drill.name for drill in named(drills, ["full-disk", "broken-rows"])] == [
        "broken-rows",
        "full-disk",
    ]
    with pytest.raises(NoSuchDrill, match="there is no drill ful-disk; there are broken-rows, "):
        named(drills, ["ful-disk", "broken-rows"])


def test_the_target_is_the_first_table_that_fits() -> None:
    assert Target(work="intake").table_in(catalog) == catalog.sources[0].table
    assert Target(work="refresh").table_in(catalog) == catalog.in_order[0].name
    assert Target(work="refresh").table_in(Catalog((), ())) is None


def test_a_source_that_others_are_enriched_by_is_one() -> None:
    found = Target(work="intake", role="lookup").table_in(catalog)
    assert found is not None
    looked_up = {lookup.table for table in catalog.tables for lookup in table.lookups.values()}
    assert found in catalog.with_upstream(looked_up)


def test_a_table_beside_others_takes_no_other_along() -> None:
    found = Target(work="refresh", role="beside others").table_in(catalog)
    assert found is not None
    assert not any(found in table.upstream_names for table in catalog.tables)
