"""The tables of docs/sources.md, made from the code.

`python -m medallion_platform_tests.docs.options` writes them into the page.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterable
from dataclasses import MISSING, Field, fields
from typing import Any

from medallion_platform.sources.formats.format import FORMATS, Format
from medallion_platform.sources.kinds import Kinds
from medallion_platform.sources.source import CONNECTORS, Source
from medallion_platform_tests.command import REPOSITORY

PAGE = REPOSITORY / "docs" / "sources.md"

Row = tuple[str, str, str, str]
"""An option: its name, type, default and meaning."""


def renewed(page: str) -> str:
    """The page with the tables of today between its markers. Pure."""
    return with_table(with_table(page, "formats", formats()), "connectors", connectors())


def with_table(page: str, name: str, table: str) -> str:
    """The page with a table between the markers of this name. Pure."""
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    assert begin and end, f"the page has no place for its {name}"
    return before + begin + table + end + after


def formats() -> str:
    """The table of all formats of the platform."""
    head = ("kind", "class", "read from", "option", "type", "default", "meaning")
    rows: list[tuple[str, ...]] = []
    for made in own(FORMATS):
        options = rows_of(made) or [("none", "", "", "")]
        rows += beside((f"`{made.kind}`", f"`{made.__name__}`", read_from(made)), options)
    return table(head, rows)


def connectors() -> str:
    """The table of all connectors of the platform: what they share, then what is each one's."""
    head = ("kind", "class", "option", "type", "default", "meaning")
    rows = beside(("all", "`Source`"), rows_of(Source))
    shared = {f.name for f in fields(Source)}
    for made in own(CONNECTORS):
        rows += beside((f"`{made.kind}`", f"`{made.__name__}`"), rows_of(made, without=shared))
    return table(head, rows)


def own(kinds: Kinds[Any]) -> list[type[Any]]:
    """The platform's own kinds: not those of packages that happen to be installed."""
    found = [kinds.load(name) for name in kinds.names()]
    return [made for made in found if made.__module__.startswith(kinds.package + ".")]


def read_from(made: type[Format]) -> str:
    """Which files and messages hold records of a format."""
    files = ", ".join(f"`{ending}`" for ending in made.suffixes)
    compressed = ", ".join(f"`{ending}`" for ending in made.compressions)
    parts = [f"files {files}" + (f", also with {compressed}" if compressed else "")] if files else []
    return "; ".join([*parts, *(["messages"] if made.of_messages else [])])


def rows_of(made: type[Any], without: Collection[str] = ()) -> list[Row]:
    """The options of a kind, in the order of its fields."""
    said = docstrings(made)
    return [
        (f"`{f.name}`", f"`{f.type}`", default(f), said.get(f.name, ""))
        for f in fields(made)
        if f.name not in without
    ]


def docstrings(made: type[Any]) -> dict[str, str]:
    """What stands below each field of a class and of those that it derives from, on one line."""
    said: dict[str, str] = {}
    for base in reversed([b for b in made.__mro__ if b.__module__.startswith("medallion_platform.")]):
        (tree,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(tree, ast.ClassDef)
        for at, below in zip(tree.body, tree.body[1:], strict=False):
            match at, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(str(text))):
                    said[name] = " ".join(text.split())
                case _:
                    pass
    return said


def default(option: Field[Any]) -> str:
    """What an option is where nothing is said of it."""
    if option.default is not MISSING:
        return f"`{repr(option.default).removeprefix('datetime.')}`"
    return "must be given" if option.default_factory is MISSING else f"`{option.default_factory()!r}`"


def beside(begin: tuple[str, ...], options: Iterable[Row]) -> list[tuple[str, ...]]:
    """Rows of a table, the kind in the first one of them alone."""
    blank = ("",) * len(begin)
    return [(*(blank if i else begin), *option) for i, option in enumerate(options)]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
