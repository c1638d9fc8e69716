"""The cut of a backup, over any history of tables that go on while they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.lakehouse.commit_record import UNPARTITIONED, WRITER, CommitRecord
from medallion_platform.lakehouse.cut import (
    LAYERS,
    NoConsistentCut,
    TableVersion,
    consistent_cut,
    file_of,
    files_to_copy,
    versions_from,
)
from medallion_platform.lakehouse.lake import Lake

UPSTREAMS = {
    "gold.spend": ("silver.orders", "silver.users"),
    "silver.orders": ("bronze.orders", "silver.users"),
    "silver.users": ("bronze.users", "silver.orders"),
    "bronze.orders": (),
    "bronze.users": (),
}
"""Two tables of silver look each other up: no order of reading suits both."""


def letters(table: str) -> str:
    return f"dead_letters.{table}"


@dataclass
class World:
    """A lake as lists of versions, and what each of them holds: ids of records."""

    logs: dict[str, list[TableVersion]] = field(default_factory=dict)
    rows: dict[str, list[frozenset[int]]] = field(default_factory=dict)
    half: dict[str, tuple[TableVersion, frozenset[int]]] = field(default_factory=dict)
    """The second commit of a write whose first one is made, by its table."""
    records: int = 0

    def __post_init__(self) -> None:
        for name in ("files.orders", "files.users", *UPSTREAMS, *map(letters, UPSTREAMS)):
            self.logs[name], self.rows[name] = [TableVersion(0)], [frozenset()]

    def head(self, name: str) -> TableVersion:
        return self.logs[name][-1]

    def commit(self, name: str, sequence: int, rows: frozenset[int], **needs: Mapping[str, int]) -> None:
        self.logs[name].append(TableVersion(self.head(name).version + 1, sequence, **needs))
        self.rows[name].append(rows)

    def step(self, name: str, action: str) -> None:
        """A step of a table's writer: the second half of its last write, else the first half of another."""
        if name in self.half:
            self._finish(name)
        elif name.startswith("files."):
            self.commit(name, self.head(name).sequence + 1, frozenset())
        elif action == "replay":
            self._begin_replay(name)
        else:
            self._begin_write(name)

    def _begin_write(self, name: str) -> None:
        sequence = max(self.head(name).sequence, self.head(letters(name)).sequence) + 1
        bad, good, self.records = self.records, self.records + 1, self.records + 2
        rejected = self.rows[letters(name)][-1] | {bad}
        made_from = {upstream: self.head(upstream).version for upstream in UPSTREAMS[name]}
        read = {}
        if name.startswith("bronze."):
            registry = name.replace("bronze", "files")
            read = {registry: self.head(registry).sequence}
        new = TableVersion(self.head(name).version + 1, sequence, made_from, read)
        self.commit(letters(name), sequence, rejected, sequences={name: sequence})
        self.half[name] = new, self.rows[name][-1] | {good}

    def _begin_replay(self, name: str) -> None:
        passing = frozenset(sorted(self.rows[letters(name)][-1])[:1])
        sequence = max(self.head(name).sequence, self.head(letters(name)).sequence) + 1
        old = self.head(name)
        rows = self.rows[name][-1] | passing
        self.commit(name, sequence, rows, versions=old.versions, sequences=old.sequences)
        of_letters = letters(name)
        left = TableVersion(self.head(of_letters).version + 1, sequence, sequences={name: sequence})
        self.half[name] = left, self.rows[of_letters][-1] - passing

    def _finish(self, name: str) -> None:
        version, rows = self.half.pop(name)
        target = letters(name) if version.sequences.get(name) == version.sequence else name
        self.logs[target].append(version)
        self.rows[target].append(rows)


def in_order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: LAYERS.index(name.partition(".")[0]))


STEPS = st.tuples(
    st.sampled_from([*UPSTREAMS, "files.orders", "files.users"]), st.sampled_from(["write", "replay"])
)


@given(before=st.lists(STEPS, max_size=40), between=st.lists(st.lists(STEPS, max_size=5), max_size=12))
def test_no_table_is_ahead_of_what_the_cut_holds(
    before: list[tuple[str, str]], between: list[list[tuple[str, str]]]
) -> None:
    world = World()
    for name, action in before:
        world.step(name, action)
    heads: dict[str, int] = {}
    for n, name in enumerate(in_order(list(world.logs))):
        heads[name] = world.head(name).version
        for other, action in between[n] if n < len(between) else []:
            world.step(other, action)

    def newest_first(name: str) -> Iterator[TableVersion]:
        return reversed(world.logs[name][: heads[name] + 1])

    cut = consistent_cut({name: newest_first(name) for name in world.logs})
    for name, one in cut.items():
        assert one.version <= heads[name]
        assert all(cut[upstream].version >= v for upstream, v in one.versions.items())
        assert all(cut[other].sequence >= s for other, s in one.sequences.items())
    for name in UPSTREAMS:
        there = world.rows[name][cut[name].version] | world.rows[letters(name)][cut[letters(name)].version]
        assert accounted_for(world, name, cut[name]) <= there, "a record is gone"


