"""A cluster, the image in its nodes, and the servers that its pods reach."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster import archive, local, sample, servers
from medallion_platform_tests.cluster.graphql import Dagster, Run
from medallion_platform_tests.cluster.image import CannotBuild, build
from medallion_platform_tests.cluster.installation import Installation, namespace
from medallion_platform_tests.cluster.kube import Kube
from medallion_platform_tests.cluster.servers import Servers
from medallion_platform_tests.command import medallion
from medallion_platform_tests.test_demo import content
from medallion_platform_tests.waiting import until

SMALL = {"localBytes": "2500kB", "mostMemory": "3g", "mostExecutors": 2}
"""So that a rebuild of the sample's events is large: it has executors, of a size that a test's nodes have."""
HOST = os.environ.get("MEDALLION_TEST_HOST", "10.88.0.1")
"""The address at which pods reach this machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests with a cluster of one node come first: there is one cluster at a time."""
    items.sort(key=lambda item: item.path.name != "test_policies.py")


@pytest.fixture(scope="session")
def admin() -> Iterator[Kube]:
    """An administrator of the cluster of `KUBECONFIG`, or of one with two nodes that is started here."""
    if config := os.environ.get("KUBECONFIG"):
        yield Kube(Path(config))
        return
    was_running = local.is_running()
    try:
        yield Kube(local.start(nodes=2))
    except local.NoCluster as error:
        pytest.skip(f"no cluster: {error}")
    if not was_running:
        local.stop()


@pytest.fixture(scope="session")
def images(admin: Kube) -> tuple[str, str]:
    """What `images_in_nodes` gives."""
    return images_in_nodes()


def images_in_nodes() -> tuple[str, str]:
    """The image of this checkout in the nodes, by two tags; or two that they can pull.

    `MEDALLION_TEST_IMAGE` names those, with a comma between.
    """
    if given := os.environ.get("MEDALLION_TEST_IMAGE"):
        first, _, second = given.partition(",")
        return first, second or first
    try:
        built = build()
    except CannotBuild as error:
        pytest.skip(f"no image: {error}")
    again = replace(built, name=f"{built.name}-next")
    for named in (built, again):
        archive.load(named, local.sockets())
    return built.name, again.name


@pytest.fixture(scope="session")
def image(images: tuple[str, str]) -> str:
    """The first of them."""
    return images[0]


@pytest.fixture(scope="session")
def servers_of_tests(admin: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A bucket, Postgres, a broker and a Redis for all installations; `admin` made their address."""
    with serving(tmp_path_factory.mktemp("servers")) as found:
        yield found


@contextmanager
def serving(folder: Path) -> Generator[Servers]:
    """Servers at the address at which pods reach this machine; this process reads their bucket, too."""
    before = dict(os.environ)
    try:
        with servers.started(folder, HOST) as found:
            os.environ.update(found.s3.environment)
            yield found
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def installed(
    admin: Kube, image: str, servers_of_tests: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The platform with the sample in topics and landing zone, installed; `test_uninstall.py` comes last."""
    sample.produce(servers_of_tests.broker)
    with namespace(
        admin, servers_of_tests, tmp_path_factory.mktemp("installation"), image, runs={"limits": SMALL}
    ) as found:
        sample.land(found.landing)
        found.install()
        yield found


@pytest.fixture
def dagster(installed: Installation) -> Iterator[Dagster]:
    """The web server, as a data engineer reaches it."""
    with installed.web() as url:
        yield Dagster(url, installed.says)


@dataclass(frozen=True)
class Arrival:
    """How what had arrived came into the tables."""

    tables: Mapping[str, Any]
    """What is in them now, and is in those of an undisturbed process."""
    runs: Sequence[Run]


@pytest.fixture(scope="session")
def arrival(installed: Installation, tmp_path_factory: pytest.TempPathFactory) -> Arrival:
    """What `everything_arrived` gives of the installation of most tests."""
    return everything_arrived(installed, tmp_path_factory.mktemp("undisturbed"))


def everything_arrived(installed: Installation, home: Path) -> Arrival:
    """Return when everything that had arrived is in the tables, by automation alone.

    home: an empty folder for what one process makes of the same.
    """
    expected = _undisturbed(installed, home)
    lake = Lake(installed.lake)
    with installed.web() as url:
        dagster = Dagster(url, installed.says)

        def everything_is_there() -> list[Run]:
            runs = dagster.runs()
            return runs if all(run.ended for run in runs) and content(lake) == expected else []

        return Arrival(expected, until(everything_is_there, 600, installed.says, pause=2))


def _undisturbed(installed: Installation, home: Path) -> Mapping[str, Any]:
    """The tables that one process makes of the same topics and files."""
    (home / "landing").mkdir()
    sample.land(str(home / "landing"))
    told = {"MEDALLION_KAFKA": json.dumps(installed.servers.broker.secured), "MEDALLION_SETTLE_SECONDS": "0"}
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = medallion("run", "--home", str(home), env={**own, **told}, seconds=900)
    assert done.returncode == 0, done.stderr
    return content(Lake(home / "lake"))
