"""When to request a run for what is out of date: at once, and after failures with growing pauses.

Pure: what is out of date, the earlier requests and the clock are arguments.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

PAUSES = (
    timedelta(seconds=15),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
)
"""How long to wait after the first failure, the second and so on: a night's outage passes in between."""
ENDLESS_PAUSE = timedelta(minutes=10)
"""The longest wait for what is asked for as long as it is wanted."""
ATTEMPTS = len(PAUSES) + 1
"""How often the same work is asked for; then it waits until what it is made from or its code changes."""


@dataclass(frozen=True)
class Request:
    """That something was asked for: in which state of what it is made from, how often, when last."""

    state: str
    times: int
    at: datetime
    given_up: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do about what is out of date.

    ask: to be brought up now, with the number of the attempt. held: what failed in this state and is not
    to be tried now, with the state. given_up: what was asked for the last time and is out of date still.
    recovered: what had been given up and is up to date. asked: to be remembered for the next time.
    """

    ask: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    given_up: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()
    asked: Mapping[str, Request] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A short text that is another one for every state and attempt of what is asked for."""
        asked = ((name, self.asked[name]) for name in sorted(self.ask))
        # With the time, since who forgets what was asked for counts from one again.
        return digest(f"{name} {a.state} {a.times} {a.at.isoformat()}" for name, a in asked)


def decide(
    wanted: Mapping[str, str], asked: Mapping[str, Request], now: datetime, endless: Collection[str] = ()
) -> Decision:
    """Which of `wanted`, each with its state, to ask for now; nothing that was asked for is under way.

    endless: what is asked for as long as it is wanted, since its reason may pass without a trace (a server
    that does not answer).
    """
    ask: dict[str, int] = {}
    held: dict[str, str] = {}
    given_up: list[str] = []
    remembered: dict[str, Request] = {}
    for name, state in wanted.items():
        before = asked.get(name)
        if before is None or before.state != state:
            before = Request(state, 0, now)
        if before.times >= ATTEMPTS and name not in endless:
            if not before.given_up:
                given_up.append(name)
            held[name], remembered[name] = state, replace(before, given_up=True)
        elif before.times and now - before.at < _pause(before.times, endless=name in endless):
            held[name], remembered[name] = state, before
        else:
            ask[name] = before.times + 1
            remembered[name] = Request(state, before.times + 1, now)
    recovered = [name for name, before in asked.items() if before.given_up and name not in wanted]
    return Decision(ask, held, tuple(given_up), tuple(recovered), remembered)


def _pause(times: int, *, endless: bool) -> timedelta:
    """How long to wait after so many failures."""
    pause = PAUSES[min(times, len(PAUSES)) - 1]
    return min(pause, ENDLESS_PAUSE) if endless else pause


def digest(parts: Iterable[str]) -> str:
    """A short text for a list of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def written(asked: Mapping[str, Request]) -> str:
    """What was asked for, as text."""
    return json.dumps({n: [a.state, a.times, a.at.isoformat(), a.given_up] for n, a in asked.items()})


def read(text: str | None) -> dict[str, Request]:
    """What `written` wrote; nothing where it is missing or not ours."""
    try:
        found = json.loads(text or "{}")
        return {
            name: Request(str(state), int(times), datetime.fromisoformat(at), bool(given_up))
            for name, (state, times, at, given_up) in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
