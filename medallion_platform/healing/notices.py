"""What people are told of incidents: which ones deserve it, what is said, what was said before. Pure.

Incidents of one fingerprint that follow each other within a day are one matter for people: an episode. One
message tells of an episode, or of many that fail alike, and is updated until they are over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from medallion_platform.healing.incident import WINDOW, Incident, Known, breaker, next_try_of_table, number_in
from medallion_platform.healing.policy import POLICY
from medallion_platform.healing.told import Message, Notice, State, Told, may_send, worst

Episode = Sequence[Incident]
"""Incidents of one fingerprint, each of which began within a day after the one before had ended."""

LEDGER = "ledger"
"""The key of the message that the ledger cannot be read."""
APART = 5
"""So many failures of one owner and class have messages of their own; what else fails so is told in one."""
_QUIET = timedelta(minutes=5)
"""An end is told when it has lasted so long; after each return twice as long, up to an hour."""
_LONGEST_QUIET = timedelta(hours=1)
_MOST_NAMED = 20
_WORK = "work of the platform"
"""What failed where no table is known."""
_ENDS = {"healed": "healed", "person": "taken over by a person"}


@dataclass(frozen=True)
class Rules:
    """Of whom and from when on people are told.

    after: how long something is tried again before people are told. owners: of tables. dagster_url: where
    the pages of Dagster are, "" where nobody said it.
    """

    after: timedelta
    owners: Mapping[str, str] = field(default_factory=dict[str, str])
    dagster_url: str = ""


Due = tuple[Message, Notice]
"""A message, and what it is to tell now."""


def due(known: Known, told: Told, rules: Rules, now: datetime, *, silent: bool) -> list[Due]:
    """What a channel is to tell now, what began first before the rest.

    silent: an update of a message disturbs nobody, so each change is told; otherwise only another state is.
    """
    if not may_send(told.not_before, now):
        return []
    found = episodes(known)
    messages = {**told.messages, **_new_messages(found, known, told, rules, now)}
    ready: list[Due] = []
    for message in messages.values():
        last = [found[key][-1] for key in message.episodes if key in found]
        notice = _notice(message, found, known, rules) if last else _forgotten(message, now)
        deserved = any(_deserves(incident, known, rules, now) for incident in last)
        settled = notice.state != "ended" or _are_quiet(message, found, now)
        if settled and _is_news(message, notice, deserved, silent) and may_send(message.not_before, now):
            ready.append((message, notice))
    return sorted(ready, key=lambda of: (of[1].began, of[0].key))


def due_without_ledger(told: Told, why: str, since: datetime, now: datetime) -> list[Due]:
    """What a channel is to tell while the ledger cannot be read: that, once."""
    message = told.messages.get(LEDGER, Message((LEDGER,)))
    facts = {"what it means": "no incident is known, so nothing is tried again", "why": why}
    title = "nothing runs by itself: the ledger of incidents cannot be read"
    notice = Notice(LEDGER, "person", title, facts, since)
    ready = may_send(told.not_before, now) and may_send(message.not_before, now)
    return [(message, notice)] if ready and message.state != notice.state else []


def without_old(told: Told, known: Known, now: datetime) -> Told:
    """What was told, without the messages that nothing can be added to any more."""
    found = episodes(known)

    def kept(message: Message) -> bool:
        last = [found[key][-1] for key in message.episodes if key in found]
        over = all(i.closed_at is not None and now - i.closed_at >= WINDOW for i in last)
        return message.state in ("trying", "person") or not over

    return replace(told, messages={key: m for key, m in told.messages.items() if kept(m)})


def episodes(known: Known) -> dict[str, Episode]:
    """All incidents, by the first of those that are one matter for people.

    After a person took over, or records were lost, the next one is a matter of its own.
    """
    found: dict[str, list[Incident]] = {}
    for alike in known.alike.values():
        episode: list[Incident] = []
        for incident in sorted(alike, key=lambda i: number_in(i.id)):
            if not episode or not _goes_on(episode[-1], incident):
                found[incident.id] = episode = []
            episode.append(incident)
    return dict(found)


def _goes_on(before: Incident, incident: Incident) -> bool:
    if before.closed in ("person", "lost"):
        return False
    return before.closed_at is None or incident.detected - before.closed_at < WINDOW


def _new_messages(
    found: Mapping[str, Episode], known: Known, told: Told, rules: Rules, now: datetime
) -> dict[str, Message]:
    """Messages of what deserves one and has none; those that more is told in."""
    covered = {key for message in told.messages.values() for key in message.episodes}
    new: dict[tuple[str, str], list[str]] = {}
    for key, episode in found.items():
        last = episode[-1]
        if key not in covered and _deserves(last, known, rules, now):
            new.setdefault((rules.owners.get(last.table, ""), last.kind.value), []).append(key)
    messages: dict[str, Message] = {}
    for (owner, kind), keys in new.items():
        keys.sort(key=lambda key: (found[key][0].began, key))
        sent = (m for m in told.messages.values() if m.state in ("trying", "person"))
        same = [m for m in sent if (m.owner, m.kind) == (owner, kind)]
        if sum(len(m.episodes) for m in same) + len(keys) <= APART:
            messages |= {key: Message((key,), owner, kind) for key in keys}
        else:
            one = next((m for m in same if m.together), Message((), owner, kind, together=True))
            one = replace(one, episodes=(*one.episodes, *keys))
            messages[one.key] = one
    return messages


def _deserves(incident: Incident, known: Known, rules: Rules, now: datetime) -> bool:
    """Whether people are told of the last incident of an episode."""
    if incident.closed_at:
        return incident.closed == "lost" and now - incident.closed_at < WINDOW
    if incident.table in known.paused:
        return False
    # Of work that nobody asks for again only a second failure shows that it goes on.
    last_seen = now if incident.asked_for else incident.failed
    return breaker(incident, known) != "closed" or last_seen - incident.began >= rules.after


def _is_news(message: Message, notice: Notice, deserved: bool, silent: bool) -> bool:
    """Whether a message is to be sent. deserved: whether it would be if nobody had been told yet."""
    if message.state in ("", "ended") and not deserved:
        return False
    if silent:
        return message.digest != notice.digest
    return notice.is_worse_than(message.state) or (notice.state == "ended" and message.state != "ended")


def _are_quiet(message: Message, found: Mapping[str, Episode], now: datetime) -> bool:
    """Whether all that a message tells of has been over for long enough to say so."""
    return all(
        last.closed == "person"
        or now - last.closed_at >= min(_QUIET * 2 ** min(len(of) - 1, 10), _LONGEST_QUIET)
        for of in (found[key] for key in message.episodes if key in found)
        if (last := of[-1]).closed_at
    )


def _forgotten(message: Message, now: datetime) -> Notice:
    """That a message is over, whose incidents are in the ledger no more."""
    of_ledger = message.key == LEDGER
    title = "the ledger of incidents can be read again" if of_ledger else f"incident {message.key}: over"
    return Notice(message.key, "ended", title, {}, now, now, message.owner, message.kind)


def _notice(message: Message, found: Mapping[str, Episode], known: Known, rules: Rules) -> Notice:
    """What a message is to tell now."""
    of = [found[key] for key in message.episodes if key in found]
    all_of_them = [episode[-1] for episode in of]
    last = [i for i in all_of_them if not i.closed] or all_of_them
    state = worst(_state(i, known) for i in last)
    tables = tuple(sorted({i.table or _WORK for i in last}))
    ends = {_ENDS.get(i.closed, "over") for i in last}
    said = {
        "trying": "being tried again",
        "person": "needs a person",
        "lost": "records are lost",
        "ended": ends.pop() if len(ends) == 1 else "over",
    }[state]
    codes = {i.code for i in last}
    what = f"{message.kind} ({codes.pop()})" if len(codes) == 1 and "" not in codes else message.kind
    run = next((i.run_id for i in last if i.run_id), "")
    over = state in ("ended", "lost")
    ended = max((i.closed_at for i in last if i.closed_at), default=None) if over else None
    began = min(episode[0].began for episode in of)
    facts = {
        "class": f"{message.kind}: {POLICY[last[0].kind].what}",
        "owner": message.owner,
        "since": _at(began),
        "until": _at(ended),
        **(_facts_of_one(of[0], known) if len(of) == 1 else {"tables": _some(tables, _MOST_NAMED)}),
        "run": run,
        "to do": _to_do(last, state),
    }
    return Notice(
        message.key,
        state,
        f"{_some(tables, 3)}: {what}, {said}",
        {name: fact for name, fact in facts.items() if fact},
        began,
        ended,
        message.owner,
        message.kind,
        tables,
        f"{rules.dagster_url}/runs/{run}" if rules.dagster_url and run else "",
    )


def _state(incident: Incident, known: Known) -> State:
    if incident.closed:
        return "lost" if incident.closed == "lost" else "ended"
    return "trying" if breaker(incident, known) == "closed" else "person"


def _facts_of_one(episode: Episode, known: Known) -> dict[str, str]:
    last = episode[-1]
    facts = {"failures": str(sum(len(i.evidence) for i in episode))}
    facts["tries"] = str(sum(len(i.tries) for i in episode))
    facts["came back"] = f"{len(episode) - 1} times" if len(episode) > 1 else ""
    if last.table in known.open and not last.closed:
        at = next_try_of_table(last.table, known)
        facts["next try"] = "under way" if last.pending else f"{_at(at)} at the latest"
    return facts


def _to_do(last: Sequence[Incident], state: State) -> str:
    if state == "ended":
        return ""
    if len(last) > 1:
        return "medallion incidents list"
    told = f"medallion incidents show {last[0].id}"
    if state == "person" and last[0].asked_for:
        told += f"; when the reason is gone: medallion incidents resume {last[0].table}"
    return told


def _some(names: Sequence[str], most: int) -> str:
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def _at(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}Z" if at else ""
