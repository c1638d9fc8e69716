"""A record that is too long is kept as its file in quarantine, with a letter that says where and how long."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from medallion_platform.contracts.codes import Code
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.sources.formats import blocks
from medallion_platform.sources.formats.jsonlines import JsonLines

from .toy import CSV, Zone, good, letters, table_rows

LONGEST = 1000


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LONGEST", LONGEST)


@pytest.mark.parametrize("size", [LONGEST - 1, LONGEST, LONGEST + 1, 7 * LONGEST])
@pytest.mark.parametrize("block", [1, 7, 600, 999])
@pytest.mark.parametrize("ended", [False, True])
def test_it_is_one_record_wherever_blocks_end(tmp_path: Path, size: int, block: int, *, ended: bool) -> None:
    before, last = b'{"a":1}\n', b"x" * size
    path = tmp_path / "f"
    path.write_bytes(before + last + (b'\n{"a":2}\n' if ended else b""))
    rows = [r for frame in JsonLines().read(path, block=block) for r in frame.iter_rows(named=True)]
    assert [r["_row"] for r in rows] == [1, 2, 3][: len(rows)]
    assert len(rows) == (3 if ended else 2)
    if size < LONGEST:
        assert rows[1]["_payload"] == last.decode()
        return
    assert (rows[1]["_payload"], rows[1]["_payload_bytes"]) == (None, None)
    assert json.loads(rows[1]["_detail"]) == {"bytes": size, "at": len(before)}
    assert "64 MiB" in rows[1]["_malformed"]


def test_its_letter_points_to_the_file_and_all_else_is_taken_in(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LONGEST", 2 * blocks.BLOCK)
    rows = [good("a").text, b'q"' * 2 * blocks.BLOCK, good("b", 20).text]
    content = gzip.compress(b"\n".join([b"event_id,event_timestamp,amount,email", *rows]))
    zone.put("events/a.csv.gz", content)
    taken = zone.take()
    assert (taken.counts.read, taken.counts.written, taken.counts.dead_lettered) == (3, 2, 1)
    (letter,) = letters(zone.lake).to_dicts()
    assert (letter["code"], letter["row"], letter["payload"]) == (Code.TOO_LONG, 2, None)
    detail = json.loads(letter["detail"])
    assert detail["bytes"] == 4 * blocks.BLOCK
    assert (zone.root / "lake" / detail["kept"]).read_bytes() == content
    assert table_rows(zone.lake)["event_id"].to_list() == ["a", "b"]
    assert landing_zone.waiting_files(CSV, zone.seen(CSV), zone.lake) == []


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)
