"""What a person is advised to do about a failure, by its class: data, from which docs/healing.md is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from medallion_platform.errors import Kind

What = Literal["code", "settings", "rows", "input"]
"""What can have changed since a table was last made: its code; what it is made with; unusually many rows
came; an input has another version."""


@dataclass(frozen=True)
class Advice:
    """What to do about the failures of one class.

    text: in words, with the `{table}` and the `{id}` of an incident. suspects: changes that can be the
    reason, the likeliest first. uneven: it can be that one task had much more to do than others.
    """

    text: str
    suspects: tuple[What, ...] = ()
    uneven: bool = False


_NEW_CODE: tuple[What, ...] = ("code", "settings")
_MORE_TO_DO: tuple[What, ...] = ("rows", "code", "settings")

ADVICE: Mapping[Kind, Advice] = {
    Kind.RATE_LIMIT: Advice(
        "nothing now: it is tried until the server lets it. If it comes back, ask whoever runs the server"
        " for a higher limit",
        ("rows",),
    ),
    Kind.NETWORK: Advice(
        "see whether the server can be reached from where runs work: `medallion doctor` tries it. It is "
        "tried until it can, and nothing is lost meanwhile",
        ("settings",),
    ),
    Kind.TRANSIENT: Advice(
        "nothing, unless it lasts: then ask whoever runs the server",
    ),
    Kind.AUTH: Advice(
        "renew the credentials, or give them the right that is missing; then start again what still has "
        "the old ones. `medallion doctor` tries them",
        ("settings",),
    ),
    Kind.CONFLICT: Advice(
        "see in `medallion history {table}` who else writes to the table, and let one of them do it alone",
    ),
    Kind.EVICTED: Advice(
        "nothing, if it was one node or one deployment. If it comes back, find out what ends the process:"
        " the memory of its node, a rollout in the middle of runs",
    ),
    Kind.HUNG: Advice(
        "see in the last log lines for what it waited. If it only took long, give it more cores or "
        "executors, or make the table's partitions smaller",
        _MORE_TO_DO,
        uneven=True,
    ),
    Kind.OOM: Advice(
        "give it more memory: MEDALLION_SPARK_MEMORY on one machine, MEDALLION_MOST_MEMORY in a cluster. If "
        "one task has much more to do than the others, group by something that spreads the rows, or make "
        "the table's partitions smaller",
        _MORE_TO_DO,
        uneven=True,
    ),
    Kind.RESOURCE: Advice(
        "make room (nodes, quota, open files), or let runs ask for less: MEDALLION_MOST_MEMORY, "
        "MEDALLION_MOST_EXECUTORS",
        _MORE_TO_DO,
    ),
    Kind.DISK: Advice(
        "make room, or give it a larger disk. Of the lake delete nothing by hand: what was replaced goes "
        "by itself after 30 days",
        _MORE_TO_DO,
        uneven=True,
    ),
    Kind.CORRUPT: Advice(
        "`medallion restore --table {table}` puts damaged files back from a backup. The error names the "
        "table that is damaged, which may be another one than this",
    ),
    Kind.POSITION_LOST: Advice(
        "let the source keep its records for longer than the longest outage. If it stays, make the table "
        "again: launch it in Dagster with `rebuild: true`",
    ),
    Kind.GAP: Advice(
        "the records are gone: `medallion dead-letters show {table}` says which. Ask whoever made them to"
        " send them again, and let the source keep them for longer",
    ),
    Kind.POISON: Advice(
        "in an intake nothing: what ends it becomes a dead letter, and `medallion dead-letters replay "
        "{table}` takes it in once it no longer does. Elsewhere find the row that ends the process, and "
        "correct it",
        ("input", "code", "settings"),
    ),
    Kind.DATA: Advice(
        "the error names what the rows violate: correct them where they come from, or the contract if they "
        "are right",
        ("code", "input"),
    ),
    Kind.PERMANENT: Advice(
        "correct the code, the declaration or the setting that the error names: once it changed, the "
        "table is tried at once",
        _NEW_CODE,
    ),
    Kind.UNKNOWN: Advice(
        "read the last log lines. If you see what it is, `medallion incidents label {id} CLASS` says it "
        "for all that fails in the same way",
        ("code", "settings", "rows", "input"),
    ),
}
