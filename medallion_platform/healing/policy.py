"""What is done about a failure, by its class: data, from which docs/healing.md is made.

A try is what somebody asks for anew after a failure; the first time is none. Within a try, requests and
commits that can succeed a moment later are repeated at once (`in_process`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from medallion_platform.errors import Kind


class Act(StrEnum):
    """What is done about a failure."""

    AGAIN = "again"
    """The same work is asked for again."""
    REPAIR = "repair"
    """The same, and each damaged data file or Delta log that it meets is made whole."""
    ISOLATE = "isolate"
    """The same, by halves of the records that processes died over, until the one is known that ends them."""


@dataclass(frozen=True)
class Reach:
    """What an act does, for people. changes: what it may change at the most. never: what it leaves alone."""

    what: str
    changes: str
    never: str


ACTS: Mapping[Act, Reach] = {
    Act.AGAIN: Reach(
        "the same work is asked for again",
        "what that work writes",
        "anything else",
    ),
    Act.REPAIR: Reach(
        "the same, but each damaged data file that the work meets is made whole: put back from the backup if "
        "that has a whole copy; else, in silver, gold and their dead letters, made again from the inputs. "
        "A Delta log that cannot be read gets a new checkpoint, and what it lacks from its archive or the "
        "backup",
        "that file; where it is made again, those partitions of its table whose rows or dead letters it held "
        "(all, of a table without partitions, or if a repair was killed between its two commits); of a log "
        "its checkpoints, and commits that are missing or damaged",
        "anything else of the table, and any other table but those made from it; of bronze only the damaged "
        "file; of a log every commit that can be read; a table that is paused or was rolled back is not made "
        "again",
    ),
    Act.ISOLATE: Reach(
        "of the records over which the last two processes died half are taken in, then half of those or of "
        "the rest, and all others as ever behind them; what has ended a process alone becomes a dead letter "
        "with the code `poison`, unread: a record of a topic or of a text file, otherwise the file",
        "what an intake writes",
        "anything else; a record that was not alone when a process died",
    ),
}
"""From which docs/healing.md is made, too."""


@dataclass(frozen=True)
class Step:
    """An act, and how long to wait before each time that it is done, in seconds."""

    act: Act
    pauses: tuple[float, ...]


@dataclass(frozen=True)
class Policy:
    """What is done about the failures of one class.

    what: the class in words. steps: in their order. endless: after the last step its last pause and its act
    come again and again, since nothing here shows when the reason has gone; otherwise the work waits for a
    change. in_process: seconds to wait before each repetition within a try.
    """

    what: str
    steps: tuple[Step, ...] = ()
    endless: bool = False
    in_process: tuple[float, ...] = ()


_SECOND, _MINUTE, _HOUR = 1.0, 60.0, 3600.0
_MOMENTS = (1.0, 2.0, 4.0, 8.0, 16.0)
_A_NIGHT = (15 * _SECOND, _MINUTE, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR, 6 * _HOUR)
"""A night's outage passes in between."""
_OUTSIDE = Step(Act.AGAIN, (15 * _SECOND, _MINUTE, 5 * _MINUTE, 10 * _MINUTE))
_MACHINE = Step(Act.AGAIN, (_MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR))
"""Others that use it end, or somebody makes room."""
_HALVINGS = 24
"""As often as a batch of millions can be halved; each is a try that ends as soon as it reads the record."""

AT_ONCE = 32
"""So many tables at the most that failed by the same error of a server are tried at the same time."""
NOTHING_CAME = _OUTSIDE.pauses
"""Seconds before a table is asked for again of which nothing came, though nothing failed."""

POLICY: Mapping[Kind, Policy] = {
    Kind.RATE_LIMIT: Policy("a server asks for fewer requests", (_OUTSIDE,), True, _MOMENTS),
    Kind.NETWORK: Policy("a server cannot be reached, or does not answer", (_OUTSIDE,), True, _MOMENTS),
    Kind.TRANSIENT: Policy("a server says that it cannot do it now", (_OUTSIDE,), True, _MOMENTS),
    Kind.AUTH: Policy("a server refuses who asks", (_OUTSIDE,), True),
    Kind.CONFLICT: Policy("somebody else wrote first", (Step(Act.AGAIN, _A_NIGHT),)),
    Kind.EVICTED: Policy(
        "the process was ended from outside: its pod had to go, its node was lost",
        (Step(Act.AGAIN, (0, 0, 15 * _SECOND, _MINUTE, 5 * _MINUTE, 30 * _MINUTE)),),
    ),
    Kind.HUNG: Policy(
        "it no longer moved, or took longer than it may", (Step(Act.AGAIN, (15 * _SECOND, 5 * _MINUTE)),)
    ),
    Kind.OOM: Policy("it lacked memory (in a pod, the next try gets more)", (Step(Act.AGAIN, _A_NIGHT),)),
    Kind.RESOURCE: Policy("the machine or the cluster has no room, threads or files left", (_MACHINE,)),
    Kind.DISK: Policy("a disk or a bucket is full", (_MACHINE,)),
    Kind.CORRUPT: Policy(
        "a file is damaged or missing",
        (Step(Act.AGAIN, (15 * _SECOND,)), Step(Act.REPAIR, (15 * _SECOND, 5 * _MINUTE))),
    ),
    Kind.POSITION_LOST: Policy("a source no longer has what comes next", (Step(Act.AGAIN, (15 * _SECOND,)),)),
    Kind.GAP: Policy("records are gone that nobody has read"),
    Kind.POISON: Policy("records end whatever reads them", (Step(Act.ISOLATE, (0,) * _HALVINGS),)),
    Kind.DATA: Policy("rows or files are not as declared"),
    Kind.PERMANENT: Policy("code, settings or declarations cannot work"),
    Kind.UNKNOWN: Policy("nothing says what it is", (Step(Act.AGAIN, (15 * _SECOND, 5 * _MINUTE)),)),
}


def next_try(kind: Kind, tries: int) -> tuple[Act, float] | None:
    """The act of the next try after so many, and the seconds to wait before it; None where there is none."""
    policy = POLICY[kind]
    planned = [(step.act, pause) for step in policy.steps for pause in step.pauses]
    if tries < len(planned):
        return planned[tries]
    return planned[-1] if policy.endless else None


def last_act(kind: Kind) -> Act:
    """What a try does that comes after all that the policy plans."""
    steps = POLICY[kind].steps
    return steps[-1].act if steps else Act.AGAIN


def with_jitter(pause: float, chance: Random) -> float:
    """Between half of a pause and all of it, so that what failed together is not tried together.

    "Equal jitter" (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    return pause / 2 + chance.uniform(0, pause / 2)
