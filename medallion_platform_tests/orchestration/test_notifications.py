"""The sensor that tells people of incidents: what it remembers, and that it waits for nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medallion_platform.errors import Kind
from medallion_platform.healing.decide import Look, Want, decide
from medallion_platform.healing.incident import known_from
from medallion_platform.healing.notices import LEDGER, Rules
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.notifications.channel import Channel
from medallion_platform.notifications.pagerduty import PagerDuty
from medallion_platform.notifications.slack import Slack
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.notifications import channels_of, notify_sensor, read_told, rules_of
from medallion_platform_tests.healing.small_ledger import TABLE, evidence
from medallion_platform_tests.notifications import servers
from medallion_platform_tests.notifications.servers import Answer, Server, http_server
from medallion_platform_tests.orchestration.test_sensor import FEW
from medallion_platform_tests.waiting import until

NOW = datetime.now(UTC)
RULES = Rules(timedelta())


@pytest.fixture
def place(tmp_path: Path) -> Lakehouse:
    """Where two tables have failed for good."""
    place = Lakehouse(lake_root=str(tmp_path / "lake"), landing="", feature_repo="")
    fails(place.lake, TABLE)
    fails(place.lake, "gold.spend")
    return place


def fails(lake: Lake, table: str, at: datetime = NOW) -> None:
    look(lake, at, {t: Want("refresh", "1") for t in (table, TABLE, "gold.spend")}, table)


def look(lake: Lake, at: datetime, wanted: dict[str, Want], failed: str = "") -> None:
    ledger = incidents.read(lake)
    found = [evidence(f"run/{failed}/{at}", Kind.DATA, failed, at)] if failed else []
    rows = decide(known_from(ledger), Look(at, wanted, (), found, unharmed=wanted)).rows
    incidents.decide(lake, rows, ledger.seen)


def tick(sensor: dg.SensorDefinition, on: dg.DagsterInstance, place: Lakehouse) -> str:
    """What the page of the sensor says."""
    looked: Any = sensor(dg.build_sensor_context(on, resources={"lakehouse": place}))
    return looked.skip_message


@pytest.fixture
def pager() -> Iterator[Server]:
    with http_server(lambda _: Answer({}, 202)) as server:
        yield server


def told(on: dg.DagsterInstance, channel: Channel, count: int) -> list[str]:
    """The states of what a channel has told, once it remembers so many."""
    return until(
        lambda: len(m := read_told(on, channel).messages) == count and [x.state for x in m.values()], 30
    )


def test_people_are_told_once_whichever_process_looks(
    on: dg.DagsterInstance, place: Lakehouse, pager: Server
) -> None:
    channel = PagerDuty("key", pager.url)
    assert "2 messages" in tick(notify_sensor([channel], RULES), on, place)
    assert told(on, channel, 2) == ["person", "person"]
    for _ in range(2):
        assert "nothing new" in tick(notify_sensor([channel], RULES), on, place)
    assert len(pager.asked) == 2


def test_what_is_over_is_remembered_for_a_day(on: dg.DagsterInstance, tmp_path: Path, pager: Server) -> None:
    place = Lakehouse(lake_root=str(tmp_path / "lake"), landing="", feature_repo="")
    channel, sensor = PagerDuty("key", pager.url), notify_sensor([PagerDuty("key", pager.url)], RULES)
    fails(place.lake, TABLE, NOW - timedelta(hours=30))
    tick(sensor, on, place)
    until(lambda: told(on, channel, 1) == ["person"], 30)
    look(place.lake, NOW - timedelta(hours=26), {})
    until(lambda: tick(sensor, on, place) and told(on, channel, 1) == ["ended"], 30)
    fails(place.lake, "gold.spend")
    until(lambda: tick(sensor, on, place) and told(on, channel, 1) == ["person"], 30)


def test_an_end_is_told(on: dg.DagsterInstance, tmp_path: Path, pager: Server) -> None:
    place = Lakehouse(lake_root=str(tmp_path / "lake"), landing="", feature_repo="")
    channel, sensor = PagerDuty("key", pager.url), notify_sensor([PagerDuty("key", pager.url)], RULES)
    fails(place.lake, TABLE, NOW - timedelta(hours=2))
    tick(sensor, on, place)
    assert told(on, channel, 1) == ["person"]
    look(place.lake, NOW - timedelta(minutes=30), {})
    tick(sensor, on, place)
    until(lambda: told(on, channel, 1) == ["ended"], 30)
    assert [request.told["event_action"] for request in pager.asked] == ["trigger", "resolve"]


def test_a_channel_that_hangs_holds_neither_the_look_nor_another_channel(
    on: dg.DagsterInstance, place: Lakehouse, pager: Server
) -> None:
    workspace = servers.Slack()
    with http_server(workspace.answer) as slack:
        slack.silent = threading.Event()
        hangs, works = Slack("token", "C0", url=slack.url), PagerDuty("key", pager.url)
        sensor = notify_sensor([hangs, works], RULES)
        tick(sensor, on, place)
        assert told(on, works, 2) == ["person", "person"]
        until(lambda: slack.asked, 30)
        fails(place.lake, "silver.other")
        tick(sensor, on, place)  # comes back, though Slack was not answered yet
        assert len(told(on, works, 3)) == 3
        assert len(slack.asked) == 1
        slack.silent.set()
        slack.silent = None
        until(lambda: read_told(on, hangs).messages, 30)
        until(lambda: tick(sensor, on, place) and len(workspace.messages) == 3, 30)


def test_a_channel_that_is_dead_is_named_on_the_page(on: dg.DagsterInstance, place: Lakehouse) -> None:
    with http_server(lambda _: Answer({}, 500)) as server:
        channel = PagerDuty("key", server.url)
        sensor = notify_sensor([channel], RULES)
        tick(sensor, on, place)
        until(lambda: read_told(on, channel).failures, 30)
        for _ in range(2):
            assert "pagerduty: its server answers 500" in tick(sensor, on, place)
        assert len(server.asked) == 1


def test_a_ledger_that_cannot_be_read_is_told(
    on: dg.DagsterInstance, place: Lakehouse, pager: Server
) -> None:
    channel = PagerDuty("key", pager.url)
    sensor = notify_sensor([channel], RULES)
    log = Path(place.lake.path(incidents.INCIDENTS)) / "_delta_log"
    for file in log.glob("*.json"):
        file.write_text("garbage")
    assert "the ledger cannot be read" in tick(sensor, on, place)
    until(lambda: LEDGER in read_told(on, channel).messages, 30)
    assert "nothing runs by itself" in pager.asked[0].told["payload"]["summary"]
    tick(sensor, on, place)
    assert len(pager.asked) == 1


ALL = {
    "slack_token": "xoxb-1",
    "pagerduty_key": "key",
    "grafana_token": "token",
    "webhook_url": "https://hooks.example/x?key=1",
    "webhook_secret": "secret",
    "mail_server": "smtps://me:password@mail.example",
    "mail_to": "all@example.com",
    "owners": {"team:shop": {"slack": "C0SHOP", "mail": "shop@example.com"}},
}


def test_the_settings_name_the_channels() -> None:
    channels = channels_of(Settings(**ALL))
    assert [channel.name for channel in channels] == ["slack", "pagerduty", "grafana", "webhook", "mail"]
    slack, *_, mail = channels
    assert (slack.channels, mail.addresses) == ({"team:shop": "C0SHOP"}, {"team:shop": "shop@example.com"})  # type: ignore[attr-defined]
    assert channels_of(Settings()) == []


def test_each_table_has_an_owner(place: Lakehouse) -> None:
    owners = rules_of(Settings(), FEW, ()).owners
    assert owners.keys() == set(FEW.names)
    specs = {s.key.to_user_string(): s.owners for s in build_defs(FEW, place).resolve_all_asset_specs()}
    assert all([owners[table]] == list(found) for table, found in specs.items() if table in owners)


def test_there_is_a_sensor_where_there_is_a_channel(
    place: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> set[str]:
        return {sensor.name for sensor in build_defs(FEW, place).get_repository_def().sensor_defs}

    assert "notify_people" not in names()
    monkeypatch.setenv("MEDALLION_PAGERDUTY_KEY", "key")
    assert "notify_people" in names()
