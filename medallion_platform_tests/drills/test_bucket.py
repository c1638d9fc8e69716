"""The bucket of a drill, by the client that reads landing zones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.drills.bucket import Bucket, serving
from medallion_platform.sources.connectors.landing_zones import BucketLandingZone
from medallion_platform.sources.errors import LostFile, Unavailable
from medallion_platform.storage import store


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for n, name in enumerate(("a/1 & 2.csv", "a/3.csv", "b/ä.csv")):
        file = tmp_path / "landing" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * (n + 1))
    with serving(Bucket(f"drill-{tmp_path.name}".replace("_", "-").lower()[:60], tmp_path)) as served:
        for name, value in json.loads(served.variables).items():
            monkeypatch.setenv(name, value)
        store.cache_clear()
        yield served
    store.cache_clear()


def test_its_files_are_those_of_the_folder(bucket: Bucket) -> None:
    zone = BucketLandingZone(f"s3://{bucket.name}/landing")
    files = zone.scan([""]).files
    assert [(f.path, f.size) for f in files] == [("a/1 & 2.csv", 1), ("a/3.csv", 2), ("b/ä.csv", 3)]
    with zone.file(files[2]) as local:
        assert local.read_bytes() == b"xxx"
    assert [f.path for f in BucketLandingZone(zone.root).scan(["b"]).files] == ["b/ä.csv"]
    (bucket.folder / "landing" / "c.csv").write_bytes(b"new")
    assert [f.path for f in zone.scan([""]).files][-1] == "c.csv"
    with pytest.raises(LostFile):
        zone.seen("nowhere.csv")


@pytest.mark.parametrize("answer", [503, 403, "none"])
def test_it_refuses_what_it_is_told_to_and_is_there_again(
    bucket: Bucket, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obstore.store import S3Store

    root = f"s3://{bucket.name}/landing"
    hasty = S3Store.from_url(root, client_options={"allow_http": True}, retry_config={"max_retries": 0})
    monkeypatch.setattr("medallion_platform.sources.connectors.landing_zones.store", lambda _: hasty)
    zone = BucketLandingZone(root)
    bucket.concerns, bucket.answer = (lambda key: key.startswith("landing/b/")), answer
    first, _, other = zone.scan([""]).files
    with zone.file(first):
        pass
    with pytest.raises(Unavailable), zone.file(other):
        pass
    bucket.concerns = lambda _: True
    with pytest.raises(Unavailable):
        BucketLandingZone(root).scan([""])
    bucket.answer = None
    with zone.file(other):
        pass
