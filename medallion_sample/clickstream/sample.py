"""A week of dirty clickstream files: events, and the change streams of users and regions."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from medallion_sample.sample_file import SampleFile, count

FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday; the week ends on 2026-01-11."""
DAYS = 7
NEW_COLUMN_FROM = 4
"""From the fifth day on, events say on which device they happened."""

_SESSIONS_A_DAY = 950
_FILES_A_DAY = 5
_USERS = 600
_USERS_AT_FIRST = 540

EVENTS = "clickstream/events"
USERS = "clickstream/users"
REGIONS = "clickstream/regions"

_REGIONS = {
    "NA-E": ("North America East", "United States", "America/New_York", "USD"),
    "EU-W": ("Europe West", "Ireland", "Europe/Dublin", "EUR"),
    "AP-S": ("Asia Pacific South", "India", "Asia/Kolkata", "INR"),
    "SA-E": ("South America East", "Brazil", "America/Sao_Paulo", "BRL"),
}
_UNKNOWN_REGION = "AT-L"
_TYPES = ("page_view", "click", "search", "add_to_cart", "purchase", "login", "logout")
_ODDS = (52, 21, 9, 8, 5, 3, 2)
_PAGES = (
    "/",
    "/products/boots",
    "/products/tea?ref=mail",
    "/products/kettle",
    "/cart",
    "/checkout",
    "/produits/thé-vert",
    "/продукты/чай",
    "/検索?q=寿司",
    "/sale/🎉",
    '/products/12"-plate',
)
_DEVICES = ("mobile", "desktop", "tablet")
_SEGMENTS = ("free", "plus", "pro")
_NAMES = ("ana", "boris", "chloe", "dimitri", "elif", "farah", "goran", "hana", "ivo", "jo")
_DOMAINS = ("example.com", "mail.example.org", "post.example.net")

# A day's events that get this kind of dirt; no event gets two.
_DIRT = {
    "malformed": 6,
    "missing event_id": 4,
    "bad timestamp": 11,
    "missing timestamp": 3,
    "amount not a number": 3,
    "missing user_id": 6,
    "negative amount": 8,
    "absurd amount": 1,
    "bad region code": 3,
    "bad email": 13,
    "unknown user": 11,
    "unknown region": 10,
    "missing region": 8,
    "session ends before it starts": 7,
    "unknown currency": 4,
    "surrounding blanks": 25,
    "missing contact": 20,
    "duplicate in file": 20,
    "duplicate in a later file": 35,
    "late": 30,
}


def files(planted: dict[str, dict[str, int]], seed: int) -> Iterator[SampleFile]:
    """All clickstream files; counts the dirt in `planted`."""
    people = _people(random.Random(f"{seed} people"))  # noqa: S311
    yield from _event_files(people, planted, random.Random(f"{seed} events"))  # noqa: S311
    yield from _user_files(people, planted, random.Random(f"{seed} users"))  # noqa: S311
    yield from _region_files(planted, random.Random(f"{seed} regions"))  # noqa: S311
    note = "The export of the old shop; nobody reads it any more.\n"
    yield SampleFile("clickstream/old-export/readme.txt", note.encode(), FIRST_DAY)
    count(planted, "landing zone", "unclaimed file")


@dataclass(frozen=True)
class _Person:
    user_id: str
    email: str
    phone: str
    region_code: str
    segment: str
    signed_up_on: str

    def row(self) -> dict[str, object]:
        return {
            "user_id": self.user_id,
            "email": self.email,
            "phone": self.phone,
            "region_code": self.region_code,
            "segment": self.segment,
            "signed_up_on": self.signed_up_on,
        }


def _people(rng: random.Random) -> list[_Person]:
    people: list[_Person] = []
    for number in range(1, _USERS + 1):
        name = rng.choice(_NAMES)
        line = 1000 + number
        phone = (f"+1 202-555-{line}", f"(202) 555 {line}", f"+44 20 7946 {line}")[number % 3]
        signed_up = FIRST_DAY - timedelta(days=rng.randrange(1, 700))
        people.append(
            _Person(
                f"u{number:04}",
                f"{name}.{number}@{rng.choice(_DOMAINS)}",
                phone,
                rng.choices(list(_REGIONS), (40, 30, 20, 10))[0],
                rng.choices(_SEGMENTS, (70, 22, 8))[0],
                signed_up.date().isoformat(),
            )
        )
    return people


# --- events ---------------------------------------------------------------------------------------


