"""What a refresh has to do, decided from the Delta logs alone: no Spark, no rows, no clock.

A table consists of partitions (days, weeks, or the whole table). A partition is out of date if an upstream
partition that it is made from changed after the version it was made from, if the code that makes it changed,
or if a lookup's history changed for its rows. The plan names these partitions and how to bring them up to
date; in case of doubt, a partition is recomputed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from medallion_platform.contracts import personal_data_shapes
from medallion_platform.contracts.masking import key_fingerprint
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord, Position
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.delta_log import PartitionChanges
from medallion_platform.pipeline.table import Table, Upstream

SEMANTICS = 2
"""Raised by hand when the engines validate, cast or mask the same rows in another way than before."""

CODE = "code"
"""The pseudo upstream whose version is the code that makes the table."""


@dataclass(frozen=True)
class RefreshPlan:
    """What a refresh has to do, and the positions after it.

    append: partitions whose new upstream rows are appended. replace: partitions recomputed.
    merge: rows of the keys that changed are recomputed (`incremental="merge_by_key"`).
    whole: the table is recomputed, schema included. reason: for people.
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
    """What the Delta logs say: the newest versions, and for each upstream what changed since the position.

    changed: the table's partitions that are affected by the upstream's changes, None if the log no longer has
    them. partitions: each upstream's partitions with rows.
    """

    heads: Mapping[str, int]
    changed: Mapping[str, PartitionChanges | None] = field(default_factory=dict)
    partitions: Mapping[str, Iterable[str]] = field(default_factory=dict)


def code_version(table: Table) -> int:
    """A number that changes whenever something changes that determines the table's rows.

    That is the transform with all code of the project that it uses (`pipeline.code`), the contract, the way
    in which contracts are validated, the inputs, the kind of refresh, and the key of tokens if there are any.
    """
    partition = table.partition and (table.partition.column, table.partition.grain)
    sources = [(a, u.table, u.lookback_days) for a, u in table.upstreams.items()]
    lookups = [(a, u.table, u.key, u.by) for a, u in table.lookups.items()]
    told = [table.code, table.contract.fingerprint, SEMANTICS]
    told += [table.incremental, sources, lookups, partition, table.recompute_key]
    told.append(table.mask_undeclared and personal_data_shapes.VERSION)
    if table.contract.has_tokens:
        told.append(key_fingerprint())
    return int.from_bytes(hashlib.sha256("\n".join(map(str, told)).encode()).digest()[:6], "big")


def plan_refresh(
    table: Table,
    last: CommitRecord | None,
    upstreams: Upstreams,
    *,
    existing: Iterable[str] = (),
    requested: Iterable[str] | None = None,
    affected: Iterable[str] = (),
    recovering: bool = False,
    rebuild: bool = False,
) -> RefreshPlan:
    """The plan that brings `requested` partitions (None: all) up to date.

    existing: partitions of the table with rows. affected: partitions whose lookups changed. recovering: an
    earlier refresh died after its dead letters; then nothing is appended, because recomputing partitions is
    right whatever it left behind. rebuild: recompute partitions even if nothing changed.
    """
    code = code_version(table)
    heads: Position = {u: {UNPARTITIONED: v} for u, v in upstreams.heads.items()}
    heads[CODE] = {UNPARTITIONED: code}
    if last is None or not last.position:
        return RefreshPlan(heads, whole=True, reason="rebuilt: there is no earlier refresh")
    if any(change is None for change in upstreams.changed.values()):
        return RefreshPlan(
            heads, whole=True, reason="the Delta log of an upstream table no longer says what changed"
        )
    changed = {u: c for u, c in upstreams.changed.items() if c is not None}
    if table.partition is None:
        return _plan_whole(table, last, heads, changed, rebuild, recovering)

    known = set(existing) | rebuilt_partitions(table, upstreams.partitions)
    code_stale = made_by_other_code(table, last, known)
    if code_stale == known and known and requested is None:
        return RefreshPlan(heads, whole=True, reason="the table's code or contract changed")
    if UNPARTITIONED in changed.get(table.main_upstream.table, PartitionChanges()).all:
        return RefreshPlan(
            heads, whole=True, reason=f"{table.main_upstream.table} does not say which partitions changed"
        )
    append, replace = _partitions_to_refresh(table, changed, known)
    replace |= code_stale | (set(affected) & known)
    ahead = {u for versions in last.position.values() for u in versions if u != UNPARTITIONED}
    if table.incremental != "append" or recovering or rebuild:
        replace |= append
    replace |= append & ahead
    append -= replace
    out_of_date = append | replace
    if recovering and not out_of_date:
        # The dead one worked on what is up to date for this code: it was another code's refresh.
        return RefreshPlan(heads, whole=True, reason="the dead letters are those of a refresh that died")
    if requested is None or recovering:
        if rebuild:
            return RefreshPlan(heads, whole=True, reason="rebuild was requested")
        wanted = out_of_date
    else:
        wanted = set(requested) if rebuild else out_of_date & set(requested)
    if not wanted:
        return RefreshPlan(last.position if out_of_date else heads, reason="up to date")
    if out_of_date <= wanted:
        extra = wanted - append
        return RefreshPlan(heads, frozenset(append), frozenset(extra), reason=_reason_in_words(append, extra))
    position = _positions_after_refresh(last.position, heads, wanted)
    return RefreshPlan(position, replace=frozenset(wanted), reason=_reason_in_words(set(), wanted))


