"""How answers look: nothing in them commands a terminal, and a script reads back what was there."""

from __future__ import annotations

import json
import logging
import unicodedata
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.cli import terminal

ANY_TEXT = st.text(st.characters(codec=None))
COMMANDING = [
    "\x1b[2J",
    "\x9b31m",
    "\x07",
    "\x00",
    "a\rb",
    "\u202e",
    "\u2066x",
    "\u200b",
    "\u2028",
    "\ud800",
    "\x7f",
]


@pytest.mark.parametrize("text", COMMANDING)
def test_what_a_terminal_would_obey_is_shown(text: str) -> None:
    shown = terminal.printable_text(f"before{text}after")
    assert shown.isprintable()
    assert "\\" in shown


@given(ANY_TEXT)
def test_nothing_that_is_shown_is_a_control_character(text: str) -> None:
    shown = terminal.printable_text(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(c) for c in shown} & {
        "LRE",
        "RLE",
        "LRO",
        "RLO",
        "PDF",
        "LRI",
        "RLI",
    }


def test_usual_text_is_left_alone() -> None:
    usual = "Gänsehäufel, 東京, שלום, C:\\data, 1 €, 👩‍".rstrip("‍")
    assert terminal.printable_text(usual) == usual


def test_a_log_line_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord(
        "medallion", logging.INFO, "", 0, "took %s", ("a\n2026-01-01 \x1b[31mforged",), None
    )
    line = terminal.LineFormatter("%(levelname)s %(message)s").format(record)
    assert line == r"INFO took a\n2026-01-01 \x1b[31mforged"


def unescape(field: str) -> str:
    """As the readers of tab-separated text do."""
    return json.loads('"' + field.replace('"', r"\"").replace(r"\x", r"\u00") + '"')


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1))
def test_lines_for_a_pipe_are_read_back(pairs: list[tuple[str, str]]) -> None:
    lines = terminal.tab_separated([{"a": a, "b": b} for a, b in pairs])
    assert lines[0] == "a\tb"
    read = [tuple(unescape(f) for f in line.split("\t")) for line in lines[1:]]
    assert [(a.encode("utf-16", "surrogatepass"), b.encode("utf-16", "surrogatepass")) for a, b in read] == [
        (a.encode("utf-16", "surrogatepass"), b.encode("utf-16", "surrogatepass")) for a, b in pairs
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (datetime(2026, 3, 1, 12, 30, tzinfo=UTC), "2026-03-01T12:30:00Z"),
        (datetime(2026, 3, 1, 12, 30), "2026-03-01T12:30:00"),
        (date(2026, 3, 1), "2026-03-01"),
        (Decimal("10.50"), "10.50"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (b"\xffabc", "\\xffabc"),
        (2**70, 2**70),
        ([{"at": date(2026, 3, 1)}], [{"at": "2026-03-01"}]),
        (True, True),
        (None, None),
    ],
)
def test_json_says_each_value_in_one_way(value: object, said: object) -> None:
    assert json.loads(json.dumps(terminal.json_value({"v": value}), allow_nan=False)) == {"v": said}


def test_a_table_shows_the_columns_that_fit_and_never_cuts_one() -> None:
    rows = [{"table": "silver.events", "state": "fresh", "note": "x" * 60}]
    assert terminal.columns_that_fit(rows, 200) == ["table", "state", "note"]
    assert terminal.columns_that_fit(rows, 40) == ["table", "state"]
    assert terminal.columns_that_fit(rows, 10) == ["table"], "one column is shown even where it is too wide"


def test_the_columns_that_one_looks_for_stay_where_it_is_narrow() -> None:
    rows = [{"table": "silver.events", "rows": "12,345", "state": "fresh", "dead": "17", "note": "x" * 60}]
    first = ("table", "dead", "state")
    assert terminal.columns_that_fit(rows, 200, first) == list(rows[0])
    assert terminal.columns_that_fit(rows, 40, first) == ["table", "state", "dead"]
    assert terminal.columns_that_fit(rows, 26, first) == ["table", "dead"]
    assert terminal.columns_that_fit(rows, 26) == ["table", "rows"]
    wide = [{"table": "silver.events", "violates": "x" * 90, "code": "type", "dead": "17"}]
    first = ("table", "dead", "violates")
    assert terminal.columns_that_fit(wide, 60, first) == ["table", "violates", "dead"], "in broken lines"
    assert terminal.columns_that_fit(wide, 30, first) == ["table", "dead"]


def test_a_wide_character_takes_two_columns() -> None:
    rows = [{"a": "東京" * 5, "b": "x"}]
    assert terminal.columns_that_fit(rows, 26) == ["a"]
    assert terminal.columns_that_fit(rows, 28) == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("rows", 39891, "39,891"),
        ("offset", 4294967297, "4294967297"),
        ("at", datetime(2026, 3, 1, 12, 30, tzinfo=UTC), "2026-03-01 12:30:00Z"),
        ("run", "c42c03c3-e329-4557-9f71-90a0b07dae15", "c42c03c3"),
        ("known", True, "true"),
        ("x", None, "-"),
        ("x", "two\nlines\x1b[2J", r"two\nlines\x1b[2J"),
    ],
)
def test_a_cell(column: str, value: Any, shown: str) -> None:
    assert terminal.table_cell(column, value) == shown


def test_nothing_is_said_on_stdout_where_there_are_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_answer("Dead letters", [], as_json=False)
    terminal.print_answer("Dead letters", [], as_json=True)
    captured = capsys.readouterr()
    assert captured.out == "[]\n"
    assert captured.err == "Dead letters: none\n"
