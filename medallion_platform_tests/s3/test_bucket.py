"""A landing zone in a bucket: what is new, what changed, what was lost; and what a look costs."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from obstore.exceptions import BaseError
from pyarrow.fs import S3FileSystem

from medallion_platform.errors import Kind, classify
from medallion_platform.lakehouse import file_registry
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.landing_zones import BucketLandingZone, zone_at
from medallion_platform.sources.errors import LostFile, StillGrowing
from medallion_platform.storage import client_reason, store
from medallion_platform_tests.pipeline.toy import CSV, NOW, bad, check, good, letters, table_rows

from .server import EXPIRED, SKEWED, Refusal, Server, proxy
from .zone import BucketZone

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.s3, pytest.mark.timeout(600)]
DRIVER = Path(__file__).with_name("driver.py")
KNOWN = 10_000


def put_under_any_key(place: str, content: bytes = b"x") -> None:
    """An object, also where obstore could not make it; one whose key ends in a slash has no content."""
    files = S3FileSystem(
        endpoint_override=os.environ["AWS_ENDPOINT_URL"], region="us-east-1", background_writes=False
    )
    key = place.removeprefix("s3://")
    if key.endswith("/"):
        files.create_dir(key)
        return
    with files.open_output_stream(key) as out:
        out.write(content)


def test_new_objects_are_taken_once_by_their_content(bucket: str) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/a.csv", [good("a"), bad()])
    zone.csv("events/2026/01/b.csv", [good("b", 20)])
    assert zone.take().counts.read == 3
    assert zone.take().counts.read == 0
    zone.csv("events/c.csv", zone.rows["events/a.csv"])
    again = zone.take()
    assert again.counts.read == 0
    assert any("same content" in note for note in again.notes)
    check(zone)  # type: ignore[arg-type]


def test_another_content_of_the_same_size_in_the_same_second_is_a_new_version(bucket: str) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/a.csv", [good("a")])
    zone.take()
    (before,) = zone.seen(CSV)
    zone.csv("events/a.csv", [good("b")])
    (after,) = zone.seen(CSV)
    assert after.size == before.size
    assert any("new version" in note for note in zone.take().notes)
    assert table_rows(zone.lake)["event_id"].to_list() == ["a", "b"]


def test_a_torn_object_is_kept_in_quarantine(bucket: str) -> None:
    zone = BucketZone(bucket)
    torn = gzip.compress(b"event_id\n" + os.urandom(5000).hex().encode())[:-100]
    zone.put("events/torn.csv.gz", torn)
    zone.csv("events/whole.csv", [good("a")])
    taken = zone.take()
    assert (taken.counts.written, taken.counts.dead_lettered) == (1, 1)
    (kept,) = store(f"{bucket}/lake/quarantine").list().collect()
    assert bytes(store(f"{bucket}/lake/quarantine").get(kept["path"]).bytes()) == torn


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_an_object_that_is_lost_between_registration_and_reading_is_told(
    bucket: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/a.csv", [good("a")])
    zone.csv("events/b.csv", [good("b")])
    append = file_registry.register_file_versions

    def and_lose(*given: object) -> None:
        append(*given)  # type: ignore[arg-type]
        if change == "deleted":
            store(zone.landing).delete("events/b.csv")
        else:
            zone.csv("events/b.csv", [good("x"), good("y", 20)])

    monkeypatch.setattr(file_registry, "register_file_versions", and_lose)
    taken = zone.take()
    monkeypatch.undo()
    assert (taken.counts.read, taken.counts.written, taken.counts.dead_lettered) == (2, 1, 1)
    assert letters(zone.lake)["violations"].list.first()[0].startswith("file: lost from record 1 on")
    if change == "replaced":
        assert zone.take().counts.written == 2


@pytest.mark.failure("transient", work="intake")
def test_an_object_that_is_no_longer_the_one_that_was_seen_is_not_read(bucket: str) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/a.csv", [good("a")])
    (seen,) = zone.seen(CSV)
    zone.csv("events/a.csv", [good("b")])
    with pytest.raises(StillGrowing), zone_at(zone.landing).file(seen):
        pass
    store(zone.landing).delete("events/a.csv")
    with pytest.raises(LostFile):
        zone_at(zone.landing).seen("events/a.csv")


def test_a_process_that_looks_again_lists_only_what_may_be_new(server: Server, bucket: str) -> None:
    root = f"{bucket}/landing"
    objects = store(root)

    def known(n: int) -> None:
        objects.put(f"events/{n:06}.csv", b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(known, range(KNOWN)))
    objects.put("other/a.csv", b"x")
    with proxy(server) as through:
        os.environ.update(through.environment)
        store.cache_clear()
        try:
            zone = BucketLandingZone(root)

            def look() -> tuple[int, int]:
                through.seen.clear()
                found = zone.scan(["events"])
                assert {r.is_list for r in through.seen} == {True}
                return len(found.files), len(through.seen)

            assert look() == (KNOWN, KNOWN // 1000)
            assert look() == (KNOWN, 1)
            objects.put("events/999999.csv", b"x")
            assert look() == (KNOWN + 1, 1)
            objects.put("events/000000-late.csv", b"x")
            assert look() == (KNOWN + 1, 1), "a name that sorts before is found with the next whole list"
            zone.full_listing_seconds = 0
            assert look() == (KNOWN + 2, KNOWN // 1000 + 1)
            assert "other/a.csv" not in {seen.path for seen in zone.scan(["events"]).files}
        finally:
            os.environ.update(server.environment)
            store.cache_clear()


@pytest.mark.parametrize(
    "name", ["tab\there.csv", "line\nend.csv", "\r.csv", "delete\x7f.csv", "\x07.csv", "escape\x1b[2J.csv"]
)
def test_an_object_of_an_unusable_key_is_named_and_all_others_are_taken_in(bucket: str, name: str) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/2026/a.csv", [good("a")])
    zone.csv("events/z.csv", [good("z")])
    put_under_any_key(f"{zone.landing}/events/2026/{name}")
    look = landing_scan.scan_landing_zone(zone.landing, [CSV], NOW)
    assert [seen.path for seen in look.claimed[CSV.name]] == ["events/2026/a.csv", "events/z.csv"]
    ((left, why),) = look.skipped.items()
    assert left.startswith("events/2026/")
    assert left.isprintable()
    assert "rename it" in why
    assert zone.take().counts.written == 2
    zone.csv("events/zz.csv", [good("b", 20)])
    assert [seen.path for seen in zone.seen(CSV)][-1] == "events/zz.csv", "with its ETag, as before"
    taken = zone.take()
    assert (taken.counts.read, taken.counts.dead_lettered, taken.notes) == (1, 0, [])
    check(zone)  # type: ignore[arg-type]


def test_a_look_again_finds_what_came_behind_an_unusable_key(bucket: str) -> None:
    root = f"{bucket}/landing"
    objects = store(root)
    objects.put("events/a.csv", b"x")
    zone = BucketLandingZone(root)
    assert len(zone.scan(["events"]).files) == 1
    put_under_any_key(f"{root}/events/b\t.csv")
    objects.put("events/c.csv", b"x")
    for _ in range(2):
        found = zone.scan(["events"])
        assert [seen.path for seen in found.files] == ["events/a.csv", "events/c.csv"]
        assert list(found.skipped) == ["events/b\t.csv"]
    assert {seen.etag is None for seen in found.files} == {False}


def test_the_marks_of_folders_are_no_files(bucket: str) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/2026/a.csv", [good("a")])
    for mark in ("events/2026/01/", "events/2026/02.csv/", "events/"):
        put_under_any_key(f"{zone.landing}/{mark}", b"")
    zone.put("events/2026_$folder$", b"")
    zone.put("events/2026/01_$folder$", b"")
    look = landing_scan.scan_landing_zone(zone.landing, [CSV], NOW)
    assert [seen.path for seen in look.claimed[CSV.name]] == ["events/2026/a.csv"]
    assert (look.skipped, look.unclaimed, look.unfinished) == ({}, (), ())
    taken = zone.take()
    assert (taken.counts.read, taken.counts.dead_lettered) == (1, 0)


def test_an_object_whose_key_ends_in_a_slash_is_named_where_it_has_content(
    server: Server, bucket: str
) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/full.csv/a.csv", [good("a")])
    put_under_any_key(f"{zone.landing}/events/full.csv/", b"")

    def with_content(answer: bytes) -> bytes:
        key, mark, rest = answer.partition(b"/events/full.csv/</Key>")
        return key + mark + rest.replace(b"<Size>0</Size>", b"<Size>5</Size>", 1)

    with proxy(server, retold=with_content) as through:
        os.environ.update(through.environment)
        store.cache_clear()
        try:
            look = landing_scan.scan_landing_zone(zone.landing, [CSV], NOW)
        finally:
            os.environ.update(server.environment)
            store.cache_clear()
    assert list(look.skipped) == ["events/full.csv"]
    assert "a / at its end" in look.skipped["events/full.csv"]
    assert [seen.path for seen in look.claimed[CSV.name]] == ["events/full.csv/a.csv"]


def test_nobody_waits_for_an_object_to_settle(bucket: str) -> None:
    zone = BucketZone(bucket)
    zone.csv("events/a.csv", [good("a")])
    look = landing_scan.scan_landing_zone(zone.landing, [CSV], datetime.now(UTC), 3600)
    assert [seen.path for seen in look.claimed[CSV.name]] == ["events/a.csv"]


def test_killed_at_any_instant_nothing_is_lost_or_doubled(bucket: str) -> None:
    zone, chance = BucketZone(bucket), random.Random(1)
    for n in range(40):
        rows = [good(f"k{chance.randint(0, 40)}", chance.randint(0, 30)) for _ in range(3)]
        zone.csv(f"events/{n:03}.csv", [*rows, bad(f"{n},never,5,")])
    killed = 0
    for _ in range(15):
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), bucket],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout
        assert process.stdout.readline() == "begins\n"
        time.sleep(chance.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 5, "it was never killed while at work"
    assert table_rows(zone.lake).height, "it was always killed before it began"
    zone.take()
    check(zone)  # type: ignore[arg-type]
    assert letters(zone.lake).select(pl.col("offset").is_unique().all()).item()


@pytest.mark.parametrize(
    ("ask", "told"), [("get", f"{SKEWED.code}: {SKEWED.message.rstrip('.')}"), ("head", "403 Forbidden")]
)
@pytest.mark.failure("auth")
def test_a_refusal_is_told_in_words_also_where_the_answer_has_none(
    server: Server, bucket: str, ask: str, told: str
) -> None:
    with proxy(server, lambda _: SKEWED) as through:
        os.environ.update(through.environment)
        store.cache_clear()
        try:
            with pytest.raises(BaseError) as caught:
                getattr(store(bucket), ask)("x")
        finally:
            os.environ.update(server.environment)
            store.cache_clear()
    assert not classify(caught.value).of_content
    assert client_reason(caught.value) == f"the server says {told}"


@pytest.mark.parametrize("refusal", [EXPIRED, SKEWED])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.failure("auth")
def test_a_refusal_that_spark_meets_is_one_of_credentials_also_where_the_answer_has_no_code(
    server: Server, bucket: str, spark: SparkSession, refusal: Refusal, method: str
) -> None:
    folder = bucket.replace("s3://", "s3a://") + "/rows"
    spark.range(3).write.parquet(folder)
    with proxy(server, lambda request: refusal if request.method == method else None) as through:
        endpoint = {
            "fs.s3a.endpoint": through.environment["AWS_ENDPOINT_URL"],
            "fs.s3a.impl.disable.cache": "true",
        }
        with pytest.raises(Exception) as caught:
            spark.read.options(**endpoint).parquet(folder)
    assert classify(caught.value).kind is Kind.AUTH
    assert client_reason(caught.value).startswith("the server says ")
    assert (refusal.code in client_reason(caught.value)) is (method == "GET")
