"""What a refresh has to do, decided from logs alone: no Spark, no rows, no clock.

A table is made of units (days, weeks, or the whole table). A unit is out of date when an upstream
unit that it is made from changed after the version it was made from, when the code that makes it
changed, or when a lookup's history changed under its rows. The plan names these units and how to
bring them up to date; whatever it is not sure of, it makes anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from medallion_platform.contracts.masking import key_fingerprint
from medallion_platform.lakehouse.log import Touched
from medallion_platform.lakehouse.record import WHOLE, Position, Record
from medallion_platform.pipeline.table import Table, Upstream

SEMANTICS = 2
"""Raised by hand when the engines judge, cast or mask the same rows in another way than before."""

CODE = "code"
"""The pseudo upstream whose version is the code that makes the table."""


@dataclass(frozen=True)
class Work:
    """What to do and what is true afterwards.

    append: units whose new upstream rows are appended. replace: units made anew.
    merge: rows of the keys that changed are made anew (`recompute="keys"`).
    whole: the table is made anew, schema included. reason: for people.
    """

    position: Position
    append: frozenset[str] = frozenset()
    replace: frozenset[str] = frozenset()
    merge: bool = False
    whole: bool = False
    reason: str = ""

    @property
    def nothing(self) -> bool:
        """Whether the table is up to date."""
        return not (self.append or self.replace or self.merge or self.whole)


@dataclass(frozen=True)
class Upstreams:
    """What the logs say: newest versions, and per upstream what changed since the position.

    changed: the table's own units that the upstream's changes reach, None where the log no longer
    tells. units: each upstream's units that hold rows.
    """

    heads: Mapping[str, int]
    changed: Mapping[str, Touched | None] = field(default_factory=dict)
    units: Mapping[str, Iterable[str]] = field(default_factory=dict)


def code_version(table: Table) -> int:
    """A number that changes when what decides over the table's rows changes.

    That is the transform and all of the project that it uses (`pipeline.code`), the contract, how contracts
    are judged, what the table is made from and how, and, where the contract asks for tokens, their key.
    """
    unit = table.unit and (table.unit.column, table.unit.grain)
    sources = [(a, u.table, u.back) for a, u in table.upstreams.items()]
    lookups = [(a, u.table, u.key, u.by) for a, u in table.lookups.items()]
    told = [table.code, table.contract.fingerprint, SEMANTICS]
    told += [table.recompute, sources, lookups, unit, table.keyed_by, table.mask_undeclared]
    if table.contract.has_tokens:
        told.append(key_fingerprint())
    return int.from_bytes(hashlib.sha256("\n".join(map(str, told)).encode()).digest()[:6], "big")


def plan(
    table: Table,
    last: Record | None,
    upstreams: Upstreams,
    *,
    existing: Iterable[str] = (),
    requested: Iterable[str] | None = None,
    affected: Iterable[str] = (),
    recovering: bool = False,
    rebuild: bool = False,
) -> Work:
    """The work that brings `requested` units (None: all) up to date.

    existing: units of the table that hold rows. affected: units whose lookups changed under them.
    recovering: an earlier refresh died after its dead letters; nothing is appended then, because
    making units anew is right whatever it left behind. rebuild: make them anew though nothing
    changed.
    """
    code = code_version(table)
    heads: Position = {u: {WHOLE: v} for u, v in upstreams.heads.items()}
    heads[CODE] = {WHOLE: code}
    if last is None or not last.position:
        return Work(heads, whole=True, reason="made from scratch: no earlier refresh is on record")
    if any(change is None for change in upstreams.changed.values()):
        return Work(heads, whole=True, reason="the log of an upstream does not say what changed since")
    changed = {u: c for u, c in upstreams.changed.items() if c is not None}
    if table.unit is None:
        return _plan_whole(table, last, heads, changed, rebuild, recovering)

    known = set(existing) | rebuilt_units(table, upstreams.units)
    code_stale = made_by_other_code(table, last, known)
    if code_stale == known and known and requested is None:
        return Work(heads, whole=True, reason="the table's code or contract changed")
    if WHOLE in changed.get(table.main[1].table, Touched()).all:
        return Work(heads, whole=True, reason=f"{table.main[1].table} does not say which units changed")
    append, replace = _touched_units(table, changed, known)
    replace |= code_stale | (set(affected) & known)
    ahead = {u for versions in last.position.values() for u in versions if u != WHOLE}
    if table.recompute != "rows" or recovering or rebuild:
        replace |= append
    replace |= append & ahead
    append -= replace
    out_of_date = append | replace
    if recovering and not out_of_date:
        # The dead one worked on what is up to date for this code: it was another code's refresh.
        return Work(heads, whole=True, reason="the dead letters are those of a refresh that died")
    if requested is None or recovering:
        if rebuild:
            return Work(heads, whole=True, reason="rebuild was asked for")
        wanted = out_of_date
    else:
        wanted = set(requested) if rebuild else out_of_date & set(requested)
    if not wanted:
        return Work(last.position if out_of_date else heads, reason="up to date")
    if out_of_date <= wanted:
        extra = wanted - append
        return Work(heads, frozenset(append), frozenset(extra), reason=_say(append, extra))
    position = _with_ahead(last.position, heads, wanted)
    return Work(position, replace=frozenset(wanted), reason=_say(set(), wanted))


def made_by_other_code(table: Table, last: Record, units: Iterable[str]) -> set[str]:
    """Of `units`, those that a transform or contract made which is no longer the table's own."""
    code, made_by = code_version(table), last.position.get(CODE, {})
    return {u for u in units if made_by.get(u, made_by.get(WHOLE)) != code}


