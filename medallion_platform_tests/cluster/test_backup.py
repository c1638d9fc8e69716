"""What is lost beyond single pods: a zone, and the whole installation, which comes again from its backup."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import httpx
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from medallion_platform.kubernetes.supervisor import METRICS_PORT
from medallion_platform.lakehouse.backup_place import Backup, BackupPlace
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster import local, sample
from medallion_platform_tests.cluster.graphql import Dagster
from medallion_platform_tests.cluster.installation import Installation, namespace
from medallion_platform_tests.cluster.kube import Kube, is_ready
from medallion_platform_tests.cluster.servers import Servers
from medallion_platform_tests.cluster.test_faults import figure, seconds_since
from medallion_platform_tests.cluster.test_install import REBUILD, WEEK
from medallion_platform_tests.cluster.test_streams import event
from medallion_platform_tests.test_demo import content
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1800)]

SERVICES = {"web", "daemon", "code", "supervise"}
GOLD = "gold.daily_user_metrics"


@pytest.fixture(scope="module")
def servers(servers_of_tests: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers_of_tests.with_own_broker(tmp_path_factory.mktemp("broker")) as found:
        sample.produce(found.broker)
        yield found


@pytest.fixture(scope="module")
def place(servers: Servers) -> str:
    """Where backups are: another bucket than the lake's."""
    servers.new_bucket("backups-of-tests")
    return "s3://backups-of-tests/shop"


