"""What people are told, and what a channel has told them before, which is kept as text. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

State = Literal["ended", "trying", "person", "lost"]
"""It is over; it is tried again, and has been for a while; it waits for a person; records are gone."""

_WORSE: Mapping[str, int] = {"": 0, "ended": 0, "trying": 1, "person": 2, "lost": 3}
_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), timedelta(minutes=10)
_LONGEST_ASKED = timedelta(hours=1)
"""A server that asks for more is asked again all the same."""


@dataclass(frozen=True)
class Notice:
    """What people are told, as it is now.

    key: the same in all that is told of it. facts: what there is to know, by name, in the order in which it
    is shown. owner: of the tables, "" where none is known. kind: the class. link: to the run that failed
    last, "" without one.
    """

    key: str
    state: State
    title: str
    facts: Mapping[str, str]
    began: datetime
    ended: datetime | None = None
    owner: str = ""
    kind: str = ""
    tables: tuple[str, ...] = ()
    link: str = ""

    @property
    def digest(self) -> str:
        """Changes with what is told."""
        told = json.dumps(asdict(self), default=str, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def is_worse_than(self, before: str) -> bool:
        """Whether people have to look again who were told of that state."""
        return _WORSE[self.state] > _WORSE.get(before, 0)


@dataclass(frozen=True)
class Message:
    """A message of a channel.

    episodes: what it tells of, each by its first incident; the first one is its key. together: more may join.
    state, digest: of what it told last, "" as long as it was not sent. handle: by which its channel finds it
    again. not_before: after its channel refused it.
    """

    episodes: tuple[str, ...]
    owner: str = ""
    kind: str = ""
    together: bool = False
    state: str = ""
    digest: str = ""
    handle: str = ""
    not_before: datetime | None = None

    @property
    def key(self) -> str:
        """What is the same in all that is told of it."""
        return self.episodes[0]


@dataclass(frozen=True)
class Told:
    """What a channel has told, and whether it can be reached.

    messages: by key, without those whose incidents are over for more than a day. failures: how often in a row
    it could not be reached; not_before: when it is tried again; why: what it lacked.
    """

    messages: Mapping[str, Message] = field(default_factory=dict[str, Message])
    failures: int = 0
    not_before: datetime | None = None
    why: str = ""

    def sent(self, message: Message, notice: Notice, handle: str) -> Told:
        """A message has told this."""
        message = replace(message, state=notice.state, digest=notice.digest, handle=handle, not_before=None)
        return Told({**self.messages, message.key: message})

    def refused(self, message: Message, now: datetime) -> Told:
        """The channel works, but does not take this message."""
        later = replace(message, not_before=now + _LONGEST_PAUSE)
        return Told({**self.messages, message.key: later})

    def unreachable(self, why: str, now: datetime, after: float = 0.0) -> Told:
        """The channel takes nothing now. after: seconds for which it asked."""
        pause = min(_PAUSE * 2 ** min(self.failures, 10), _LONGEST_PAUSE)
        pause = max(pause, min(timedelta(seconds=after), _LONGEST_ASKED))
        return Told(self.messages, self.failures + 1, now + pause, why)

    def to_text(self) -> str:
        """As text, for the next look."""
        return json.dumps(asdict(self), default=datetime.isoformat)

    @classmethod
    def from_text(cls, text: str | None) -> Told:
        """What a text of `to_text` says; nothing if it is none, or another version's."""
        try:
            found: dict[str, Any] = json.loads(text or "{}")
            messages = [_message(told) for told in found["messages"].values()]
            at = _time(found["not_before"])
            return cls({m.key: m for m in messages}, int(found["failures"]), at, str(found["why"]))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return cls()


def worst(states: Iterable[State]) -> State:
    """The one for which people have to look first."""
    return max(states, key=_WORSE.__getitem__)


def may_send(not_before: datetime | None, now: datetime) -> bool:
    """Whether a pause is over; one that is longer than any is that of a clock which went back."""
    return not_before is None or not timedelta() < not_before - now <= _LONGEST_ASKED


def _message(told: Mapping[str, Any]) -> Message:
    fields: dict[str, Any] = dict(told)
    fields |= {"episodes": tuple(told["episodes"]), "not_before": _time(told["not_before"])}
    return Message(**fields)


def _time(told: str | None) -> datetime | None:
    return datetime.fromisoformat(told) if told else None
