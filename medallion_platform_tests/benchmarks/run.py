"""All figures, by name; `medallion bench` prints them and writes docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medallion_platform_tests.benchmarks import clustering, gate, intake_ratio, refreshing, starting
from medallion_platform_tests.benchmarks.figure import Figure, as_markdown_table, machine

PARTS = ("intake", "gate", "refresh", "start", "growth", "layout")

Tables = dict[str, list[dict[str, str]]]
"""Title -> rows."""


def measure(parts: Iterable[str], rounds: int, *, short: bool) -> Tables:
    """The figures of these parts; `short` takes a tenth of the rows."""
    part = 10 if short else 1
    figures: list[Figure] = []
    for name in parts:
        match name:
            case "intake":
                figures += intake_ratio.measure(rounds, intake_ratio.ROWS // part)
            case "gate":
                figures += gate.measure(rounds, gate.ROWS // part)
            case "refresh":
                figures += refreshing.measure(rounds, refreshing.ROWS_A_DAY // part)
            case "start":
                figures += starting.measure(rounds)
            case _:
                pass
    found: Tables = {"Ratios": [f.row() for f in figures]} if figures else {}
    if "growth" in parts:
        sizes = refreshing.SIZES[: len(refreshing.SIZES) - (2 if short else 0)]
        found["Growth"] = refreshing.growth(rounds, sizes)
    if "layout" in parts:
        found["Layout"] = clustering.layouts(clustering.ROWS // part, with_spark=not short)
    return found


def as_markdown(found: Mapping[str, list[dict[str, str]]]) -> str:
    """The tables with the machine that they were measured on."""
    tables = "\n".join(f"## {title}\n\n{as_markdown_table(rows)}" for title, rows in found.items())
    return f"# What it costs\n\n{machine()}\n\n{tables}"