def _event_files(
    people: list[_Person], planted: dict[str, dict[str, int]], rng: random.Random
) -> Iterator[SampleFile]:
    waiting: dict[int, list[str]] = {}
    for day in range(DAYS):
        events = _events_of(day, people, rng)
        lines, later = _with_dirt(events, day, planted, rng)
        for arrives, line in later:
            waiting.setdefault(arrives, []).append(line)
        lines += [(rng.random() * len(events), line) for line in waiting.pop(day, [])]
        lines.sort(key=lambda item: item[0])
        count(planted, EVENTS, "records", len(lines))
        size = -(-len(lines) // _FILES_A_DAY)
        start = FIRST_DAY + timedelta(days=day)
        for number in range(_FILES_A_DAY):
            part = [line for _, line in lines[number * size : (number + 1) * size]]
            content = ("\n".join(part) + "\n").encode()
            name = f"{EVENTS}/{start:%Y-%m-%d}/part-{number:04}.jsonl"
            if number % 3 == 1:
                content, name = gzip.compress(content, 6, mtime=0), name + ".gz"
            arrived = start + timedelta(hours=(number + 1) * 24 / _FILES_A_DAY, minutes=5)
            yield SampleFile(name, content, arrived)
    # An upload that broke off: the file is cut in the middle and can never be read.
    lost = [json.dumps(e, ensure_ascii=False) for _, e in _events_of(3, people[:40], rng)[:300]]
    torn = gzip.compress("\n".join(lost).encode(), 6, mtime=0)
    day_four = FIRST_DAY + timedelta(days=3)
    name = f"{EVENTS}/{day_four:%Y-%m-%d}/part-0009.jsonl.gz"
    yield SampleFile(name, torn[: len(torn) // 2], day_four + timedelta(hours=15, minutes=20))
    count(planted, EVENTS, "torn file")


def _events_of(
    day: int, people: list[_Person], rng: random.Random
) -> list[tuple[datetime, dict[str, object]]]:
    """One day's events in order of time, all of them good."""
    events: list[tuple[datetime, dict[str, object]]] = []
    midnight = FIRST_DAY + timedelta(days=day)
    for _ in range(_SESSIONS_A_DAY):
        # The square makes a few users very active and most of them rare.
        person = people[int(len(people) * rng.random() ** 2)]
        begin = midnight + timedelta(seconds=int(86_400 * rng.triangular(0, 1, 0.75)) - 1)
        begin = max(begin, midnight)
        steps = [int(rng.expovariate(1 / 50)) + 1 for _ in range(int(rng.expovariate(1 / 5.5)) + 1)]
        end = begin + timedelta(seconds=sum(steps[1:]))
        session = f"s-{rng.getrandbits(48):012x}"
        travels = rng.random() < 0.04
        region = rng.choice(list(_REGIONS)) if travels else person.region_code
        at = begin
        for step, seconds in enumerate(steps):
            if step:
                at += timedelta(seconds=seconds)
            if at >= midnight + timedelta(days=1):
                break
            kind = rng.choices(_TYPES, _ODDS)[0]
            amount = None
            if kind == "purchase":
                amount = round(rng.lognormvariate(3.2, 0.9), 2)
            event: dict[str, object] = {
                "event_id": _identifier(rng),
                "user_id": person.user_id,
                "event_type": kind,
                "event_timestamp": _stamp(at, rng.randrange(1000)),
                "page": rng.choice(_PAGES),
                "amount": amount,
                "currency": _REGIONS[region][3] if amount is not None else None,
                "session_id": session,
                "session_start": _stamp(begin),
                "session_end": _stamp(end),
                "region_code": region,
                "email": person.email,
                "phone": person.phone,
            }
            if day >= NEW_COLUMN_FROM:
                event["device"] = rng.choice(_DEVICES)
            events.append((at, event))
    events.sort(key=lambda item: (item[0], item[1]["event_id"]))
    return events


def _with_dirt(
    events: list[tuple[datetime, dict[str, object]]],
    day: int,
    planted: dict[str, dict[str, int]],
    rng: random.Random,
) -> tuple[list[tuple[float, str]], list[tuple[int, str]]]:
    """(lines of the day by their place in it, lines that arrive on a later day)."""
    chosen = iter(rng.sample(range(len(events)), sum(_DIRT.values())))
    dirt = {next(chosen): kind for kind, number in _DIRT.items() for _ in range(number)}
    lines: list[tuple[float, str]] = []
    later: list[tuple[int, str]] = []
    for place, (_, event) in enumerate(events):
        kind = dirt.get(place)
        if kind == "late":
            arrives = day + rng.randrange(1, 4)
            if arrives < DAYS:
                later.append((arrives, json.dumps(event, ensure_ascii=False)))
                count(planted, EVENTS, kind)
                continue
            kind = None
        line = json.dumps(_spoil(event, kind, rng) if kind else event, ensure_ascii=False)
        if kind == "malformed":
            line = line[: rng.randrange(10, len(line) - 10)]
        lines.append((place, line))
        if kind == "duplicate in file":
            lines.append((place + 0.5, line))
        elif kind == "duplicate in a later file":
            if day + 1 < DAYS and rng.random() < 0.5:
                later.append((day + 1, line))
            else:
                lines.append(((place + len(events) / _FILES_A_DAY) % len(events), line))
        if kind:
            count(planted, EVENTS, kind)
    return lines, later


def _spoil(event: dict[str, object], kind: str, rng: random.Random) -> dict[str, object]:
    """The event with one kind of dirt in it."""
    spoiled = dict(event)
    match kind:
        case "missing event_id":
            del spoiled["event_id"]
        case "bad timestamp":
            bad = ("yesterday", "2026-13-45T00:00:00Z", "05/01/2026 10:00", "2026-01-05T25:61:00Z")
            spoiled["event_timestamp"] = rng.choice(bad)
        case "missing timestamp":
            spoiled["event_timestamp"] = None
        case "amount not a number":
            spoiled["amount"] = "N/A"
        case "missing user_id":
            spoiled["user_id"] = rng.choice((None, "", "   "))
        case "negative amount":
            spoiled |= {"amount": -round(rng.uniform(0.5, 90), 2), "currency": "USD"}
        case "absurd amount":
            spoiled |= {"amount": "9999999.99", "currency": "USD"}
        case "bad region code":
            spoiled["region_code"] = rng.choice(("n/a", "NA_E!", "../EU-W"))
        case "bad email":
            spoiled["email"] = rng.choice(("not-an-email", "ana@", "@example.com", "ana at home"))
        case "unknown user":
            spoiled["user_id"] = f"x{rng.randrange(10_000):04}"
        case "unknown region":
            spoiled["region_code"] = _UNKNOWN_REGION
        case "missing region":
            spoiled["region_code"] = None
        case "session ends before it starts":
            spoiled["session_end"] = "2026-01-01T00:00:00Z"
        case "unknown currency":
            spoiled |= {"amount": 12.5, "currency": "XTS"}
        case "surrounding blanks":
            spoiled["user_id"] = f"  {event['user_id']} "
            spoiled["region_code"] = f" {str(event['region_code']).lower()}\t"
        case "missing contact":
            for name in ("email", "phone"):
                del spoiled[name]
        case _:
            pass
    return spoiled


def _identifier(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _stamp(at: datetime, milliseconds: int | None = None) -> str:
    fraction = "" if milliseconds is None else f".{milliseconds:03}"
    return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}Z"


# --- change streams -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """A change event; `at` is when it was committed, `arrives` in which day's file it lands."""

    lsn: int
    at: datetime
    op: str
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None
    arrives: int


class _Log:
    """A write-ahead log: gives every change its position and time."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.changes: list[_Change] = []
        self._lsn = 34_000_000

    def write(
        self,
        op: str,
        at: datetime,
        before: Mapping[str, object] | None = None,
        after: Mapping[str, object] | None = None,
    ) -> None:
        self._lsn += 8 * (1 + len(self.changes) % 7)
        day = max(0, (at - FIRST_DAY).days)
        self.changes.append(_Change(self._lsn, at, op, before, after, day))

    def envelope(self, change: _Change, with_schema: bool) -> str:
        milliseconds = int(change.at.timestamp() * 1000)
        value: dict[str, object] = {
            "before": change.before,
            "after": change.after,
            "source": {
                "version": "3.7.0.Final",
                "connector": "postgresql",
                "name": "shop",
                "ts_ms": milliseconds,
                "snapshot": "true" if change.op == "r" else "false",
                "db": "shop",
                "schema": "public",
                "table": self.table,
                "txId": 700 + change.lsn // 8,
                "lsn": change.lsn,
                "xmin": None,
            },
            "op": change.op,
            "ts_ms": milliseconds + 350,
            "transaction": None,
        }
        if with_schema:
            value = {"schema": {"type": "struct", "name": "shop.Envelope"}, "payload": value}
        return json.dumps(value, ensure_ascii=False)


def _user_files(
    people: list[_Person], planted: dict[str, dict[str, int]], rng: random.Random
) -> Iterator[SampleFile]:
    log = _Log("users")
    alive = {p.user_id: p for p in people[:_USERS_AT_FIRST]}
    snapshot_at = FIRST_DAY - timedelta(hours=2)
    for person in alive.values():
        log.write("r", snapshot_at, after=person.row())
    new, gone = list(people[_USERS_AT_FIRST:]), list[_Person]()
    moments = sorted(rng.randrange(60, DAYS * 86_400 - 3_600) for _ in range(330))
    snapshot_again = FIRST_DAY + timedelta(days=4, hours=12)
    snapshot_done = False
    for second in moments:
        at = FIRST_DAY + timedelta(seconds=second)
        if at >= snapshot_again and not snapshot_done:
            snapshot_done = True
            for person in alive.values():
                log.write("r", snapshot_again, after=person.row())
                count(planted, USERS, "read again by a second snapshot")
        _one_user_change(log, at, alive, new, gone, planted, rng)
    yield from _change_files(USERS, log, planted, rng)


def _one_user_change(
    log: _Log,
    at: datetime,
    alive: dict[str, _Person],
    new: list[_Person],
    gone: list[_Person],
    planted: dict[str, dict[str, int]],
    rng: random.Random,
) -> None:
    """One thing that happens to one user."""
    what = rng.choices(("create", "update", "delete", "return", "rename"), (18, 60, 12, 6, 4))[0]
    person = alive[rng.choice(list(alive))]
    if what == "create" and new:
        person = new.pop(0)
        alive[person.user_id] = person
        log.write("c", at, after=person.row())
    elif what == "return" and gone:
        person = replace(gone.pop(0), segment="free")
        alive[person.user_id] = person
        log.write("c", at, after=person.row())
        count(planted, USERS, "created again after a delete")
    elif what == "delete":
        del alive[person.user_id]
        gone.append(person)
        log.write("d", at, before=person.row())
        count(planted, USERS, "delete")
    elif what == "rename":
        # A key change arrives as a delete of the old key and a create of the new one.
        renamed = replace(person, user_id=f"{person.user_id}b")
        del alive[person.user_id]
        alive[renamed.user_id] = renamed
        log.write("d", at, before=person.row())
        log.write("c", at, after=renamed.row())
        count(planted, USERS, "delete")
        count(planted, USERS, "key change")
    else:
        changed = replace(
            person,
            segment=rng.choice(_SEGMENTS),
            region_code=rng.choice((person.region_code, rng.choice(list(_REGIONS)))),
        )
        alive[person.user_id] = changed
        log.write("u", at, before=person.row(), after=changed.row())


def _region_files(planted: dict[str, dict[str, int]], rng: random.Random) -> Iterator[SampleFile]:
    log = _Log("regions")
    rows = {
        code: {"region_code": code, "name": name, "country": country, "timezone": zone}
        for code, (name, country, zone, _) in _REGIONS.items()
    }
    for row in rows.values():
        log.write("r", FIRST_DAY - timedelta(hours=2), after=row)
    renamed = rows["EU-W"] | {"name": "Europe West (Dublin)"}
    log.write("u", FIRST_DAY + timedelta(days=2, hours=9), before=rows["EU-W"], after=renamed)
    rows["EU-W"] = renamed
    # Reference data is reloaded by a truncate and inserts.
    reload = FIRST_DAY + timedelta(days=3, hours=3)
    log.write("t", reload)
    count(planted, REGIONS, "truncate")
    rows["SA-E"] = rows["SA-E"] | {"timezone": "America/Recife"}
    for row in rows.values():
        log.write("c", reload + timedelta(seconds=1), after=row)
    yield from _change_files(REGIONS, log, planted, rng)


def _change_files(
    folder: str, log: _Log, planted: dict[str, dict[str, int]], rng: random.Random
) -> Iterator[SampleFile]:
    """One file a day: events out of order, some a day or two late, some twice, tombstones."""
    lines: dict[int, list[str]] = {day: [] for day in range(DAYS)}
    for change in log.changes:
        arrives = change.arrives
        if rng.random() < 0.08 and arrives + 2 < DAYS:
            arrives += rng.randrange(1, 3)
            count(planted, folder, "late")
        line = log.envelope(change, with_schema=arrives == 2)
        lines[arrives].append(line)
        if rng.random() < 0.05:
            lines[min(arrives + rng.randrange(2), DAYS - 1)].append(line)
            count(planted, folder, "duplicate")
        if change.op == "d":
            lines[arrives].append("null")
            count(planted, folder, "tombstone")
    for day, of_day in lines.items():
        rng.shuffle(of_day)
        if not of_day:
            continue
        count(planted, folder, "records", len(of_day))
        start = FIRST_DAY + timedelta(days=day)
        yield SampleFile(
            f"{folder}/{start:%Y-%m-%d}.jsonl",
            _text(of_day),
            start + timedelta(hours=23, minutes=30),
        )


def _text(lines: Iterable[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()
