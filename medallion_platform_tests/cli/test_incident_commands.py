"""Incidents by the command line: what is shown of them, and what a person may say."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medallion_platform.errors import ErrorChain, Kind, Link
from medallion_platform.healing.advice import ADVICE
from medallion_platform.healing.decide import Look, Want, decide
from medallion_platform.healing.evidence import Evidence
from medallion_platform.healing.incident import Action, known_from, report_of_action
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.made_with import MADE_WITH
from medallion_platform.orchestration.memory_reports import MEMORY_LIMIT
from medallion_platform_tests.command import medallion
from medallion_platform_tests.healing.small_ledger import evidence
from medallion_platform_tests.in_kubernetes.github import FILE, TOKEN, bare_repository, git, github_server
from medallion_platform_tests.notifications import servers
from medallion_platform_tests.notifications.servers import Answer, http_server

EVENTS, ORDERS, SERVING = "silver.events", "bronze.orders", "serving.users"
STRANGE = ErrorChain(links=(Link(frozenset({"Strange"}), status=299),))
NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A network failure that healed after a minute, one of data that waits, one that nobody knows."""
    made = tmp_path / "mein häuschen"
    lake = Lake(str(made / "lake"))
    began = NOW - timedelta(minutes=2)
    look(lake, began + timedelta(seconds=3), evidence("run/1", Kind.NETWORK, ORDERS, began))
    look(lake, began + timedelta(seconds=30))
    look(lake, began + timedelta(seconds=60), without=ORDERS)
    look(lake, NOW, evidence("run/2", Kind.DATA, EVENTS, NOW))
    look(lake, NOW, Evidence("run/3", NOW, "publish", SERVING, chain=STRANGE))
    return made


def look(lake: Lake, now: datetime, *found: Evidence, without: str = "") -> None:
    ledger = incidents.read(lake)
    wanted = {t: Want("refresh", "1") for t in (EVENTS, ORDERS, SERVING) if t != without}
    rows = decide(known_from(ledger), Look(now, wanted, (), found)).rows
    incidents.decide(lake, rows, ledger.seen)


def call(home: Path, *arguments: str, code: int = 0) -> str:
    done = medallion("incidents", *arguments, "--home", str(home), where=Path("/"))
    assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 and "--json" in arguments else done.stdout + done.stderr


def listed(home: Path) -> dict[str, dict[str, Any]]:
    return {row["table"]: row for row in json.loads(call(home, "list", "--json"))}


def test_incidents_are_listed_with_their_state_and_next_try(home: Path) -> None:
    found = listed(home)
    assert {t: (row["class"], row["state"], row["tries"]) for t, row in found.items()} == {
        SERVING: ("unknown", "waiting", 0),
        EVENTS: ("data", "breaker open", 0),
        ORDERS: ("network", "healed", 1),
    }
    assert found[ORDERS]["next_try"] is None
    assert NOW < datetime.fromisoformat(found[SERVING]["next_try"]) <= NOW + timedelta(seconds=15)
    assert datetime.fromisoformat(found[EVENTS]["next_try"]) == NOW + timedelta(hours=1)
    (network,) = (row for row in json.loads(call(home, "list", "--by-class", "--json")) if row["healed"])
    assert network == {
        "class": "network",
        "incidents": 1,
        "open": 0,
        "healed": 1,
        "healed_share": 1.0,
        "detect_median": 3.0,
        "detect_longest": 3.0,
        "heal_median": 60.0,
        "heal_longest": 60.0,
    }


def test_one_incident_is_shown_with_all_that_happened(home: Path) -> None:
    name = listed(home)[ORDERS]["incident"]
    (shown,) = json.loads(call(home, "show", name, "--json"))
    assert [event["event"] for event in shown["events"]] == ["failed", "tried", "healed"]
    assert shown["events"][0]["told"]["chain"]["said"] == "network"
    assert shown["report"]["incident"] == name
    told = call(home, "show", name)
    assert shown["report"]["advice"] in told
    assert name in told and "healed" in told
    assert "there is no incident nobody-1" in call(home, "show", "nobody-1", code=2)


def test_without_dagster_s_storage_all_else_is_shown(home: Path) -> None:
    (home / "dagster").write_text("no folder")
    told = call(home, "show", listed(home)[EVENTS]["incident"])
    assert "Dagster's storage cannot be read" in told
    assert ADVICE[Kind.DATA].text in told