@pytest.fixture(scope="module")
def working(
    admin: Kube, image: str, servers: Servers, place: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation into whose tables all has come that had arrived."""
    folder, settings = tmp_path_factory.mktemp("working"), {"MEDALLION_BACKUP": place}
    with namespace(admin, servers, folder, image, settings=settings) as installed:
        sample.land(installed.landing)
        installed.install()
        with installed.web() as url:
            dagster, lake = Dagster(url, installed.says), Lake(installed.lake)
            until(lambda: lake.exists(GOLD) and _at_rest(dagster), 600, installed.says, pause=5)
        yield installed


def _at_rest(dagster: Dagster) -> bool:
    """Whether nothing is at work, nor is asked for by two looks of the sensor."""
    begin = time.monotonic()
    while time.monotonic() - begin < 12:
        if not all(run.ended for run in dagster.runs()):
            return False
        time.sleep(1)
    return True


def test_a_lost_zone(working: Installation) -> None:
    """All services were in the zone that is lost."""
    before, nodes = content(Lake(working.lake)), working.admin
    nodes.run("cordon", "node1")
    try:
        nodes.run("delete", "pods", f"--selector=app.kubernetes.io/component in ({','.join(SERVICES)})")
        until(lambda: services(nodes) == dict.fromkeys(SERVICES, "node2"), 240, working.says, pause=1)
    finally:
        nodes.run("uncordon", "node1")
    since = time.time()
    local.lose(2)
    try:
        until(lambda: services(nodes) == dict.fromkeys(SERVICES, "node1"), 600, working.says, pause=1)
        figure("zone lost, until all services are ready in the other one", seconds_since(since), 1)
        with working.web() as url:
            dagster = Dagster(url, working.says)
            dagster.succeeded(dagster.launch("__ASSET_JOB", ["silver_events"], REBUILD, **WEEK))
        figure("zone lost, until a run has refreshed a week", seconds_since(since), 1)
        assert content(Lake(working.lake)) == before
    finally:
        back = time.time()
        local.start(nodes=2)
    until(lambda: not nodes.about_to_go(), 200, working.says, pause=1)
    figure("zone back, until nothing is left of what was there", seconds_since(back), 1)
    assert services(nodes) == dict.fromkeys(SERVICES, "node1")


def services(kube: Kube) -> dict[str, str]:
    """The node of each service that is ready."""
    found = {}
    for pod in kube.get("pods"):
        component = pod["metadata"]["labels"].get("app.kubernetes.io/component", "")
        if component in SERVICES and is_ready(pod) and "deletionTimestamp" not in pod["metadata"]:
            found[component] = pod["spec"]["nodeName"]
    return found


def test_a_lost_installation_comes_again_from_its_backup(
    working: Installation, place: str, image: str, admin: Kube, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with working.web() as url:
        dagster = Dagster(url, working.says)
        assert schedule(dagster) == ("0 */6 * * *", "RUNNING")
        first, again = made(dagster, place), made(dagster, place)
        known = {run.id for run in dagster.runs()}
    assert (first.copied_files, again.copied_files) == (first.files, 0)
    until(lambda: told_by_supervisor(working) == again.at.timestamp(), 60, working.says)
    before = content(Lake(working.lake))

    since = time.time()
    working.uninstall()
    shutil.rmtree(working.servers.s3.root / working.bucket / "lake")
    names = [f"later-{number}" for number in range(1000)]
    working.servers.broker.send(sample.EVENTS, [event(name, n) for n, name in enumerate(names)])
    values: dict[str, Any] = {"landing": working.landing, "settings": {"MEDALLION_BACKUP": place}}
    folder = tmp_path_factory.mktemp("again")
    with namespace(admin, working.servers, folder, image, **values) as found:
        found.install(restore={"from": place})
        figure("installation lost, until its backup is restored", seconds_since(since), 1)
        assert content(Lake(found.lake)) == before
        print(found.admin.run("logs", "medallion-restore"))
        found.install(restore={"from": ""})
        figure("installation lost, until it works again", seconds_since(since), 1)
        with found.web() as url:
            dagster = Dagster(url, found.says)
            assert known <= {run.id for run in dagster.runs()}
            until(lambda: _arrived(found, names), 400, found.says, pause=2)
            figure("installation lost, until what came meanwhile is in silver", seconds_since(since), 1)
            until(lambda: _at_rest(dagster), 400, found.says, pause=2)
            print(
                [(run.job, run.status, dict(run.tags)) for run in dagster.runs() if run.status != "SUCCESS"]
            )
        after = content(Lake(found.lake))
        assert {table for table in before if len(after[table]) < len(before[table])} == set()
        assert len(after["bronze.events"]) == len(before["bronze.events"]) + len(names)


def schedule(dagster: Dagster) -> tuple[str, str]:
    """When backups are made, and whether they are."""
    selector = {"repositoryLocationName": dagster.location, "repositoryName": "__repository__"}
    told = dagster.ask(
        """query($of: ScheduleSelector!) { scheduleOrError(scheduleSelector: $of) {
            __typename ... on Schedule { cronSchedule scheduleState { status } } } }""",
        of={**selector, "scheduleName": "backup_schedule"},
    )["scheduleOrError"]
    return told["cronSchedule"], told["scheduleState"]["status"]


def made(dagster: Dagster, place: str) -> Backup:
    """A backup, by the job of the schedule."""
    run = dagster.succeeded(dagster.launch("back_up"))
    found = BackupPlace(place).newest()
    assert found and run.start and run.end
    print(f"\n{len(found.tables)} tables, {found.rows:,} rows, {found.files} files, {found.bytes:,} bytes")
    figure(f"backup of {found.copied_files} files, of which it is made", found.seconds, 1)
    figure("backup, its whole run", round(run.end - run.start, 1), 1)
    return found


def told_by_supervisor(installed: Installation) -> float | None:
    """When the newest backup was made, as Prometheus is told."""
    (pod,) = installed.admin.get("pods", "--selector=app.kubernetes.io/component=supervise")
    text = httpx.get(f"http://{pod['status']['podIP']}:{METRICS_PORT}/metrics", timeout=5).text
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    told = families.get("medallion_backup_timestamp_seconds")
    return told[0].value if told else None


def _arrived(installed: Installation, names: list[str]) -> bool:
    opened = Lake(installed.lake).open("silver.events")
    assert opened
    rows = pl.scan_delta(opened).filter(pl.col("event_id").is_in(names)).select("event_id").collect()
    return sorted(rows["event_id"]) == sorted(names)