def upstream_days(table: Table, upstream: str, units: Iterable[str]) -> set[str]:
    """The upstream's days that the given units of the table are made from."""
    assert table.unit is not None
    back = next(u.back for u in table.upstreams.values() if u.table == upstream)
    return {
        str(date.fromisoformat(unit) + timedelta(days=offset))
        for unit in units
        if unit != WHOLE
        for offset in range(-back, table.unit.days)
    }


def _plan_whole(
    table: Table,
    last: Record,
    heads: Position,
    changed: Mapping[str, Touched],
    rebuild: bool,
    recovering: bool,
) -> Work:
    if rebuild:
        return Work(heads, whole=True, reason="rebuild was asked for")
    if made_by_other_code(table, last, {WHOLE}):
        return Work(heads, whole=True, reason="the table's code or contract changed")
    moved = {u for u, c in changed.items() if c.all}
    if recovering and not moved:
        return Work(heads, whole=True, reason="the dead letters are those of a refresh that died")
    if not moved:
        return Work({}, reason="up to date")
    main = table.main[1].table
    if moved == {main} and table.recompute == "keys":
        return Work(heads, merge=True, reason=f"rows of {main} changed")
    if moved == {main} and table.recompute == "rows" and not recovering and not changed[main].rewritten:
        return Work(heads, append=frozenset({WHOLE}), reason=f"new rows in {main}")
    return Work(heads, whole=True, reason=f"{', '.join(sorted(moved))} changed")


def _touched_units(
    table: Table, changed: Mapping[str, Touched], known: set[str]
) -> tuple[set[str], set[str]]:
    """(units that only got new rows from the main upstream, units to make anew)."""
    main = table.main[1].table
    append: set[str] = set()
    replace: set[str] = set()
    for upstream in table.upstreams.values():
        change = changed.get(upstream.table)
        if change is None:
            continue
        if WHOLE in change.all:
            replace |= known
            continue
        if upstream.table == main and upstream.back == 0:
            append |= change.appended & known
        else:
            replace |= change.appended & known
        # Also units that hold no row any more: they may have dead letters.
        replace |= change.rewritten
    return append - replace, replace


def rebuilt_units(table: Table, units: Mapping[str, Iterable[str]]) -> set[str]:
    """Units the table has when it is rebuilt: those that its upstreams' own days fall into."""
    return {
        unit
        for upstream in table.upstreams.values()
        for unit in units_from(table, 0, units.get(upstream.table, ()))
    }


def reach(table: Table, upstream: Upstream) -> Callable[[str], Iterable[str]]:
    """Tells which units of the table are made from a unit of an upstream table."""

    def units(unit: str) -> Iterable[str]:
        if table.unit is None or unit == WHOLE:
            return (WHOLE,)
        return units_from(table, upstream.back, (unit,))

    return units


def units_from(table: Table, back: int, days: Iterable[str]) -> set[str]:
    """Units made from an upstream's days, where a unit reaches `back` days before itself."""
    assert table.unit is not None
    found: set[str] = set()
    for day in days:
        if day == WHOLE:
            continue
        first = date.fromisoformat(day)
        found |= {str(table.unit.of(first + timedelta(days=n))) for n in range(back + 1)}
    return found


def _with_ahead(old: Position, heads: Position, units: Iterable[str]) -> Position:
    """`old` for all units but the given ones, which are made from `heads`."""
    return {
        name: {**old.get(name, {WHOLE: -1}), **dict.fromkeys(units, versions[WHOLE])}
        for name, versions in heads.items()
    }


def _say(append: set[str], replace: set[str]) -> str:
    parts = []
    if append:
        parts.append(f"new rows in {len(append)} partitions")
    if replace:
        parts.append(f"{len(replace)} partitions made anew")
    return ", ".join(parts)