def test_a_person_pauses_resumes_and_labels(home: Path) -> None:
    call(home, "pause", EVENTS)
    lake = Lake(str(home / "lake"))
    assert known_from(incidents.read(lake)).paused.keys() == {EVENTS}
    rows = [row for row in json.loads(call(home, "list", "--json")) if row["state"] == "paused"]
    assert [row["incident"] != "" for row in rows] == [False, True]
    call(home, "resume", EVENTS)
    assert listed(home)[EVENTS]["state"] == "person"
    assert "there is no table silver.event" in call(home, "pause", "silver.event", code=2)
    unknown = listed(home)[SERVING]["incident"]
    call(home, "label", unknown, "disk")
    assert list(known_from(incidents.read(lake)).labels.values()) == [Kind.DISK]
    assert listed(home)[SERVING]["state"] == "person"
    call(home, "undo", unknown)
    assert known_from(incidents.read(lake)).labels == {}
    assert "nobody gave incident" in call(home, "undo", unknown, code=2)
    assert "there is no incident nobody-1" in call(home, "undo", "nobody-1", code=2)
    call(home, "resume", SERVING)
    data = listed(home)[EVENTS]["incident"]
    assert "has a class, data" in call(home, "label", data, "disk", code=2)
    assert "already" in call(home, "label", unknown, "unknown", code=2)
    assert "is not one of" in call(home, "label", unknown, "nonsense", code=2)


def test_all_that_fails_in_the_same_way_has_the_class_that_a_person_gave(home: Path) -> None:
    lake, later = Lake(str(home / "lake")), NOW + timedelta(minutes=1)

    def classes(run: str, now: datetime) -> set[tuple[str, str]]:
        """What two tables failed with, one in the known way and one in another."""
        another = ErrorChain(links=(Link(frozenset({"Strange"}), status=298),))
        same = Evidence(f"{run}/{ORDERS}", now, "intake", ORDERS, run, chain=STRANGE)
        look(lake, now, same, Evidence(f"{run}/{EVENTS}", now, "refresh", EVENTS, run, chain=another))
        return {
            (row["table"], row["class"])
            for row in json.loads(call(home, "list", "--json"))
            if row["run"] == run
        }

    unknown = listed(home)[SERVING]["incident"]
    call(home, "label", unknown, "disk")
    assert classes("run5", later) == {(ORDERS, "disk"), (EVENTS, "unknown")}
    call(home, "undo", unknown)
    assert classes("run6", later + timedelta(minutes=1)) == {(ORDERS, "unknown"), (EVENTS, "unknown")}


def test_what_is_shown_says_in_which_run_it_failed_and_what_to_do(home: Path) -> None:
    lake = Lake(str(home / "lake"))
    look(lake, NOW, replace(evidence("run/4", Kind.NETWORK, EVENTS, NOW), run_id="0123abcd"))
    of_events = [row for row in json.loads(call(home, "list", "--json")) if row["table"] == EVENTS]
    nexts = {row["class"]: datetime.fromisoformat(row["next_try"]) for row in of_events}
    assert nexts["network"] == nexts["data"] == NOW + timedelta(hours=1), "a table is tried as a whole"
    (network,) = (row for row in of_events if row["class"] == "network")
    assert network["run"] == "0123abcd"
    told = call(home, "show", network["incident"])
    assert "`medallion logs 0123abcd`" in told
    assert f"`medallion incidents resume {EVENTS}`" in told


def killed_with_all_it_may_have(home: Path) -> str:
    """The id of an incident of a run in a pod that was killed for its memory."""

    @dg.job
    def job() -> None: ...

    with runs.open_instance(home / "dagster") as on:
        run = on.create_run_for_job(job)
        tags = {MEMORY_LIMIT: str(16 << 30), MADE_WITH: json.dumps({"MEDALLION_MOST_MEMORY": "16g"})}
        on.add_run_tags(run.run_id, tags)
    told = replace(evidence("run/5", Kind.OOM, EVENTS, NOW), run_id=run.run_id)
    look(Lake(str(home / "lake")), NOW, told)
    return next(row["incident"] for row in json.loads(call(home, "list", "--json")) if row["class"] == "oom")


