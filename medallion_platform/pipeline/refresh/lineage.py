"""Which upstream columns each column of a table is computed from, taken from Spark's analyzed plan.

The plan as text gives every attribute an id (`amount#5`), so `expression AS name#52` shows what 52 is
computed from. Columns that only filter, join or group rows are not included, as in OpenLineage's direct
lineage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

Lineage = dict[str, list[tuple[str, str]]]
"""Column -> (upstream table, its column), sorted."""

_ID = re.compile(r"#(\d+)")
_USED = re.compile(r"#(\d+)L?(?:\.(\w+))?")
_NAMED = re.compile(r" AS (?:[^\s,\[\]()]|\s(?!AS ))+#(\d+)L?$", re.DOTALL)
_RELATION = re.compile(r"(?:Local)?Relation(?:V2)? ?(?:\S+ )?\[([^\]]*)\]")
_GENERATE = re.compile(r"Generate (.*), (?:true|false),.*?\[([^\]]*)\]")
_OPEN, _CLOSE = "([", ")]"


def column_lineage_of_plan(
    plan: str, columns: Sequence[str], sources: Mapping[str, Sequence[str]]
) -> Lineage:
    """Lineage of `columns`, the output of an analyzed plan, back to `sources` (table -> columns)."""
    origin = dict(_source_reads(plan, sources))
    defined = _attribute_definitions(plan)
    output = dict(_output_attributes(plan.split("\n", 1)[0], columns))
    return {
        name: sorted(_source_columns(output[name], defined, origin)) for name in columns if name in output
    }


def _source_columns(
    id: str, defined: Mapping[str, list[str]], origin: Mapping[str, tuple[str, str]]
) -> set[tuple[str, str]]:
    """The source columns of an attribute; for a field of a struct, only those of this field."""
    found: set[tuple[str, str]] = set()
    waiting: list[tuple[str, str]] = [(id, "")]
    seen = set(waiting)
    while waiting:
        one, field = waiting.pop()
        if one in origin:
            found.add(origin[one])
        for expression in defined.get(one, ()):
            taken = re.findall(rf"(?<!\w){re.escape(field)}#(\d+)", expression) if field else []
            used = [(i, "") for i in taken] or [(i, f or field) for i, f in _USED.findall(expression)]
            new = {u for u in used if u[0] != one} - seen
            seen |= new
            waiting += new
    return found


def _attribute_definitions(plan: str) -> dict[str, list[str]]:
    """Attribute id -> the expressions that define it."""
    found: dict[str, list[str]] = {}
    for part in _list_expressions(plan):
        named = _NAMED.search(part)
        if named:
            found.setdefault(named[1], []).append(part)
    for expression, output in _GENERATE.findall(plan):
        for id in _ID.findall(output):
            found.setdefault(id, []).append(expression)
    return found


def _list_expressions(plan: str) -> Iterator[str]:
    """The expressions in all lists (`[a, f(b, c) AS d]`) of a plan."""
    starts: list[int] = []
    for i, mark in enumerate(plan):
        if mark in _OPEN:
            starts.append(i + 1)
        elif mark == "," and starts:
            yield plan[starts[-1] : i]
            starts[-1] = i + 1
        elif mark in _CLOSE and starts:
            yield plan[starts.pop() : i]


def _source_reads(plan: str, sources: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Attribute id -> (table, column) for every read of a source; a table is identified by its columns."""
    by_columns = {frozenset(columns): table for table, columns in sources.items()}
    for relation in _RELATION.findall(plan):
        pairs = [p.strip().rpartition("#") for p in relation.split(",")]
        table = by_columns.get(frozenset(name for name, _, _ in pairs))
        if table:
            yield from ((id.rstrip("L"), (table, name)) for name, _, id in pairs)


def _output_attributes(line: str, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Column -> attribute id, from the first line of a plan (its output)."""
    for name in columns:
        ids = re.findall(rf"(?<![\w.]){re.escape(name)}#(\d+)", line)
        if ids:
            yield name, ids[-1]
