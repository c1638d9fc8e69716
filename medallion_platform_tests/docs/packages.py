"""The drawing of the packages in docs/architecture.md, made from the code.

`python -m medallion_platform_tests.docs.packages` draws it: its rows are the layers of the import linter, its
arrows the imports, and its texts the questions in the table of the page.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

import grimp

from medallion_platform_tests.command import REPOSITORY

PAGE = REPOSITORY / "docs" / "architecture.md"
PICTURE = REPOSITORY / "docs" / "pictures" / "packages.svg"
ROOT, SAMPLE = "medallion_platform", "medallion_sample"
PROJECT = "your project"
"""What the sample is drawn as."""

WIDTH, BOX, ROW, EDGE = 1040, 66, 112, 16
"""Pixels: the width of the picture, the height of a box, from one row to the next, the empty edge."""

Arrow = tuple[str, str]
"""Who imports, and what: packages, and modules beside them, without the root's name."""
Place = tuple[int, int, int]
"""Of a box: left, top, width."""


def linter() -> list[dict[str, Any]]:
    """The contracts of the import linter."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def layers() -> list[list[str]]:
    """What may import what is further down, top first."""
    (contract,) = (c for c in linter() if c["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def without_dagster() -> set[str]:
    """What must not know Dagster."""
    (contract,) = (c for c in linter() if "below orchestration" in c["name"].lower())
    assert "dagster" in contract["forbidden_modules"]
    return {name.removeprefix(f"{ROOT}.") for name in contract["source_modules"]}


def is_package(name: str) -> bool:
    """Whether a name is a folder, and not a module beside the folders."""
    return (REPOSITORY / ROOT / name).is_dir()


def questions(page: str) -> dict[str, str]:
    """The question that each package answers, from the page's table."""
    return dict(re.findall(r"^\| `(\w+)(?:/|\.py)` \| ([^|]+\?) \|", page, re.MULTILINE))


@cache
def imports() -> set[Arrow]:
    """Who imports what. The sample stands for any project; that `demo` imports it is left out."""
    graph = grimp.build_graph(ROOT, SAMPLE, cache_dir=None)
    names = {f"{ROOT}.{name}": name for layer in layers() for name in layer}
    for module in (*names, SAMPLE):
        if graph.find_children(module):
            graph.squash_module(module)
    return {
        (name, names[other])
        for module, name in (*names.items(), (SAMPLE, PROJECT))
        for other in graph.find_modules_directly_imported_by(module)
        if other in names and other != module
    }


def needed(arrows: Iterable[Arrow]) -> set[Arrow]:
    """The arrows that do not follow from others. Pure; of arrows without a cycle."""
    arrows = set(arrows)

    def reached(start: str) -> set[str]:
        direct = {b for a, b in arrows if a == start}
        return direct.union(*(reached(b) for b in direct))

    return {(a, b) for a, b in arrows if not any(b in reached(c) for x, c in arrows if x == a)}


def rows_of_boxes() -> list[list[str]]:
    """The layers, with the project above what it imports, and the single modules at the bottom in one row."""
    upper = [layer for layer in layers() if any(map(is_package, layer))]
    last = [name for layer in layers() if layer not in upper for name in layer]
    imported = next(at for at, layer in enumerate(upper) if {(PROJECT, name) for name in layer} & imports())
    upper[imported - 1] = [*upper[imported - 1], PROJECT]
    return [*upper, last]


def drawing() -> str:
    """The picture of today's code, as SVG."""
    rows = rows_of_boxes()
    modules = set(rows[-1])
    arrows = needed((a, b) for a, b in imports() if b not in modules)
    asked = {PROJECT: "which sources, contracts and tables?", **questions(PAGE.read_text())}
    places = {name: place for index, row in enumerate(rows) for name, place in placed(row, index).items()}
    edge = next(index for index, row in enumerate(rows) if "orchestration" in row)
    assert {name for row in rows[edge + 1 : -1] for name in row} == without_dagster(), (
        "the linter's contract on Dagster does not name what is below orchestration"
    )
    height = len(rows) * ROW + EDGE
    line = (edge + 1) * ROW - (ROW - BOX) + EDGE + 9
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' font-family="Helvetica,Arial,sans-serif" text-anchor="middle" fill="#1f2937"'
        ' aria-label="The packages, and which imports which">',
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 0L10 5L0 10z" fill="#374151"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<path d="M{EDGE} {line} H{WIDTH - EDGE}" stroke="#818cf8" stroke-dasharray="6 5"/>',
        text(WIDTH - EDGE, line + 15, 11.5, "no Dagster below", 'text-anchor="end" fill="#3730a3"'),
        text(WIDTH // 2, EDGE + (len(rows) - 1) * ROW - 12, 11.5, "modules that every package may import"),
        *lines(arrows, places),
        *(part for name in places for part in box(name, asked[name], places[name])),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def placed(row: Sequence[str], index: int) -> dict[str, Place]:
    """The boxes of a row, spread over its width."""
    share = (WIDTH - 2 * EDGE) / len(row)
    width = min(share - 2 * EDGE, 250)
    return {
        name: (round(EDGE + share * (at + 0.5) - width / 2), EDGE + index * ROW, round(width))
        for at, name in enumerate(row)
    }


def lines(arrows: Iterable[Arrow], places: Mapping[str, Place]) -> list[str]:
    """Each arrow, from the bottom of a box to the top of another; those of one box side by side."""

    def middle(name: str) -> float:
        return places[name][0] + places[name][2] / 2

    def side_by_side(name: str, others: Sequence[str]) -> dict[str, float]:
        ends = sorted(others, key=middle)
        step = min(places[name][2] / (len(ends) + 1), 36)
        return {end: middle(name) + step * (at - (len(ends) - 1) / 2) for at, end in enumerate(ends)}

    arrows = sorted(arrows)
    leave = {a: side_by_side(a, [y for x, y in arrows if x == a]) for a, _ in arrows}
    arrive = {b: side_by_side(b, [x for x, y in arrows if y == b]) for _, b in arrows}
    return [
        f'<path d="M{leave[a][b]:.0f} {places[a][1] + BOX} L{arrive[b][a]:.0f} {places[b][1] - 2}"'
        f' stroke="#374151" stroke-width="1.5" marker-end="url(#a)"><title>{a} imports {b}</title></path>'
        for a, b in arrows
    ]


def box(name: str, question: str, place: Place) -> list[str]:
    """A box with a name, and below it the question that it answers."""
    left, top, width = place
    fill, stroke, title = "#f3f4f6", "#6b7280", f"{name}/"
    if name == "orchestration":
        fill, stroke = "#eef2ff", "#818cf8"
    elif name == PROJECT:
        fill, stroke, title = "#fdf3c7", "#a16207", name
    elif not is_package(name):
        fill, stroke, title = "#fff", "#9ca3af", f"{name}.py"
    told = textwrap.wrap(question.replace("`", ""), int(width / 5.9))
    middle, first = left + width / 2, top + (22 if len(told) > 1 else 28)
    return [
        f'<rect x="{left}" y="{top}" width="{width}" height="{BOX}" rx="8" fill="{fill}" stroke="{stroke}"'
        ' stroke-width="1.5"/>',
        text(middle, first, 14, title, 'font-weight="bold"'),
        *(text(middle, first + 19 + 15 * at, 11.5, line) for at, line in enumerate(told)),
    ]


def text(x: float, y: float, size: float, words: str, more: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.0f}" y="{y}" font-size="{size}"{" " * bool(more)}{more}>{escape(words)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(drawing())
