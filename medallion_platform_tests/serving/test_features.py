"""Training data never sees the future, and online is the newest row of every user."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from medallion_platform.contracts.contract import Column, ColumnType
from medallion_platform.errors import DeclarationError
from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.fence import claim_place
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.features import features
from medallion_platform.pipeline.publish import Edition, publish
from medallion_platform.serving.feature_repository import (
    FeatureRepository,
    LeakyFeatures,
    OnlineFeatures,
)
from medallion_platform_tests.serving.world import (
    CONTRACT,
    FIRST,
    GOLD,
    RUN,
    TABLE,
    Day,
    features_of,
    frame,
    lake_of,
    write,
)

MIDNIGHT = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
NAMES = ["events_7d", "spend_30d", "share", "top_page"]
USERS = ["a", "b", "ü", ""]


def repository(root: Path, valid_for: timedelta | None = None) -> FeatureRepository:
    return FeatureRepository(
        root / "features", lake_of(root / "lake"), (features(GOLD, valid_for=valid_for),)
    )


def consumer_of(repo: FeatureRepository) -> OnlineFeatures:
    return OnlineFeatures(repo, repo.views[0])


def online(repo: FeatureRepository, users: list[str]) -> dict[str, dict[str, Any]]:
    found = repo.store.get_online_features(
        features=repo.views[0].references, entity_rows=[{"user_id": u} for u in users]
    ).to_dict()
    return {user: {name: found[name][i] for name in NAMES} for i, user in enumerate(found["user_id"])}


def newest(days: dict[int, Day], users: list[str]) -> dict[str, dict[str, Any]]:
    """By looking at every row."""
    found = {}
    for user in users:
        mine = [day for day, there in days.items() if user in there]
        found[user] = features_of(days[max(mine)][user] if mine else None)
    return found


numbers = st.one_of(st.none(), st.integers(-50, 50))
day = st.dictionaries(st.sampled_from(USERS), numbers, min_size=1, max_size=4)
EDGES = [MIDNIGHT + timedelta(days=days, microseconds=step) for days in range(-1, 9) for step in (-1, 0, 1)]
moments = st.datetimes(datetime(2026, 2, 27), datetime(2026, 3, 12)).map(lambda t: t.replace(tzinfo=UTC))
# One retrieval takes seconds: few examples, many questions each, and no minutes of shrinking.
slow: dict[str, Any] = {"deadline": None, "phases": [Phase.explicit, Phase.reuse, Phase.generate]}


@given(
    commits=st.lists(st.dictionaries(st.integers(0, 6), day, min_size=1, max_size=4), min_size=1, max_size=3),
    others=st.lists(moments, max_size=9),
    valid_for=st.sampled_from([None, timedelta(days=2)]),
    tidy=st.booleans(),
)
@settings(max_examples=5, **slow)
def test_history_is_a_brute_force_join_as_of_each_instant(
    tmp_path_factory: pytest.TempPathFactory,
    commits: list[dict[int, Day]],
    others: list[datetime],
    valid_for: timedelta | None,
    tidy: bool,
) -> None:
    """Asked for every user just before, at and just after every midnight, and now and then."""
    asked = [(user, moment) for user in [*USERS, "nobody"] for moment in [*EDGES, *others]]
    repo = repository(tmp_path_factory.mktemp("home"), valid_for)
    days: dict[int, Day] = {}
    for commit in commits:
        write(repo.lake, commit)
        days |= commit
    if tidy:
        maintenance.optimize(repo.lake, TABLE, ("user_id",))
    repo.apply()
    entities = pl.DataFrame(
        asked, schema={"user_id": pl.String, "event_timestamp": pl.Datetime("us", "UTC")}, orient="row"
    ).to_pandas()
    got = pl.from_arrow(
        repo.store.get_historical_features(entity_df=entities, features=repo.views[0].references).to_arrow()
    )
    assert isinstance(got, pl.DataFrame)
    expected = []
    for user, moment in asked:
        known = [
            (MIDNIGHT + timedelta(days=d + 1), there[user])
            for d, there in days.items()
            if user in there and MIDNIGHT + timedelta(days=d + 1) <= moment
        ]
        since, number = max(known, key=lambda k: k[0]) if known else (moment, None)
        if valid_for and moment - since > valid_for:
            number = None
        expected.append({"user_id": user, "event_timestamp": moment, **features_of(number)})
    assert rows_of(got.to_dicts()) == rows_of(expected)


def rows_of(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(
        repr([row[c] for c in ("user_id", *NAMES)] + [row["event_timestamp"].timestamp()]) for row in rows
    )


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 4), day, min_size=1, max_size=2),
            st.one_of(st.none(), st.integers(0, 3), st.just(99)),
        ),
        min_size=2,
        max_size=5,
    )
)
@settings(max_examples=5, **slow)
def test_online_is_the_newest_row_after_any_history_and_any_crash(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[int, Day], int | None]]
) -> None:
    """After each commit a publish, which dies after so many writes; rows never leave the table."""
    repo = repository(tmp_path_factory.mktemp("home"))
    consumer = consumer_of(repo)
    days: dict[int, Day] = {}
    for commit, writes in steps:
        days |= {d: {**days.get(d, {}), **users} for d, users in commit.items()}
        write(repo.lake, {d: days[d] for d in commit})
        if writes is not None:
            with pytest.MonkeyPatch.context() as patch, dying_after(patch, writes):
                publish(consumer, repo.lake, RUN)
    publish(consumer, repo.lake, RUN)
    assert online(repo, USERS) == newest(days, USERS)
    assert publish(consumer, repo.lake, RUN).reason == "up to date"


class Died(Exception):
    pass


class dying_after:
    """Let so many writes to the online store through, one row each, and then die."""

    def __init__(self, patch: pytest.MonkeyPatch, writes: int) -> None:
        self.left = writes
        patch.setattr("medallion_platform.serving.feature_repository._CHUNK", 1)
        for name in ("_write", "_remember"):
            patch.setattr(OnlineFeatures, name, self._counted(getattr(OnlineFeatures, name)))

    def _counted(self, real: Any) -> Any:
        def write(consumer: OnlineFeatures, what: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Died
            return real(consumer, what)

        return write

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, *_: object) -> bool:
        return kind is Died


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureRepository]:
    yield repository(tmp_path_factory.mktemp("home"))


def test_late_data_reaches_history_but_never_replaces_a_newer_value(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    consumer = consumer_of(repo)
    write(repo.lake, {5: {"a": 5}, 2: {"b": 2}})
    assert publish(consumer, repo.lake, RUN).written == 2
    write(repo.lake, {3: {"a": 3, "b": 3}})
    done = publish(consumer, repo.lake, RUN)
    assert (done.partitions, done.written) == ({str(FIRST + timedelta(days=3))}, 1)
    assert online(repo, ["a", "b"]) == {"a": features_of(5), "b": features_of(3)}
    late = pl.DataFrame({"user_id": ["a"], "event_timestamp": [MIDNIGHT + timedelta(days=4)]}).to_pandas()
    got = repo.store.get_historical_features(entity_df=late, features=["user_features:events_7d"])
    assert got.to_df()["events_7d"].tolist() == [3]
    write(repo.lake, {5: {"a": 55}})
    assert publish(consumer, repo.lake, RUN).written == 1
    assert online(repo, ["a"]) == {"a": features_of(55)}


def test_a_row_that_left_the_table_leaves_online_only_when_published_anew(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    consumer = consumer_of(repo)
    write(repo.lake, {1: {"a": 1}, 5: {"a": 5, "b": 5}})
    publish(consumer, repo.lake, RUN)
    write(repo.lake, {5: {}})
    publish(consumer, repo.lake, RUN)
    assert online(repo, ["a", "b"]) == {"a": features_of(5), "b": features_of(5)}
    publish(consumer, repo.lake, RUN, anew=True)
    assert online(repo, ["a", "b"]) == {"a": features_of(1), "b": features_of(None)}


def test_a_lost_online_store_is_filled_again(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    write(repo.lake, {1: {"a": 1}})
    publish(consumer_of(repo), repo.lake, RUN)
    (tmp_path / "features" / "online.db").unlink()
    again = FeatureRepository(repo.home, repo.lake, repo.views)
    assert publish(consumer_of(again), again.lake, RUN).written == 1
    assert online(again, ["a"]) == {"a": features_of(1)}


def test_more_rows_than_one_chunk_are_all_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medallion_platform.serving.feature_repository._CHUNK", 3)
    repo = repository(tmp_path)
    users = {f"u{n}": n for n in range(10)}
    write(repo.lake, {d: {u: n for u, n in users.items() if n % 4 == d} for d in range(4)})
    assert publish(consumer_of(repo), repo.lake, RUN).written == 10
    assert online(repo, list(users)) == {u: features_of(n) for u, n in users.items()}


@pytest.mark.failure("data")
def test_a_row_that_claims_to_be_known_before_its_day_was_over_is_refused(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    early = frame(1, {"a": 1}).with_columns(pl.col("feature_timestamp") - pl.duration(microseconds=1))
    early.write_delta(repo.lake.path(TABLE), mode="append")
    with pytest.raises(LeakyFeatures, match="in 1 row feature_timestamp lies before the end of event_date"):
        publish(consumer_of(repo), repo.lake, RUN)
    assert online(repo, ["a"]) == {"a": features_of(None)}


@pytest.mark.failure("conflict")
def test_a_publish_that_another_one_followed_writes_nothing(
    shared: FeatureRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = consumer_of(shared)
    write(shared.lake, {0: {"late": 1}})
    holds = OnlineFeatures.holds

    def followed(self: OnlineFeatures) -> Edition | None:
        found = holds(self)
        claim_place(shared.lake, consumer.place)
        return found

    with monkeypatch.context() as patched, pytest.raises(CommitConflict, match="another writer has begun"):
        patched.setattr(OnlineFeatures, "holds", followed)
        publish(consumer, shared.lake, RUN)
    assert online(shared, ["late"]) == {"late": features_of(None)}
    publish(consumer, shared.lake, RUN)
    assert online(shared, ["late"]) == {"late": features_of(1)}


def test_anybody_can_ask_which_edition_is_online(shared: FeatureRepository) -> None:
    write(shared.lake, {0: {"a": 1}})
    done = publish(consumer_of(shared), shared.lake, RUN)
    found = shared.store.get_online_features(
        features=["published:version", "published:run_id"], entity_rows=[{"feature_view": "user_features"}]
    ).to_dict()
    assert (found["version"], found["run_id"]) == ([done.edition.version], ["a run"])


def test_features_are_what_is_neither_key_nor_time() -> None:
    found = features(GOLD)
    assert [c.name for c in found.columns] == NAMES
    assert [c.name for c in found.keys] == ["user_id"]
    assert (found.view, found.known_at) == ("user_features", "feature_timestamp")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"partition": None}, "no partition"),
        ({"contract": replace(CONTRACT, event_time=None)}, "no event time"),
        ({"contract": replace(CONTRACT, key=("event_date",))}, "key besides its partition"),
        (
            {"contract": replace(CONTRACT, columns=(*CONTRACT.columns, Column("born", ColumnType("date"))))},
            r"no type for \['born'\]",
        ),
        ({"contract": replace(CONTRACT, key=("event_date", "share"))}, "cannot be the key"),
    ],
)
def test_what_cannot_be_a_feature_is_refused_where_it_is_declared(
    changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DeclarationError, match=reason):
        features(replace(GOLD, **changed))


def test_declaring_features_does_not_import_feast() -> None:
    code = "import sys, medallion_platform.serving.feature_repository as f; sys.exit('feast' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_clickstream_table_declares_features() -> None:
    gold: Any = pytest.importorskip("medallion_sample.clickstream.gold")
    declared = features(gold.user_features)
    assert declared.known_at == "feature_timestamp"
    assert "spend_30d" in [c.name for c in declared.columns]


def test_the_lake_is_only_read(shared: FeatureRepository) -> None:
    write(shared.lake, {0: {"a": 9}})
    before = Lake(shared.lake.root).version(TABLE)
    publish(consumer_of(shared), shared.lake, RUN)
    assert shared.lake.version(TABLE) == before
