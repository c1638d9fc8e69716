"""The format of a lake and fences, where a commit is a PUT that fails if the object is there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from medallion_platform import storage
from medallion_platform.lakehouse import lake_format, log_archive
from medallion_platform.lakehouse.commit_record import FORMAT
from medallion_platform.lakehouse.fence import claim_place

pytestmark = pytest.mark.s3


def test_a_lake_in_a_bucket_is_marked_migrated_and_refused(bucket: str) -> None:
    root = f"{bucket}/lake-of-its-own"
    files = storage.store(root)
    files.put("bronze/jobs/_rolled_log/00000000000000000000.jsonl.gz", b"old")
    assert lake_format.read_format(root) == 1
    lake_format.open_lake(root)
    assert lake_format.read_format(root) == FORMAT
    assert [f["path"] for f in files.list("bronze/").collect()] == [
        f"bronze/jobs/{log_archive.FOLDER}/00000000000000000000.jsonl.gz"
    ]
    lake_format.write_format(root, FORMAT + 1)
    lake_format.migrate_lake.cache_clear()
    with pytest.raises(lake_format.NewerLake):
        lake_format.open_lake(root)


def test_each_claim_in_a_bucket_is_the_newest_once(bucket: str) -> None:
    lake = lake_format.open_lake(f"{bucket}/fenced")
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda _: claim_place(lake, "publish/x"), range(4)))
    assert len({c.number for c in claims}) == 4
    assert [c.is_newest() for c in sorted(claims, key=lambda c: c.number)] == [False] * 3 + [True]
