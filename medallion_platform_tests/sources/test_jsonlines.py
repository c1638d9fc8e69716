from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.sources.formats.jsonlines import NO_NUMBER, JsonLines, parse_object
from medallion_platform_tests.sources.reading import fields, frame_of, is_text, lines_kept, same

KEYS = st.sampled_from(["a", "b", "c", "é", "a b", 'q"', "_row", "\\", ""])
TEXT = st.text(st.sampled_from('ab"\\\n\t/{}[],: é€\U0001f600\0u'), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=5
)
RECORDS = st.dictionaries(KEYS, VALUES, max_size=5)


def as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_the_standard_library_writes_comes_back(data: Any):
    shapes = data.draw(st.lists(st.lists(KEYS, unique=True, max_size=5), min_size=1, max_size=3))
    records = [
        {key: data.draw(VALUES) for key in data.draw(st.sampled_from(shapes))}
        for _ in range(data.draw(st.integers(0, 25)))
    ]
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]))
    ascii_only = data.draw(st.booleans())
    block = data.draw(st.sampled_from([1, 33, 2**20]))
    lines = [json.dumps(r, separators=separators, ensure_ascii=ascii_only) for r in records]
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    frame = frame_of(end.join(lines).encode(), JsonLines(), block)
    assert frame["_payload"].to_list() == lines
    assert frame["_malformed"].null_count() == len(lines)
    for record, row in zip(records, frame.iter_rows(named=True), strict=True):
        for key, value in record.items():
            got = row["_row_" if key == "_row" else key]
            if isinstance(value, dict | list):
                assert json.loads(got) == value
            else:
                assert got == as_text(value)
        for name, got in fields(frame).row(row["_row"] - 1, named=True).items():
            assert got is None or name in record or name == "_row_"


DAMAGE = st.sampled_from(list('{}[]",:\\ \n\t0123eE+-.ntfalsu\0é')) | st.characters()


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_the_fast_way_and_the_scanner_say_the_same(data: Any):
    """Records of few shapes, some of them damaged somewhere: never is a wrong one accepted."""
    shape = data.draw(RECORDS)
    lines: list[str] = []
    for _ in range(12):
        record = {k: data.draw(SCALARS) if data.draw(st.booleans()) else v for k, v in shape.items()}
        line = json.dumps(record, ensure_ascii=data.draw(st.booleans()))
        if data.draw(st.integers(0, 3)) == 0:
            at = data.draw(st.integers(0, len(line)))
            cut = data.draw(st.integers(0, 2))
            line = line[:at] + data.draw(DAMAGE) + line[at + cut :]
        lines.append(line)
    texts = [line for line in lines if not any(0xD800 <= ord(c) < 0xE000 for c in line)]
    frame = JsonLines().parse_again(pl.Series(texts, dtype=pl.String))
    for text, row in zip(texts, frame.iter_rows(named=True), strict=True):
        expected = parse_object(text)
        if isinstance(expected, str):
            assert row["_malformed"] == expected
            assert all(v is None for n, v in row.items() if n not in ("_row", "_payload", "_malformed"))
        else:
            assert row["_malformed"] is None
            for key, value in expected.items():
                assert row["_row_" if key == "_row" else key] == value
            named = {"_row_" if key == "_row" else key for key in expected}
            assert all(v is None for n, v in row.items() if n[:1] != "_" and n not in named)


NESTED = {"id": "b", "a": {"b": "x", "c": [{"d": "y"}, "z"]}, "e": ["w", []], "f": [], "g": 1}
INSERTED = st.sampled_from(
    (
        *(r"\q", r"\u12", r"\u12g4", r"\n", r"\u00e9", r"\ud800", r"\ud83d\ude00", r"\ude00", r"\\"),
        *("\t", "\n", "\u00a0", "\x0b", '"', r"\"", "\\", " ", "é", "1"),
    )
)


