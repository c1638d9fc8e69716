"""A lake in a bucket is what it is on disk: the same rows, dead letters and counts; and it is refused
where commits could be lost.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medallion_platform.lakehouse import log_archive, maintenance
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.storage import store
from medallion_platform_tests.command import MEDALLION
from medallion_platform_tests.lakehouse import test_log_archive
from medallion_platform_tests.pipeline import shop
from medallion_platform_tests.pipeline.shop import assert_same, bring_all, change, content, event
from medallion_platform_tests.pipeline.toy import Row, Zone, check, good

from .server import KEYS, Request, Server, losing_first_answers, proxy
from .zone import BucketZone

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.s3, pytest.mark.timeout(600)]

ARRIVALS: list[dict[str, list[Row]]] = [
    {
        "users/1.json": [change("u", 1, 0, "gold"), change("v", 2, 0, "wrong")],
        "events/1.json": [event(f"a{n}", n % 3, user_id="u", amount=n, email=f"{n}@x.org") for n in range(9)],
    },
    {
        "users/2.json": [change("u", 3, 1, "blue")],
        "events/2.json": [event("late", 0, user_id="u", amount=500), event("b", 9), Row(b"{", False)],
    },
]


def test_a_lake_in_a_bucket_holds_what_one_on_disk_holds(
    bucket: str, spark: SparkSession, tmp_path: Path
) -> None:
    here, there = Zone(tmp_path), BucketZone(bucket)
    for files in ARRIVALS:
        for path, rows in files.items():
            here.json(path, rows)
            there.put(path, (here.landing / path).read_bytes(), rows)
        for source in (shop.EVENTS, shop.USERS):
            assert here.take(source).counts == there.take(source).counts
        for one, other in zip(bring_all(here.lake, spark), bring_all(there.lake, spark), strict=True):
            assert one.record
            assert other.record
            assert one.record.counts == other.record.counts
    assert content(there.lake, "gold.days")
    assert_same(here.lake, there.lake)
    assert here.lake.tables() == there.lake.tables()
    left = [f["path"] for f in store(f"{bucket}/lake").list().collect() if "staged" in f["path"]]
    assert left == [], "what was staged is still there"


def test_a_long_log_is_rolled_up_in_a_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_archive, "BUNDLE", test_log_archive.BUNDLE)
    monkeypatch.setattr(log_archive, "KEPT", test_log_archive.KEPT)
    lake = Lake(f"{bucket}/lake")
    test_log_archive.stream_into(lake)
    before = test_log_archive.told(lake)
    then = {version: test_log_archive.content(lake, version) for version in test_log_archive.OLD}
    log = store(lake.path(test_log_archive.TABLE))
    files = len(log.list("_delta_log").collect())
    assert test_log_archive.archive(lake.path(test_log_archive.TABLE)) == 200
    assert len(log.list("_delta_log").collect()) < files - 199
    assert test_log_archive.told(lake) == before
    assert {version: test_log_archive.content(lake, version) for version in then} == then


def test_upkeep_clusters_and_vacuums_in_a_bucket(bucket: str) -> None:
    zone = BucketZone(bucket)
    for n in range(4):
        zone.csv(f"events/{n}.csv", [good(f"k{n}", n * 20)])
        zone.take()
    before = content(zone.lake, "bronze.events")
    done = maintenance.maintain_table(
        zone.lake,
        "bronze.events",
        ("event_id",),
        retention=timedelta(0),
        now=datetime.now(UTC) + timedelta(1),
    )
    assert (done.optimized.files_before, done.optimized.files_after, done.vacuumed.removed) == (4, 1, 4)
    assert content(zone.lake, "bronze.events") == before
    assert maintenance.measure_storage(zone.lake, "bronze.events").kept_bytes == 0
    check(zone)  # type: ignore[arg-type]


def command(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MEDALLION, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_settings_alone_take_the_demo_into_a_bucket_and_no_secret_with_it(
    bucket: str, tmp_path: Path
) -> None:
    lake = f"{bucket}/lake"
    done = command({"MEDALLION_LAKE": lake}, "demo", "--json", "--home", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "lake").exists()
    rows = {row["table"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    assert rows["gold.user_features"]["written"] > 0
    assert "gold.user_features" in Lake(lake).tables()
    secret = KEYS["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret.decode() not in done.stdout + done.stderr
    told = [f for f in tmp_path.rglob("*") if f.is_file() and secret in f.read_bytes()]
    assert told == [], "the secret was written down"
    kept = (bytes(store(lake).get(f["path"]).bytes()) for f in store(lake).list().collect())
    assert not any(secret in content for content in kept), "the secret is in the lake"


@pytest.mark.parametrize("arguments", [["run"], ["stream", "clickstream.events"]])
def test_a_server_that_ignores_the_condition_is_refused(
    server: Server, bucket: str, tmp_path: Path, arguments: list[str]
) -> None:
    def forget(request: Request) -> str | None:
        return "forget" if request.method == "PUT" else None

    with proxy(server, forget) as through:
        told = {**through.environment, "MEDALLION_LAKE": f"{bucket}/lake"}
        told["MEDALLION_KAFKA"] = json.dumps({"bootstrap.servers": "127.0.0.1:1"})
        done = command(told, *arguments, "--home", str(tmp_path))
    assert done.returncode == 3
    assert "If-None-Match" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [f["path"] for f in store(bucket).list().collect()] == ["lake/_medallion/conditional_put"]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "InvalidAccessKeyId"),
        ({"MEDALLION_LAKE": "s3://no-such-bucket/lake"}, "NoSuchBucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "does not respond"),
        ({"MEDALLION_LAKE": "gs://lake"}, "MEDALLION_LAKE: is neither a folder nor s3://bucket/prefix"),
    ],
)
def test_what_cannot_be_reached_is_said_in_a_sentence(
    bucket: str, tmp_path: Path, told: dict[str, str], said: str
) -> None:
    done = command({"MEDALLION_LAKE": bucket} | told, "run", "--home", str(tmp_path))
    assert done.returncode in (2, 3)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("told", "arguments"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, ["status"]),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, ["dead-letters", "list"]),
        ({"MEDALLION_LAKE": "", "MEDALLION_LANDING": "s3://no-such-bucket/landing"}, ["run"]),
        ({"MEDALLION_LAKE": ""}, ["run", "--landing", "s3://no-such-bucket/landing"]),
    ],
)
def test_a_request_that_fails_is_told_in_a_sentence(
    bucket: str, tmp_path: Path, told: dict[str, str], arguments: list[str]
) -> None:
    done = command({"MEDALLION_LAKE": bucket} | told, *arguments, "--home", str(tmp_path))
    assert done.returncode in (1, 3)
    assert len(done.stderr.splitlines()) == 1
    assert "server" in done.stderr


def test_an_intake_whose_answer_was_lost_takes_nothing_twice(server: Server, bucket: str) -> None:
    """The answer to each commit of the table and of the file registry is lost once."""
    zone = BucketZone(bucket)
    zone.csv("events/1.csv", [good("a"), good("b", 20)])
    lost: list[str] = []
    with proxy(server, losing_first_answers(lost)) as through:
        script = (
            "import sys; from medallion_platform_tests.s3.zone import BucketZone;"
            "print(BucketZone(sys.argv[1]).take().counts.written)"
        )
        done = subprocess.run(
            [*MEDALLION[:2], script, bucket],
            env={**os.environ, **through.environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert len(lost) == 4, "the creation of table and file registry, and their first rows"
    assert zone.take().counts.read == 0
    check(zone)  # type: ignore[arg-type]


@pytest.mark.failure("conflict")
def test_of_two_writers_from_one_version_the_second_is_fenced(bucket: str) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/1.csv", [good("a")])
    zone.take()
    stale = zone.lake.open("bronze.events")
    assert stale is not None
    zone.csv("events/2.csv", [good("b", 20)])
    zone.take()
    from medallion_platform.lakehouse.commit import commit_files
    from medallion_platform.lakehouse.commit_record import CommitRecord

    with pytest.raises(CommitConflict):
        commit_files(stale, CommitRecord("intake", "late", "", sequence=2))
