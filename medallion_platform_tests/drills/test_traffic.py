"""The files that flow in a drill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medallion_platform.drills.traffic import (
    BROKEN,
    MOST_FILES,
    POISON,
    Piece,
    halves,
    land,
    poisoned,
    spoiled,
    traffic_of,
)
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform_tests.pipeline.shop import EVENTS
from medallion_platform_tests.pipeline.toy import CSV

TEXT = b"a,b\n1,2\n3,4\n5,6\n"


def test_the_halves_of_a_file_have_its_head_and_all_of_its_rows() -> None:
    source = replace(CSV, claims=("shop/**",), format=Csv())
    first, second = halves(Piece(source.table, "shop/x.csv", TEXT), source)
    assert (first.path, first.content) == ("shop/x.1.csv", b"a,b\n1,2\n")
    assert (second.path, second.content) == ("shop/x.2.csv", b"a,b\n3,4\n5,6\n")
    lines = replace(EVENTS, claims=("shop/**",), format=JsonLines())
    first, second = halves(Piece(lines.table, "shop/x.json", b'{"a":1}\n{"a":2}\n'), lines)
    assert (first.content, second.content) == (b'{"a":1}\n', b'{"a":2}\n')


@pytest.mark.parametrize(
    ("path", "content", "claims"),
    [
        ("shop/x.csv", b"a,b\n1,2\n", "shop/**"),
        ("shop/x.csv", b'a,b\n"1\n",2\n3,4\n', "shop/**"),
        ("shop/x.csv.gz", TEXT, "shop/**"),
        ("shop/x.csv", TEXT, "shop/x.csv"),
    ],
    ids=["one row", "quoted", "packed", "another name is not claimed"],
)
def test_a_file_that_cannot_be_cut_stays_whole(path: str, content: bytes, claims: str) -> None:
    source = replace(CSV, claims=(claims,), format=Csv())
    piece = Piece(source.table, path, content)
    assert halves(piece, source) == [piece]


def test_something_of_each_source_lands_before_and_with_the_fault(tmp_path: Path) -> None:
    source = replace(CSV, claims=("shop/**",), format=Csv())
    (tmp_path / "shop").mkdir()
    for n in range(MOST_FILES + 5):
        (tmp_path / "shop" / f"{n:02}.csv").write_bytes(TEXT)
    (tmp_path / "shop" / "00.csv.part").write_bytes(TEXT)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "0.csv").write_bytes(TEXT)
    traffic = traffic_of(str(tmp_path), [source])
    paths = [piece.path for piece in (*traffic.before, *traffic.during)]
    assert paths == [f"shop/{n:02}.csv" for n in range(MOST_FILES)]
    assert len(traffic.before) == MOST_FILES // 2


def test_there_is_no_traffic_without_files(tmp_path: Path) -> None:
    source = replace(CSV, claims=("shop/**",))
    assert traffic_of(str(tmp_path), [source]).during == ()
    assert traffic_of(str(tmp_path / "not there"), [source]).during == ()


def test_rows_that_are_spoiled_come_behind_the_others(tmp_path: Path) -> None:
    for text in (TEXT, TEXT.rstrip(b"\n")):
        content = spoiled(Piece("bronze.a", "a.csv", text)).content
        assert content.startswith(TEXT)
        assert len(content.splitlines()) == len(TEXT.splitlines()) + BROKEN
        assert poisoned(Piece("bronze.a", "a.csv", text)).content == TEXT + POISON + b"\n"


def test_a_file_appears_whole_and_later_than_those_before(tmp_path: Path) -> None:
    land([Piece("bronze.a", "a/1.csv", b"1"), Piece("bronze.a", "a/0.csv", b"0")], tmp_path)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["0.csv", "1.csv"]
    assert (tmp_path / "a" / "0.csv").stat().st_mtime >= (tmp_path / "a" / "1.csv").stat().st_mtime
