"""Features in a real Redis: what one machine publishes, another one knows to be online."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.features import features
from medallion_platform.pipeline.publish import publish
from medallion_platform.serving.feature_repository import (
    FeatureRepository,
    OnlineFeatures,
    has_online_store,
    published_edition,
)
from medallion_platform_tests.serving.redis_server import Redis, RedisMissing
from medallion_platform_tests.serving.world import GOLD, RUN, TABLE, lake_of, write

PASSWORD = "of-a-test"
VIEW = features(GOLD)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Redis that asks for a password."""
    try:
        found = Redis.start(tmp_path_factory.mktemp("redis"), PASSWORD)
    except RedisMissing as error:
        pytest.skip(str(error))
    yield found.port
    found.stop()


def machine(home: Path, lake: Lake, store: str, project: str = "shop") -> FeatureRepository:
    """A repository on a disk of its own."""
    home.mkdir()
    told = (
        f"project: {project}\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
    )
    (home / "feature_store.yaml").write_text(
        f"{told}offline_store: {{type: duckdb}}\nonline_store: {store}\n"
    )
    return FeatureRepository(home, lake, (VIEW,))


def in_redis(port: int, password: str = PASSWORD) -> str:
    return f'{{type: redis, connection_string: "127.0.0.1:{port},password={password}"}}'


def test_another_machine_knows_what_is_online(tmp_path: Path, server: int) -> None:
    lake = lake_of(tmp_path / "lake")
    write(lake, {1: {"a": 1}})
    one = machine(tmp_path / "one", lake, in_redis(server))
    other = machine(tmp_path / "other", lake, in_redis(server))
    assert published_edition(other.home, lake, VIEW) is None
    published = publish(OnlineFeatures(one, VIEW), lake, RUN).edition
    assert published.version == lake.version(TABLE)
    assert published_edition(other.home, lake, VIEW) == published
    assert publish(OnlineFeatures(other, VIEW), lake, replace(RUN, run_id="of the other")).written == 0

    elsewhere = machine(tmp_path / "elsewhere", lake, in_redis(server + 1))
    assert published_edition(elsewhere.home, lake, VIEW) is None, "another Redis has nothing"
    foreign = machine(tmp_path / "foreign", lake, in_redis(server), project="of_somebody_else")
    assert published_edition(foreign.home, lake, VIEW) is None
    changed = machine(tmp_path / "changed", lake, in_redis(server, "a new one"))
    assert published_edition(changed.home, lake, VIEW) == published, "the Redis is the same"
    notes = [file for file in (tmp_path / "lake" / "_medallion" / "published").rglob("*") if file.is_file()]
    assert len(notes) == 1
    assert PASSWORD not in notes[0].read_text() + str(notes[0])


def test_a_repository_without_an_online_store_has_nothing_to_publish(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "lake")
    write(lake, {1: {"a": 1}})
    repository = machine(tmp_path / "home", lake, "null")
    assert not has_online_store(repository.home)
    assert published_edition(repository.home, lake, VIEW) is None
    assert has_online_store(tmp_path / "nothing is said"), "a file beside the repository"


@pytest.mark.parametrize("text", ["", "online_store: redis", "- 1", "a: [", "online_store: {type: redis}"])
def test_what_is_wrong_with_the_settings_is_left_to_a_publish(text: str, tmp_path: Path) -> None:
    """The definitions are loaded by them, too."""
    (tmp_path / "feature_store.yaml").write_text(text)
    assert has_online_store(tmp_path)
    assert published_edition(tmp_path, lake_of(tmp_path / "lake"), VIEW) is None
