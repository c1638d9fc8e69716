from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.sources.errors import UnreadableFile
from medallion_platform.sources.formats.csv import AFTER_QUOTE, LONGEST_QUOTED, UNTERMINATED, Csv
from medallion_platform_tests.sources.reading import fields, frame_of, is_text, lines_kept, same

PLAIN = Csv(header=False, columns=("a", "b", "c"))


def rows_of(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return fields(frame).rows()


def written(rows: list[list[str]], delimiter: str, quoting: Any, end: str, encoding: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    return out.getvalue().encode(encoding)


TEXT = st.text(st.sampled_from("ab ,;\t|\"\n\r'é€\0x0") | st.characters(max_codepoint=0xFF), max_size=8)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1", "cp1252", "shift_jis", "utf-32")


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_what_the_standard_library_writes_comes_back(data: Any):
    encoding = data.draw(st.sampled_from(ENCODINGS))
    width = data.draw(st.integers(1, 4))
    delimiter = data.draw(st.sampled_from(",;\t|"))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    block = data.draw(st.sampled_from([1, 7, 16, 17, 64, 2**20]))

    def fits(text: str) -> bool:
        bare = "\r" in text or ("\n" in text and "\n" not in end)
        if quoting == csv.QUOTE_MINIMAL and bare:
            return False  # the standard library leaves it unquoted, so that nobody could read it back
        try:
            return text.encode(encoding).decode(encoding) == text
        except UnicodeError:
            return False

    rows = data.draw(st.lists(st.lists(TEXT.filter(fits), min_size=width, max_size=width)))
    names = tuple(f"n{i}" for i in range(width))
    content = written(rows, delimiter, quoting, end, encoding)
    got = frame_of(content, Csv(delimiter, False, names, encoding), block)
    assert got["_malformed"].null_count() == len(got)
    assert rows_of(got) == [tuple(f or None for f in row) for row in rows]
    # a header does not change the records, and is not one
    content = written([list(names), *rows], delimiter, quoting, end, encoding)
    with_header = frame_of(content, Csv(delimiter, True, None, encoding), block)
    assert same(with_header, got)


MESSY = (
    st.text(st.sampled_from('ab,,""\n\r é'), max_size=60).map(str.encode) | st.binary(max_size=60)
).filter(is_text)


@settings(deadline=None, max_examples=200)
@given(MESSY, st.integers(1, 40), st.integers(1, 6))
def test_blocks_and_resuming_never_change_the_records(content: bytes, block: int, first_row: int):
    one = frame_of(content, PLAIN)
    assert same(frame_of(content, PLAIN, block), one)
    resumed = frame_of(content, PLAIN, block, first_row)
    assert same(resumed, one.filter(pl.col("_row") >= first_row))
    assert one["_row"].to_list() == list(range(1, len(one) + 1))


@settings(deadline=None, max_examples=200)
@given(MESSY)
def test_no_text_is_lost_whatever_it_is(content: bytes):
    frame = frame_of(content, PLAIN)
    assert lines_kept(content, frame)
    values = fields(frame)
    bad = frame["_malformed"].is_not_null()
    assert all(value is None for row in values.filter(bad).rows() for value in row)


@settings(deadline=None, max_examples=150)
@given(MESSY)
def test_payloads_parse_again_to_the_same(content: bytes):
    frame = frame_of(content, PLAIN).filter(pl.col("_payload").is_not_null())
    again = PLAIN.parse_again(frame["_payload"])
    assert same(again.drop("_row"), frame.drop("_row"))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(st.sampled_from('ab,"'), max_size=10)))
def test_lines_without_line_ends_in_quotes_are_read_as_the_standard_library_does(lines: list[str]):
    """Where the strict grammar accepts a line, the standard library reads the same."""
    lines = [line for line in lines if line]
    frame = PLAIN.parse_again(pl.Series(lines, dtype=pl.String))
    for line, row in zip(lines, frame.iter_rows(named=True), strict=True):
        if row["_malformed"] is None:
            expected = next(csv.reader([line]))
            assert [row["a"], row["b"], row["c"]] == [f or None for f in expected]


@pytest.mark.parametrize("compressed", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize("block", [1, 5, 2**20])
@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('a,b\r1,"x\ry"\r2,z\r', [("1", "x\ry"), ("2", "z")]),
        ('a,b\r1,"x\ny"\r2,"p\r\nq""\r"', [("1", "x\ny"), ("2", 'p\r\nq"\r')]),
        ('"a\r",b\r\r3,4', [("3", "4")]),
        ("a,b\r5,6\n7,8\r\n9,10\r", [("5", "6"), ("7", "8"), ("9", "10")]),
        ('a,b\n1,"x\ry"\r\n2,z\n', [("1", "x\ry"), ("2", "z")]),
        ("a,b\r", []),
        ("a,b", []),
    ],
    ids=["in quotes", "any in quotes", "in a name", "mixed", "of line feeds", "header only", "one line"],
)
def test_a_return_ends_lines_or_is_a_part_of_a_value(
    content: str, rows: list[tuple[str, str]], block: int, compressed: Callable[[bytes], bytes]
):
    """Old Macs end lines by it; between quotes it stays what it is, in the payload too."""
    frame = frame_of(compressed(content.encode()), Csv(), block)
    assert rows_of(frame) == rows
    assert frame["_malformed"].null_count() == len(rows)
    names = ("a\r", "b") if content.startswith('"a') else ("a", "b")
    if rows:
        again = Csv().parse_again(frame["_payload"], names)
        assert rows_of(again) == rows


