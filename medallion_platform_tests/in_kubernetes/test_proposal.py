"""Which lasting change is proposed, and how a file of values is changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.errors import Kind
from medallion_platform.healing.incident import Incident
from medallion_platform.healing.report import Facts, Report, explain_incident
from medallion_platform.kubernetes.proposal import MOST_MEMORY, CannotChange, proposal_of, with_value
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.healing.small_ledger import NOON, TABLE

GIB = 1 << 30
INCIDENT = Incident("abc-1", TABLE, "abc", Kind.OOM, NOON, NOON)


def report(had: int, most: int, where: str = "driver") -> Report:
    figures = {f"{where}_memory_limit_bytes": had, "most_memory_bytes": most}
    return explain_incident(INCIDENT, Facts(figures=figures, log=("12:00:00Z jane had 4711 rows",)))


@pytest.mark.parametrize("where", ["driver", "executor"])
@pytest.mark.parametrize(("most", "value"), [(16 * GIB, "24g"), (3 * GIB, "4608m"), (GIB, "1536m")])
def test_what_was_killed_with_the_most_memory_gets_half_as_much_again(
    where: str, most: int, value: str
) -> None:
    found = proposal_of(INCIDENT, report(most, most, where))
    assert found
    assert (found.branch, found.path, found.value) == ("medallion/incident-abc-1", MOST_MEMORY, value)
    assert TABLE in found.title
    assert "`medallion incidents resume silver.events`" in found.body
    assert "4711" not in found.body, "no line of a log goes into a repository"


def test_no_change_is_known_where_the_next_try_gets_more_by_itself_or_memory_was_not_the_reason() -> None:
    assert proposal_of(INCIDENT, report(15 * GIB, 16 * GIB)) is None
    assert proposal_of(replace(INCIDENT, kind=Kind.DISK), report(16 * GIB, 16 * GIB)) is None
    assert proposal_of(INCIDENT, explain_incident(INCIDENT, Facts())) is None, "it ran in no pod of its own"


def test_of_the_chart_s_own_values_one_line_changes() -> None:
    before = (REPOSITORY / "helm-values" / "medallion" / "values.yaml").read_text()
    after = with_value(before, MOST_MEMORY, "24g")
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert changed == [("    mostMemory: 16g", "    mostMemory: 24g")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "runs: {limits: {mostMemory: 24g}}\n"),
        ("# mine\nlake: s3://a/b\n", "# mine\nruns: {limits: {mostMemory: 24g}}\nlake: s3://a/b\n"),
        ("runs:\n  disk: 5Gi\n", "runs:\n  limits: {mostMemory: 24g}\n  disk: 5Gi\n"),
        ("runs: {}\n", "runs: {limits: {mostMemory: 24g}}\n"),
        ("runs: {disk: 5Gi}\n", "runs: {limits: {mostMemory: 24g}, disk: 5Gi}\n"),
        ("runs:\nlake: a\n", "runs: {limits: {mostMemory: 24g}}\nlake: a\n"),
        ("runs: ~ # none\n", "runs: {limits: {mostMemory: 24g}} # none\n"),
        ('runs: {limits: {mostMemory: "8g"}} # x\n', 'runs: {limits: {mostMemory: "24g"}} # x\n'),
        ("runs:\r\n  limits:\r\n    mostMemory: 8g\r\n", "runs:\r\n  limits:\r\n    mostMemory: 24g\r\n"),
        ("runs: {limits: {mostMemory: null}}\n", "runs: {limits: {mostMemory: 24g}}\n"),
    ],
)
def test_a_value_is_changed_or_added_and_all_else_stays(before: str, after: str) -> None:
    assert with_value(before, MOST_MEMORY, "24g") == after


@pytest.mark.parametrize(
    "text",
    ["- a list\n", "runs: 5\n", "runs: [limits]\n", "a: {b\n", "a: 1\n---\nb: 2\n", "just text"],
)
def test_what_is_no_file_of_values_is_refused(text: str) -> None:
    with pytest.raises(CannotChange):
        with_value(text, MOST_MEMORY, "24g")


def test_a_value_that_another_one_is_tied_to_is_refused() -> None:
    tied = "other: &same {mostMemory: 8g}\nruns: {limits: *same}\n"
    with pytest.raises(CannotChange, match=r"runs\.limits\.mostMemory cannot be changed alone"):
        with_value(tied, MOST_MEMORY, "24g")


_names = st.sampled_from(("runs", "limits", "mostMemory", "a", "b c"))
_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(_names, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(_names, _values, max_size=4), st.sampled_from((True, False, None)))
def test_whatever_the_file_holds_only_the_value_changes_or_it_is_refused(
    values: dict[str, Any], flow: bool | None
) -> None:
    text = yaml.safe_dump(values, default_flow_style=flow)
    try:
        after = yaml.safe_load(with_value(text, MOST_MEMORY, "24g"))
    except CannotChange:
        runs = values.get("runs")
        limits = runs.get("limits") if isinstance(runs, dict) else None
        most = limits.get("mostMemory") if isinstance(limits, dict) else None
        mappings = [found for found in (runs, limits) if found is not None]
        assert isinstance(most, dict | list) or not all(isinstance(found, dict) for found in mappings)
    else:
        assert after["runs"]["limits"].pop("mostMemory") == "24g"
        known = values.get("runs") or {}
        limits = {k: v for k, v in (known.get("limits") or {}).items() if k != "mostMemory"}
        assert after == {**values, "runs": {**known, "limits": limits}}