def made_by_other_code(table: Table, last: CommitRecord, partitions: Iterable[str]) -> set[str]:
    """The `partitions` that were made by an earlier transform or contract."""
    code, made_by = code_version(table), last.position.get(CODE, {})
    return {u for u in partitions if made_by.get(u, made_by.get(UNPARTITIONED)) != code}


def upstream_days(table: Table, upstream: str, partitions: Iterable[str]) -> set[str]:
    """The days of an upstream table that these partitions are made from."""
    assert table.partition is not None
    lookback_days = next(u.lookback_days for u in table.upstreams.values() if u.table == upstream)
    return {
        str(date.fromisoformat(partition) + timedelta(days=offset))
        for partition in partitions
        if partition != UNPARTITIONED
        for offset in range(-lookback_days, table.partition.days)
    }


def _plan_whole(
    table: Table,
    last: CommitRecord,
    heads: Position,
    changed: Mapping[str, PartitionChanges],
    rebuild: bool,
    recovering: bool,
) -> RefreshPlan:
    if rebuild:
        return RefreshPlan(heads, whole=True, reason="rebuild was requested")
    if made_by_other_code(table, last, {UNPARTITIONED}):
        return RefreshPlan(heads, whole=True, reason="the table's code or contract changed")
    moved = {u for u, c in changed.items() if c.all}
    if recovering and not moved:
        return RefreshPlan(heads, whole=True, reason="the dead letters are those of a refresh that died")
    if not moved:
        return RefreshPlan({}, reason="up to date")
    main = table.main_upstream.table
    if moved == {main} and table.incremental == "merge_by_key":
        return RefreshPlan(heads, merge=True, reason=f"rows of {main} changed")
    if moved == {main} and table.incremental == "append" and not recovering and not changed[main].rewritten:
        return RefreshPlan(heads, append=frozenset({UNPARTITIONED}), reason=f"new rows in {main}")
    return RefreshPlan(heads, whole=True, reason=f"{', '.join(sorted(moved))} changed")


def _partitions_to_refresh(
    table: Table, changed: Mapping[str, PartitionChanges], known: set[str]
) -> tuple[set[str], set[str]]:
    """(partitions with only new rows from the main upstream, partitions to recompute)."""
    main = table.main_upstream.table
    append: set[str] = set()
    replace: set[str] = set()
    for upstream in table.upstreams.values():
        change = changed.get(upstream.table)
        if change is None:
            continue
        if UNPARTITIONED in change.all:
            replace |= known
            continue
        if upstream.table == main and upstream.lookback_days == 0:
            append |= change.appended & known
        else:
            replace |= change.appended & known
        # Also partitions that hold no row any more: they may have dead letters.
        replace |= change.rewritten
    return append - replace, replace


def rebuilt_partitions(table: Table, partitions: Mapping[str, Iterable[str]]) -> set[str]:
    """The partitions of the table after a rebuild: those that contain days of its upstream tables."""
    return {
        partition
        for upstream in table.upstreams.values()
        for partition in partitions_from(table, 0, partitions.get(upstream.table, ()))
    }


def partitions_reached(table: Table, upstream: Upstream) -> Callable[[str], Iterable[str]]:
    """A function from a partition of an upstream table to the partitions of the table made from it."""

    def partitions(partition: str) -> Iterable[str]:
        if table.partition is None or partition == UNPARTITIONED:
            return (UNPARTITIONED,)
        return partitions_from(table, upstream.lookback_days, (partition,))

    return partitions


def partitions_from(table: Table, lookback_days: int, days: Iterable[str]) -> set[str]:
    """The partitions made from these upstream days, with `lookback_days` earlier days for each partition."""
    assert table.partition is not None
    found: set[str] = set()
    for day in days:
        if day == UNPARTITIONED:
            continue
        first = date.fromisoformat(day)
        found |= {str(table.partition.of(first + timedelta(days=n))) for n in range(lookback_days + 1)}
    return found


def _positions_after_refresh(old: Position, heads: Position, partitions: Iterable[str]) -> Position:
    """The position after a refresh: `heads` for the given partitions, `old` for all others."""
    return {
        name: {**old.get(name, {UNPARTITIONED: -1}), **dict.fromkeys(partitions, versions[UNPARTITIONED])}
        for name, versions in heads.items()
    }


def _reason_in_words(append: set[str], replace: set[str]) -> str:
    parts = []
    if append:
        parts.append(f"new rows in {counted(len(append), 'partitions')}")
    if replace:
        parts.append(f"{counted(len(replace), 'partitions')} recomputed")
    return ", ".join(parts)