@pytest.mark.parametrize("block", [1000, 2**16, 2**20])
@pytest.mark.parametrize("length", [2**16 - 2, 2**16 - 1, 2**16, 2**17 - 1])
def test_a_first_line_as_long_as_the_look_tells_by_what_follows(length: int, block: int):
    head = b"a,b,".ljust(length, b"-")
    for end, written in ((b"\r\n", "x\ry"), (b"\n", "x\ry"), (b"\r", '"x\ry"')):
        frame = frame_of(end.join((head, written.encode() + b",1,2", b"")), Csv(), block)
        assert frame["a"].to_list() == ["x\ry"], end


@pytest.mark.parametrize("length", [2**16, 2**18])
def test_a_return_within_a_quoted_text_that_is_longer_than_the_look_ends_no_line(length: int):
    long = "-" * 100 + "\r" + "-" * length
    frame = frame_of(f'"{long}",b\nx\ry,1\n'.encode(), Csv(header=False, columns=("a", "b")))
    assert rows_of(frame) == [(long, "b"), ("x\ry", "1")]


def test_a_stray_quote_costs_its_line_where_returns_end_lines():
    frame = frame_of(b'a,b\r1,"x\r2,y\r3,z\r', Csv())
    assert frame["_malformed"].to_list() == [UNTERMINATED, None, None]
    assert frame["_payload"].to_list() == ['1,"x', "2,y", "3,z"]


def test_a_row_of_another_width_is_kept_whole():
    frame = frame_of(b'1,2,3\n1,2\n1,2,3,4\n\n"x\ny",2\n7,8,9', PLAIN)
    assert frame["_malformed"].to_list() == [
        None,
        "ragged: 2 fields, 3 expected",
        "ragged: 4 fields, 3 expected",
        "ragged: 2 fields, 3 expected",
        None,
    ]
    assert frame["_payload"].to_list() == ["1,2,3", "1,2", "1,2,3,4", '"x\ny",2', "7,8,9"]
    assert frame["_row"].to_list() == [1, 2, 3, 4, 5]
    assert rows_of(frame)[3:] == [(None, None, None), ("7", "8", "9")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('1,"open,3', UNTERMINATED),
        ('1,"a"b,3', AFTER_QUOTE),
        ('"', UNTERMINATED),
        ('1,2,"""', UNTERMINATED),
    ],
)
def test_a_stray_quote_costs_one_line(line: str, why: str):
    many = "".join(f"{i},y,z\n" for i in range(3000))
    content = f"{many}{line}\n{many}".encode()
    for block in (1024, 2**20):
        frame = frame_of(content, PLAIN, block)
        assert len(frame) == 6001
        bad = frame.filter(pl.col("_malformed").is_not_null())
        assert bad.select("_row", "_payload", "_malformed").rows() == [(3001, line, why)]


def test_stray_quotes_that_seem_to_belong_together_cost_one_line_each():
    content = b'1,"a,3\n' + b"4,5,6\n" * 50 + b'7,8,b"\n'
    frame = frame_of(content, PLAIN)
    assert len(frame) == 52
    assert frame.filter(pl.col("_malformed").is_not_null())["_row"].to_list() == [1]
    assert rows_of(frame)[-1] == ("7", "8", 'b"')


