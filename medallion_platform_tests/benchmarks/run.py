"""All figures, by name; `medallion bench` prints them and writes docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from medallion_platform_tests.benchmarks import (
    automation,
    backfill,
    batches,
    clustering,
    cost,
    gate,
    intake_ratio,
    launching,
    looking,
    memory,
    merging,
    refreshing,
    starting,
    topics,
)
from medallion_platform_tests.benchmarks.figure import as_markdown_table, machine

PARTS = (
    *("intake", "topics", "duplicates", "avro", "gate", "refresh", "cdc", "start"),
    *(
        "backfill",
        "memory",
        "freshness",
        "automation",
        "many",
        "growth",
        "batches",
        "layout",
        "cost",
        "launch",
    ),
)

Tables = dict[str, list[dict[str, str]]]
"""Title -> rows."""


def measure(parts: Iterable[str], rounds: int, *, short: bool) -> Tables:
    """The figures of these parts; `short` takes a tenth of the rows."""
    found: Tables = {}
    for name in parts:
        # In a process of its own: a warm JVM, or one with other settings, is another machine.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
            title, rows = own.submit(_measure, name, rounds, short=short).result()
        found.setdefault(title, []).extend(rows)
    return found


def _measure(part: str, rounds: int, *, short: bool) -> tuple[str, list[dict[str, str]]]:
    share = 10 if short else 1
    match part:
        case "growth":
            sizes = refreshing.SIZES[: len(refreshing.SIZES) - (2 if short else 0)]
            return "Growth", refreshing.growth(rounds, sizes)
        case "batches":
            return "Growth of an intake", batches.growth(rounds, 100 if short else 1000)
        case "layout":
            return "Layout", clustering.layouts(clustering.ROWS // share, with_spark=not short)
        case "cost":
            return "Cost", cost.measure(rounds, cost.EVENTS // (100 if short else 1))
        case "launch":
            return "Launch of a run", launching.measure(
                launching.THREADS // share, launching.EXECUTORS // share
            )
        case "automation":
            # A round is a minute and has no size: it is as short as it can be.
            return "Automation", automation.measure(rounds, rest=10 if short else 60)
        case "many":
            sources, first_looks = looking.many.SOURCES // share, looking.FIRST_LOOKS_SECONDS // share
            return "Many tables", looking.measure(rounds, sources, 60 // share, first_looks)
        case "freshness":
            return "Freshness", topics.freshness(topics.RATES[:1] if short else topics.RATES, 60 // share)
        case "topics":
            figures = topics.measure(rounds, topics.ROWS // share)
        case "duplicates":
            figures = topics.of_duplicates(rounds, topics.ROWS // share)
        case "cdc":
            figures = merging.measure(rounds, merging.ROWS // share, merging.CHANGES // share)
        case "avro":
            figures = topics.of_avro(rounds, topics.ROWS // share)
        case "intake":
            figures = intake_ratio.measure(rounds, intake_ratio.ROWS // share)
        case "backfill":
            # Of two months, what both sides need to start is most.
            figures = backfill.measure(rounds, backfill.DAYS // (30 if short else 1))
        case "memory":
            figures = memory.measure(rounds, memory.MEGABYTES // share)
        case "gate":
            figures = gate.measure(rounds, gate.ROWS // share)
        case "refresh":
            figures = refreshing.measure(rounds, refreshing.ROWS_A_DAY // share)
        case _:
            figures = starting.measure(rounds)
    return "Ratios", [f.row() for f in figures]


def as_markdown(found: Mapping[str, list[dict[str, str]]]) -> str:
    """The tables with the machine that they were measured on."""
    tables = "\n".join(f"## {title}\n\n{as_markdown_table(rows)}" for title, rows in found.items())
    return f"# What it costs\n\n{machine()}\n\n{tables}"
