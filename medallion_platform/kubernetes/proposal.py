"""What change of the chart's values would heal an incident for good, as a proposal to people. Pure.

A proposal is text and one value: whoever approves it decides, and whoever deploys the values applies it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.healing.incident import Incident
from medallion_platform.healing.report import Report
from medallion_platform.kubernetes.shape import gibibytes
from medallion_platform.pipeline.memory import next_step

MOST_MEMORY = ("runs", "limits", "mostMemory")
"""Where the chart's values say how much memory a pod may get."""
_NULL = "tag:yaml.org,2002:null"


class CannotChange(MedallionError):
    """A file of values cannot be changed as proposed; the text says why."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class Proposal:
    """Another value of the chart, and why.

    branch: the name of its branch, one for each incident. body: Markdown. path: of the value in the chart's
    values.
    """

    branch: str
    title: str
    body: str
    path: tuple[str, ...]
    value: str


def proposal_of(incident: Incident, report: Report) -> Proposal | None:
    """The change that would heal an incident for good, None where none is known.

    One is known of work that was killed with all the memory that a pod may have: half as much again.
    """
    most = int(report.figures.get("most_memory_bytes", 0))
    had = max(report.figures.get(f"{where}_memory_limit_bytes", 0) for where in ("driver", "executor"))
    if incident.kind is not Kind.OOM or not most or had < most:
        return None
    more = next_step(most, 2 * most)
    assert more
    return Proposal(
        f"medallion/incident-{incident.id}",
        f"Let work on {incident.table} have up to {gibibytes(more)} of memory",
        _body(incident, report, most, more),
        MOST_MEMORY,
        f"{more >> 20}m" if more % (1 << 30) else f"{more >> 30}g",
    )


def _body(incident: Incident, report: Report, most: int, more: int) -> str:
    """Why, without lines of a log: these may hold what does not belong into a repository."""
    known = "\n".join(f"- {about}: {told}" for about, told in report.lines() if about not in ("log", "do"))
    return f"""\
Work on `{incident.table}` was killed for its memory with {gibibytes(most)}, the most that a pod may have
(incident `{incident.id}`). With {gibibytes(more)} it can go on by itself; pods of other work stay as they are
until they need more. It has to fit on a node, and below the namespace's LimitRange.

What is known of the failure:

{known}

Nothing is changed yet: once this is merged, it is applied by whoever deploys these values. Then
`medallion incidents resume {incident.table}` tries the table at once.
"""


def with_value(text: str, path: Sequence[str], value: str) -> str:
    """The text of a YAML file with another value at a path, which is added where it is missing.

    All else stays as it is, comments and the order of lines too. value: what YAML takes for a text as it is.

    Raises:
        CannotChange: it is no mapping, or something else in it would change, too.
    """
    try:
        before, changed = yaml.safe_load(text), _changed(text, path, value)
        after = yaml.safe_load(changed)
    except yaml.YAMLError as error:
        raise CannotChange(f"the file of values cannot be read as YAML ({type(error).__name__})") from error
    if after != _with(before, path, value):
        raise CannotChange(f"{'.'.join(path)} cannot be changed alone: another value is tied to it")
    return changed


def _changed(text: str, path: Sequence[str], value: str) -> str:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return f"{_nested(path, value)}\n{text}"
    for depth, name in enumerate(path):
        if not isinstance(node, yaml.MappingNode):
            raise CannotChange(f"{'.'.join(path[:depth]) or 'the file of values'} is no mapping of names")
        found = next((of for key, of in node.value if key.value == name), None)
        if found is None:
            return _added(text, node, _nested(path[depth:], value))
        if found.tag == _NULL:
            inside = f"{{{_nested(path[depth + 1 :], value)}}}" if path[depth + 1 :] else value
            return _replaced(text, found, inside if found.value else f" {inside}")
        node = found
    quote = node.style if node.style in ("'", '"') else ""
    return _replaced(text, node, f"{quote}{value}{quote}")


def _added(text: str, mapping: Any, entry: str) -> str:
    """The text with an entry before all others of a mapping."""
    at = mapping.start_mark
    if mapping.flow_style:
        after = at.index + 1
        return f"{text[:after]}{entry}{', ' if mapping.value else ''}{text[after:]}"
    return f"{text[: at.index]}{entry}\n{' ' * at.column}{text[at.index :]}"


def _replaced(text: str, node: Any, by: str) -> str:
    return text[: node.start_mark.index] + by + text[node.end_mark.index :]


def _nested(path: Sequence[str], value: str) -> str:
    """An entry for a path: `runs: {limits: {mostMemory: 24g}}`."""
    *outer, last = path
    entry = f"{last}: {value}"
    for name in reversed(outer):
        entry = f"{name}: {{{entry}}}"
    return entry


def _with(values: dict[str, Any] | None, path: Sequence[str], value: str) -> dict[str, Any]:
    """The values with another one at a path."""
    first, *others = path
    values = values or {}
    return {**values, first: _with(values.get(first), others, value) if others else value}