def is_json(text: str) -> bool:
    """Whether the standard library reads it."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def verdict(row: dict[str, Any]) -> dict[str, Any]:
    """What the reader says of a record, without its number and the fields that it does not have."""
    return {name: value for name, value in row.items() if name != "_row" and value is not None}


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_what_becomes_of_a_line_depends_on_no_other(data: Any):
    """Damage at any depth, among many lines of the same shape: as if the line stood alone."""
    clean = json.dumps(NESTED)
    texts = [clean] * 9
    for _ in range(data.draw(st.integers(1, 4))):
        text = clean
        for _ in range(data.draw(st.integers(1, 2))):
            at = data.draw(st.integers(0, len(text)))
            text = text[:at] + data.draw(INSERTED) + text[at:]
        texts.insert(data.draw(st.integers(0, len(texts))), text)
    together = JsonLines().parse_again(pl.Series(texts, dtype=pl.String))
    for text, row in zip(texts, together.iter_rows(named=True), strict=True):
        alone = JsonLines().parse_again(pl.Series([text], dtype=pl.String))
        assert verdict(row) == verdict(alone.row(0, named=True))
        assert (row["_malformed"] == "not JSON") == (not is_json(text))


@pytest.mark.parametrize(
    "line",
    [r'{"id":"b","a":{"b":"bad\q"}}', r'{"id":"b","a":["\u12","x"]}', '{"id":"b","a":{"b":[\u00a0]}}'],
)
def test_a_bad_nested_value_is_refused_among_good_ones(line: str):
    good = line.replace("bad\\q", "c").replace("\\u12", "c").replace("\u00a0", "")
    frame = frame_of("\n".join([good] * 10 + [line]).encode(), JsonLines())
    assert frame["_malformed"].to_list() == [None] * 10 + ["not JSON"]


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from('{}[]",:\\ \n\r1ax'), max_size=60))
def test_the_scanner_agrees_with_the_standard_library(text: str):
    try:
        value = json.loads(text)
    except ValueError:
        assert parse_object(text) == "not JSON"
        return
    got = parse_object(text)
    if not isinstance(value, dict):
        assert got == "not an object"
    else:
        assert isinstance(got, dict)
        assert set(got) == set(value)


MESSY = (
    st.text(st.sampled_from('{"a":1,}[]\n\r \té'), max_size=60).map(str.encode)
    | st.lists(st.sampled_from([b'{"a":1}', b'{"a":"x"}\r', b"", b"null", b" ", b"{"])).map(b"\n".join)
    | st.binary(max_size=60)
).filter(is_text)


@settings(deadline=None, max_examples=120)
@given(MESSY, st.integers(1, 40), st.integers(1, 6))
def test_blocks_and_resuming_never_change_the_records(content: bytes, block: int, first_row: int):
    one = frame_of(content, JsonLines())
    assert lines_kept(content, one, b" \t\r\n")
    assert same(frame_of(content, JsonLines(), block), one)
    resumed = frame_of(content, JsonLines(), block, first_row)
    assert same(resumed, one.filter(pl.col("_row") >= first_row))
    decoded = one.filter(pl.col("_payload").is_not_null())
    again = JsonLines().parse_again(decoded["_payload"])
    assert same(again.drop("_row"), decoded.drop("_row"))


def test_values_keep_their_text():
    line = (
        '{"a":1.50,"b":123456789012345678901234567890,"c":{"x": 1.50,"y":[]},"d":[1, "2"],"e":true,'
        '"f":null,"g":"x\\u00e9\\n","h":1e5,"i":"","j":-0.0,"l":"null","m":[]}'
    )
    for copies in (1, 20):
        frame = frame_of("\n".join([line] * copies).encode(), JsonLines())
        assert set(fields(frame).rows()) == {
            (
                *("1.50", "123456789012345678901234567890", '{"x": 1.50,"y":[]}', '[1, "2"]'),
                *("true", None, "xé\n", "1e5", "", "-0.0", "null", "[]"),
            )
        }


@pytest.mark.parametrize("copies", [1, 20])
@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a":1', "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":+1}', "not JSON"),
        (b'{"a":1.}', "not JSON"),
        (b'{"a":nul}', "not JSON"),
        (b'{"a":}', "not JSON"),
        (b'{"a":1} x', "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":"\0"}', "not JSON"),
        (b'{"a":"\\x"}', "not JSON"),
        (b'{"a":"' + b"\t" + b'"}', "not JSON"),
        (b"[1]", "not an object"),
        (b"1", "not an object"),
        (b"null", "not an object"),
        (b'{"a":"\\ud800"}', "half of a surrogate pair"),
        (b'{"a":"\xff"}', "not valid utf-8"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
        (b'{"a":NaN}', NO_NUMBER),
        (b'{"a":-Infinity,"b":1}', NO_NUMBER),
        (b'{"b":1,"a":{"c":[Infinity]}}', NO_NUMBER),
    ],
)
def test_malformed_lines_are_kept(line: bytes, why: str, copies: int):
    content = b"\n".join([b'{"a":1}', *[line] * copies, b'{"a":2}'])
    frame = frame_of(content, JsonLines())
    assert frame["_malformed"].to_list() == [None, *[why] * copies, None]
    assert frame["a"].to_list() == ["1", *[None] * copies, "2"]
    kept = frame["_payload_bytes" if "utf-8" in why else "_payload"][1]
    assert (kept if isinstance(kept, bytes) else kept.encode()) == line


def test_of_a_key_that_comes_twice_the_last_value_counts():
    for copies in (1, 20):
        frame = frame_of(b'{"a":1,"a":"x"}\n' * copies, JsonLines())
        assert frame["a"].unique().to_list() == ["x"]


def test_a_very_long_line_and_unknown_fields_flow_through():
    long = "x" * 5_000_000
    content = f'{{"a":"{long}"}}\n{{"a":"y","new":{{"b":1}}}}\n'.encode()
    frame = frame_of(content, JsonLines(), 2**16)
    assert frame["a"].to_list() == [long, "y"]
    assert frame["new"].to_list() == [None, '{"b":1}']


def test_few_bad_lines_do_not_slow_the_rest():
    """Nearly all records go the fast way, whatever stands between them."""
    import medallion_platform.sources.formats.jsonlines as module

    good = [json.dumps({"id": i, "name": f"n{i}", "x": None if i % 3 else 1.5}) for i in range(3000)]
    lines = [line for i, line in enumerate(good) for line in ([line, "{"] if i % 300 == 0 else [line])]
    scanned: list[str] = []
    real = module.parse_object

    def counted(text: str) -> Any:
        scanned.append(text)
        return real(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "parse_object", counted)
        frame = frame_of("\n".join(lines).encode(), JsonLines())
    assert frame["_malformed"].drop_nulls().len() == 10
    assert len(scanned) < 40