def test_a_lasting_change_is_proposed_once_and_shown(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = killed_with_all_it_may_have(home)
    assert "set MEDALLION_GIT_REPOSITORY" in call(home, "propose", name, code=2)
    bare = bare_repository(tmp_path)
    with github_server() as github:
        monkeypatch.setenv("MEDALLION_GIT_REPOSITORY", bare.as_uri())
        monkeypatch.setenv("MEDALLION_GIT_VALUES", FILE)
        monkeypatch.setenv("MEDALLION_GITHUB_API", github.address)
        monkeypatch.setenv("MEDALLION_GIT_TOKEN", TOKEN)
        other = next(
            row["incident"] for row in json.loads(call(home, "list", "--json")) if row["class"] == "data"
        )
        assert "no lasting change is known" in call(home, "propose", other, code=2)
        assert "waits for somebody who approves it" in call(home, "propose", name)
        (pull,) = github.pulls
        assert EVENTS in pull["title"]
        github.asked.clear()
        assert pull["html_url"] in call(home, "propose", name)
        assert github.asked == [], "the ledger knows"
    (shown,) = json.loads(call(home, "show", name, "--json"))
    assert shown["proposal"] == pull["html_url"]
    assert TOKEN not in json.dumps(shown)
    assert "mostMemory: 24g" in git(bare, "show", f"{pull['head']['ref']}:{FILE}")


def test_where_there_is_nothing_to_resume_it_says_so(home: Path) -> None:
    written = len(incidents.read(Lake(str(home / "lake"))).rows)
    assert "there is nothing to resume" in call(home, "resume", ORDERS), "it has healed"
    assert len(incidents.read(Lake(str(home / "lake"))).rows) == written
    assert "is tried as soon as" in call(home, "resume", EVENTS)


def test_without_a_lake_or_an_incident_it_says_so(tmp_path: Path) -> None:
    assert "there is no lake" in call(tmp_path, "list", code=2)
    (tmp_path / "lake").mkdir()
    assert json.loads(call(tmp_path, "list", "--json")) == []
    call(tmp_path, "pause", EVENTS)
    assert [row["table"] for row in json.loads(call(tmp_path, "list", "--json"))] == [EVENTS]


def test_a_test_is_sent_by_each_channel(tmp_path: Path) -> None:
    workspace = servers.Slack()
    command = ("incidents", "test-channels", "--owner", "team:shop", "--home", str(tmp_path), "--json")
    with http_server(workspace.answer) as slack, http_server(lambda _: Answer({}, 403)) as other:
        env = {
            **os.environ,
            "MEDALLION_SLACK_TOKEN": "xoxb-hunter2",
            "MEDALLION_SLACK_URL": slack.url,
            "MEDALLION_OWNERS": json.dumps({"team:shop": {"slack": "C0SHOP"}}),
            "MEDALLION_PAGERDUTY_KEY": "hunter2",
            "MEDALLION_PAGERDUTY_URL": other.url,
        }
        done = medallion(*command, where=Path("/"), env=env)
    assert done.returncode == 1
    told = {row["channel"]: row for row in json.loads(done.stdout)}
    assert told["slack"] == {"channel": "slack", "told": True, "why": ""}
    assert told["pagerduty"]["why"].startswith("its server answers 403")
    (message,) = workspace.messages.values()
    assert (message["channel"], message["text"]) == ("C0SHOP", "The test of this channel is over")
    assert "hunter2" not in done.stdout + done.stderr


def test_without_a_channel_the_test_says_where_they_are_described(tmp_path: Path) -> None:
    assert "docs/healing.md" in call(tmp_path, "test-channels", code=2)


def test_what_a_run_repaired_is_among_what_happened(home: Path) -> None:
    network = listed(home)[ORDERS]["incident"]
    done = Action(NOW, "run 7", ORDERS, "a.parquet was put back from the backup", 1, 100, (), 0.5)
    incidents.report(Lake(str(home / "lake")), [report_of_action(network, ORDERS, done, "run 7")])
    (shown,) = json.loads(call(home, "show", network, "--json"))
    (told,) = (event["told"] for event in shown["events"] if event["event"] == "acted")
    assert (told["what"], told["bytes"], told["seconds"]) == (done.what, 100, 0.5)
    assert done.what in call(home, "show", network)
