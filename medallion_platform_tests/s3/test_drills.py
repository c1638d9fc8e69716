"""What flows in a drill where files land in a bucket."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medallion_platform.drills.traffic import Piece, traffic_of
from medallion_platform.storage import store
from medallion_platform_tests.pipeline.toy import CSV

pytestmark = pytest.mark.s3


def test_its_files_are_copied_and_left_as_they_are(bucket: str) -> None:
    landing = f"{bucket}/landing zone"
    source = replace(CSV, claims=("shop/**",))
    files = {f"shop/{n}.csv": f"a,b\n{n},2\n".encode() for n in range(3)} | {"others/0.csv": b"a"}
    for name, content in files.items():
        store(landing).put(name, content)
    traffic = traffic_of(landing, [source])
    pieces = [Piece(source.table, f"shop/{n}.csv", files[f"shop/{n}.csv"]) for n in range(3)]
    assert (list(traffic.before), list(traffic.during)) == (pieces[:1], pieces[1:])
    assert {f["path"] for f in store(landing).list().collect()} == files.keys()
