"""Output of commands: a table for a person, tab-separated lines for a pipe, JSON for a script.

Only results go to stdout; progress, notes and errors go to stderr. Text from data, file names and messages is
never printed raw: `printable_text` escapes control characters.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, object]
"""One line of an answer: snake_case names, which are the keys of the JSON and the heads of the columns."""

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Control characters (ESC begins a terminal's commands), what turns the direction of writing, what has no
width, line and paragraph ends, and halves of characters."""
_NAMED = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
_RUN_ID = 36
_BROKEN = 24
"""Characters in which a text with broken lines can still be read."""
_COPIED = {"offset", "row", "version"}
"""Numbers that a person copies into the next command: no thousands separators."""


def printable_text(text: str) -> str:
    r"""The text with control and invisible characters as escapes (`\x1b`, `\u202e`)."""
    return _UNSAFE.sub(lambda found: _escape_character(found[0]), text)


def _escape_character(character: str) -> str:
    code = ord(character)
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


class LineFormatter(logging.Formatter):
    """Formats each message as one line, whatever it contains."""

    def format(self, record: logging.LogRecord) -> str:
        """The formatted message, fit for a terminal and a log file."""
        return printable_text(super().format(record))


def print_note(text: str) -> None:
    """Print a note for a person to stderr; its line ends are kept."""
    sys.stderr.write("\n".join(map(printable_text, text.split("\n"))) + "\n")
    sys.stderr.flush()


def ignore_note(text: str) -> None:
    """Used instead of `print_note` with `--quiet`."""


def print_error(text: str) -> None:
    """Print the reason why the command stops."""
    print_note(f"medallion: {text}")


def print_answer(
    title: str, rows: Sequence[Row], *, as_json: bool, records: bool = False, first: Sequence[str] = ()
) -> None:
    """Print rows, all with the same keys: JSON, lines for a pipe, or a table for a person.

    records: rows that are read one by one: where they are too wide for the terminal each becomes a block.
    Otherwise the columns that fit are shown, and the others named. first: the columns that one looks for,
    which stay longest.
    """
    if as_json:
        print(json.dumps([json_value(row) for row in rows]))
    elif not rows:
        print_note(f"{title}: none")
    elif not sys.stdout.isatty():
        print("\n".join(tab_separated(rows)))
    else:
        _draw(title, rows, records=records, first=first)


def print_line(row: Row) -> None:
    """Print one row as a line of JSON at once, for a script that waits for the next one."""
    print(json.dumps(json_value(row)), flush=True)


# --- for a script ---------------------------------------------------------------------------------


def json_value(value: object) -> object:
    """A value for JSON: times in ISO 8601 (`Z` for UTC), values that JSON does not have as text."""
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if value is None or isinstance(value, bool | int | float):
        return value
    return _value_text(value)


def tab_separated(rows: Sequence[Row]) -> list[str]:
    r"""A line of names, then a line a row; `\t`, `\n`, `\r` and `\\` in a text as these two characters."""
    return [
        "\t".join(rows[0]),
        *("\t".join(_tab_separated_field(value) for value in row.values()) for row in rows),
    ]


def _tab_separated_field(value: object) -> str:
    return "" if value is None else printable_text(_value_text(value).replace("\\", "\\\\"))


def _value_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping | list | tuple | bool):
        return json.dumps(json_value(value), ensure_ascii=False)
    return str(value)


# --- for a person ---------------------------------------------------------------------------------


def table_cell(column: str, value: object) -> str:
    """A value as text for a table."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return f"{value:%Y-%m-%d %H:%M:%S}"
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    if column == "run" and isinstance(value, str) and len(value) == _RUN_ID:
        return value[:8]  # as much as `rollback` and `logs` need
    if isinstance(value, int | float) and not isinstance(value, bool) and column not in _COPIED:
        return f"{value:,}"
    return printable_text(_value_text(value))


def columns_that_fit(rows: Sequence[Mapping[str, str]], width: int, first: Sequence[str] = ()) -> list[str]:
    """The columns that fit into a width, at least one, in their order; a border is three characters.

    first: those that are shown before any other; where one is too wide its lines are broken.
    """
    from rich.cells import cell_len

    shown: set[str] = set()
    left = width - 1
    for name in dict.fromkeys((*first, *rows[0])):
        needs = 3 + max(cell_len(name), *(cell_len(row[name]) for row in rows))
        if needs > left and shown:
            if name not in first:
                break
            if left < _BROKEN:
                continue
            needs = left
        left -= needs
        shown.add(name)
    return [name for name in rows[0] if name in shown]


def _draw(title: str, rows: Sequence[Row], *, records: bool, first: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    texts = [{name: table_cell(name, value) for name, value in row.items()} for row in rows]
    shown = columns_that_fit(texts, console.width, first)
    left = [name for name in rows[0] if name not in shown]
    if left and records:
        _draw_records(console, title, texts)
        return
    numbers = {n for n, v in rows[0].items() if isinstance(v, int | float) and not isinstance(v, bool)}
    _draw_table(console, title, texts, shown, numbers)
    if left:
        names = ", ".join(map(printable_text, left))
        print_note(f"Not shown: {names}. A wider terminal or --json shows all.")


def _draw_table(
    console: Console, title: str, texts: Sequence[Mapping[str, str]], shown: Sequence[str], numbers: set[str]
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable_text(title)), title_justify="left")
    for name in shown:
        justify = "right" if name in numbers else "left"
        table.add_column(Text(printable_text(name)), justify=justify, overflow="fold")
    for text in texts:
        table.add_row(*(Text(text[name]) for name in shown))
    console.print(table)


def _draw_records(console: Console, title: str, texts: Sequence[Mapping[str, str]]) -> None:
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    console.print(Text(printable_text(title)))
    for number, text in enumerate(texts, 1):
        console.print(Rule(f"{number} of {len(texts)}", align="left", style="dim"))
        block = Table.grid(padding=(0, 2))
        block.add_column(no_wrap=True)
        block.add_column(overflow="fold")
        for name, value in text.items():
            block.add_row(Text(printable_text(name)), Text(value))
        console.print(block)
