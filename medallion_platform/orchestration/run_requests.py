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
RETRY_FOREVER_PAUSE = timedelta(minutes=10)
"""The longest wait for what is asked for as long as it is wanted."""
ATTEMPTS = len(PAUSES) + 1
"""How often the same work is asked for; then it waits until what it is made from or its code changes."""


@dataclass(frozen=True)
class Request:
    """A request: for which state of the inputs, how often it was made, and when last."""

    state: str
    times: int
    at: datetime
    given_up: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do about tables that are out of date.

    ask: to be refreshed now, with the number of the attempt. on_hold: failed in this state and not to be
    tried now, with the state. given_up: still out of date after the last attempt. recovered: given up before,
    and up to date now. requested: the requests to remember for the next time.
    """

    ask: Mapping[str, int] = field(default_factory=dict)
    on_hold: Mapping[str, str] = field(default_factory=dict)
    given_up: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()
    requested: Mapping[str, Request] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A short text that is different for every state and attempt of the requested tables."""
        requested = ((name, self.requested[name]) for name in sorted(self.ask))
        # With the time, since who forgets what was asked for counts from one again.
        return digest_of_texts(f"{name} {a.state} {a.times} {a.at.isoformat()}" for name, a in requested)


def decide_requests(
    wanted: Mapping[str, str],
    requested: Mapping[str, Request],
    now: datetime,
    retry_forever: Collection[str] = (),
) -> Decision:
    """Which of `wanted` (each with its state) to request now; no requested run is active.

    retry_forever: requested as long as it is wanted, because its problem may end without a visible change (a
    server that does not respond).
    """
    ask: dict[str, int] = {}
    on_hold: dict[str, str] = {}
    given_up: list[str] = []
    remembered: dict[str, Request] = {}
    for name, state in wanted.items():
        before = requested.get(name)
        if before is None or before.state != state:
            before = Request(state, 0, now)
        if before.times >= ATTEMPTS and name not in retry_forever:
            if not before.given_up:
                given_up.append(name)
            on_hold[name], remembered[name] = state, replace(before, given_up=True)
        elif before.times and now - before.at < _pause_after_failures(before.times, name in retry_forever):
            on_hold[name], remembered[name] = state, before
        else:
            ask[name] = before.times + 1
            remembered[name] = Request(state, before.times + 1, now)
    recovered = [name for name, before in requested.items() if before.given_up and name not in wanted]
    return Decision(ask, on_hold, tuple(given_up), tuple(recovered), remembered)


def _pause_after_failures(times: int, retry_forever: bool) -> timedelta:
    """How long to wait after this number of failures."""
    pause = PAUSES[min(times, len(PAUSES)) - 1]
    return min(pause, RETRY_FOREVER_PAUSE) if retry_forever else pause


def digest_of_texts(parts: Iterable[str]) -> str:
    """A short text for a list of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def requests_to_text(requested: Mapping[str, Request]) -> str:
    """The requests as text."""
    return json.dumps({n: [a.state, a.times, a.at.isoformat(), a.given_up] for n, a in requested.items()})


def requests_from_text(text: str | None) -> dict[str, Request]:
    """The requests in a text of `requests_to_text`; none if it is missing or invalid."""
    try:
        found = json.loads(text or "{}")
        return {
            name: Request(str(state), int(times), datetime.fromisoformat(at), bool(given_up))
            for name, (state, times, at, given_up) in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