def test_a_quoted_field_over_many_lines_is_one_record_up_to_a_bound():
    text = "line\n" * 1000
    frame = frame_of(f'1,"{text}",3\n4,5,6\n'.encode(), PLAIN, 512)
    assert rows_of(frame) == [("1", text, "3"), ("4", "5", "6")]
    text = "line\n" * (LONGEST_QUOTED // 5 + 2)
    frame = frame_of(f'1,"{text}",3\n4,5,6\n'.encode(), PLAIN)
    assert rows_of(frame)[-1] == ("4", "5", "6")
    assert frame["_malformed"][0] == UNTERMINATED


def test_a_quote_amid_a_field_is_text_and_no_quote_at_all_can_be_declared():
    assert rows_of(frame_of(b'5" pipe,b,c\n', PLAIN)) == [('5" pipe', "b", "c")]
    bare = Csv(header=False, columns=("a", "b"), quote=None)
    assert rows_of(frame_of(b'"a,b"\n', bare)) == [('"a', 'b"')]
    single = Csv(header=False, columns=("a", "b"), quote="'")
    assert rows_of(frame_of(b"'a,''x',\"b\n", single)) == [("a,'x", '"b')]


def test_empty_fields_are_null_quoted_or_not():
    assert rows_of(frame_of(b'"",,x\n', PLAIN)) == [(None, None, "x")]


def test_header_names():
    content = b"\xef\xbb\xbf id ,,name,NAME,_row,name_2,name,name (2)\n1,2,3,4,5,6,7,8\n"
    frame = frame_of(content, Csv())
    names = ["id", "column_2", "name", "NAME", "_row_", "name_2", "name (3)", "name (2)"]
    assert fields(frame).columns == names
    assert rows_of(frame) == [("1", "2", "3", "4", "5", "6", "7", "8")]


@pytest.mark.failure("data", work="intake")
def test_a_header_goes_before_the_declaration():
    declared = Csv(columns=("a", "b", "c"))
    frame = frame_of(b"c,new,a\n1,2,3\n", declared)
    assert frame.select("a", "b", "c", "new").rows() == [("3", None, "1", "2")]
    with pytest.raises(UnreadableFile, match="none of the declared columns"):
        frame_of(b"1,2,3\n4,5,6\n", declared)
    with pytest.raises(UnreadableFile, match="header: unterminated quote"):
        frame_of(b'a,"b\n4,5,6\n', declared)


def test_the_header_can_be_had_and_payloads_read_by_it(tmp_path: Any):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\n"a\nb",c\n1,"2"\n')
    assert Csv().read_header(path) == ("a\nb", "c")
    (frame,) = Csv().read(path)
    assert same(Csv().parse_again(frame["_payload"], Csv().read_header(path)), frame)
    path.write_bytes(b"")
    assert Csv().read_header(path) is None
    assert list(Csv().read(path)) == []
    path.write_bytes(b"a,b")
    assert list(Csv().read(path)) == []
    with pytest.raises(ValueError, match="names of their file"):
        Csv().parse_again(frame["_payload"])


def test_without_header_and_names_the_first_record_tells_the_width():
    frame = frame_of(b"1,2\n3\n4,5\n", Csv(header=False), block=1)
    assert fields(frame).columns == ["column_1", "column_2"]
    assert frame["_malformed"].null_count() == 2


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [("utf-8", b"\xff"), ("cp1252", b"\x81"), ("shift_jis", b"\x81\xff"), ("ascii", b"\xe9")],
)
def test_what_does_not_decode_is_kept_to_the_byte(encoding: str, bad: bytes):
    content = b"1,2,3\nx" + bad + b'y,"2",3\n4,5,6\n'
    frame = frame_of(content, Csv(header=False, columns=("a", "b", "c"), encoding=encoding))
    assert frame["_payload_bytes"].to_list() == [None, b"x" + bad + b'y,"2",3', None]
    assert frame["_payload"].to_list() == ["1,2,3", None, "4,5,6"]
    assert frame["_malformed"][1].startswith("not valid ")
    assert rows_of(frame) == [("1", "2", "3"), (None, None, None), ("4", "5", "6")]


def test_half_a_character_of_utf_16_is_kept_to_the_byte():
    good = "1,2,3\n"
    content = good.encode("utf-16") + "x".encode("utf-16-le") + b"\x00\xd8" + b"y\0\n\0z"
    frame = frame_of(content, Csv(header=False, columns=("a", "b", "c"), encoding="utf-16"))
    assert frame["_payload_bytes"].to_list() == [None, b"x\0\x00\xd8y\0", b"z"]


def test_real_hr(real_data: Any):
    for name, count, names in (
        ("departments", 12, ("id", "name")),
        ("jobs", 183, ("id", "title")),
        ("hired_employees", 1999, ("id", "name", "datetime", "department_id", "job_id")),
    ):
        (frame,) = Csv(header=False, columns=names).read(real_data / "hr" / f"{name}.csv")
        assert len(frame) == count
        assert frame["_malformed"].null_count() == count
    nulls = frame.null_count().row(0, named=True)
    assert [nulls[n] for n in names] == [0, 19, 14, 21, 16]


def test_real_retail(real_data: Any, tmp_path: Any):
    import tarfile

    with tarfile.open(real_data / "retail" / "online-retail-by-day.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    files = sorted(tmp_path.rglob("*.csv"))
    assert len(files) == 305
    frame = pl.concat(f for path in files for f in Csv().read(path))
    assert len(frame) == 541_909
    assert frame["_malformed"].null_count() == 541_909
    values = fields(frame)
    expected = pl.concat(pl.read_csv(path, infer_schema=False) for path in files)
    assert values.equals(expected)
    assert values["CustomerID"].null_count() == 135_080
    assert values["InvoiceNo"].str.starts_with("C").sum() == 9_288
    assert len(values) - values.n_unique() == 5_268
    again = Csv().parse_again(frame["_payload"], values.columns)
    assert fields(again).equals(values)