def accounted_for(world: World, name: str, one: TableVersion) -> set[int]:
    """What was a row or a dead letter when the table's writes up to this version were complete."""
    rows = world.rows[name][one.version]
    rejected = [
        held
        for v, held in zip(world.logs[letters(name)], world.rows[letters(name)], strict=True)
        if v.sequence <= one.sequence
    ]
    return set(rows).union(*rejected)


def test_a_table_goes_back_no_further_than_it_must() -> None:
    one = [TableVersion(v, versions={"silver.b": needs}) for v, needs in ((5, 5), (4, 3), (3, 1))]
    other = [TableVersion(v, versions={"silver.a": needs}) for v, needs in ((4, 5), (3, 4), (2, 1))]
    cut = consistent_cut({"silver.a": one, "silver.b": other})
    assert {t: v.version for t, v in cut.items()} == {"silver.a": 4, "silver.b": 3}


def test_versions_are_read_no_further_than_needed() -> None:
    def once() -> Iterator[TableVersion]:
        yield TableVersion(7, versions={"bronze.gone": 9})
        raise AssertionError("read on")

    assert consistent_cut({"silver.a": once()})["silver.a"].version == 7


def test_a_table_without_a_version_that_fits_is_named() -> None:
    with pytest.raises(NoConsistentCut, match=r"silver\.a.*run it again"):
        consistent_cut(
            {"silver.a": [TableVersion(3, versions={"bronze.a": 2})], "bronze.a": [TableVersion(1)]}
        )


NAMES = st.sets(st.sampled_from("abcdefgh"))
BY_TABLE = st.dictionaries(st.sampled_from(["1", "2", "3"]), NAMES)


@given(BY_TABLE, BY_TABLE)
def test_only_files_that_the_last_backup_lacks_are_copied(
    cut: dict[str, set[str]], held: dict[str, set[str]]
) -> None:
    copied = files_to_copy(cut, held)
    flat = {(table, file) for table, files in copied.items() for file in files}
    assert flat == {(t, f) for t, files in cut.items() for f in files if f not in held.get(t, set())}
    assert all(copied.values())


@pytest.mark.parametrize(("position", "file"), [(1 << 32, 0), ((1 << 32) + 1, 1), ((2 << 32), 1), (1, 0)])
def test_the_file_of_a_position(position: int, file: int) -> None:
    assert file_of(position) == file


def commit(lake: Lake, table: str, version: int, record: CommitRecord | None = None) -> None:
    """A commit as engines write it, without its files."""
    log = f"{lake.path(table)}/_delta_log"
    Path(log).mkdir(parents=True, exist_ok=True)
    info = {"timestamp": version, **({"userMetadata": record.to_json()} if record else {})}
    actions: list[dict[str, object]] = [{"commitInfo": info}]
    if record:
        actions.append({"txn": {"appId": WRITER, "version": record.sequence}})
    Path(log, f"{version:020d}.json").write_text("\n".join(map(json.dumps, actions)))


def test_what_a_version_needs_is_read_from_its_commits(lake: Lake) -> None:
    position = {"bronze.a": {UNPARTITIONED: 3, "2026-01-05": 5}, "bronze.new": {UNPARTITIONED: 9}}
    record = CommitRecord("refresh", "r", "", sequence=7, position={**position, "code": {UNPARTITIONED: 5}})
    commit(lake, "silver.a", 0)
    commit(lake, "silver.a", 1, record)
    commit(lake, "silver.a", 2)  # of other software
    newest = {"silver.a": 2, "bronze.a": 6, "bronze.new": 1}
    found = list(versions_from(lake, "silver.a", 2, newest))
    needs = {"bronze.a": 5}
    assert found == [TableVersion(2, 7, needs), TableVersion(1, 7, needs), TableVersion(0)]
    commit(lake, "bronze.a", 0, CommitRecord("intake", "r", "", sequence=2, position={"a": {"*": 5 << 32}}))
    assert list(versions_from(lake, "bronze.a", 0, {"files.a": 0})) == [
        TableVersion(0, 2, sequences={"files.a": 4})
    ]
    commit(lake, "dead_letters.bronze.a", 0, CommitRecord("intake", "r", "", sequence=2))
    assert list(versions_from(lake, "dead_letters.bronze.a", 0, {})) == [
        TableVersion(0, 2, sequences={"bronze.a": 2})
    ]
