"""Where in the order of its source a change event is, and when it happened.

`position` sorts as text in the order of the source, for events of one log of one source: by the position
in its log, and at the same position what a snapshot read before what was streamed, since a snapshot reads
what was committed up to there. Behind a `~` it names the transaction (of MySQL and MariaDB, where they have
GTIDs), by which one that another server tells again is known. One that ends with `OPEN` is of an event that
does not say where it stood: its place in its topic or file decides.

Positions of two logs say nothing of each other, and nothing in an event says that the log began anew
(another server after a failover, a database restored): that shows only beside the other events of a row, so
who makes histories looks for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from medallion_platform.sources.formats.avro import moment

PLACES = (
    *("connector", "snapshot", "ts_ms", "ts_us", "ts_ns", "lsn", "sequence", "file", "pos", "row", "gtid"),
    *("commit_lsn", "change_lsn", "event_serial_no", "scn", "commit_scn", "rs_id", "ssn", "ord"),
)
"""The fields of an event's source that say where and when."""


Source = Mapping[str, str | None]

OPEN = "+"
"""Ends a position to which the place in topic or file belongs."""
TRANSACTION = "~"
"""Stands before what a position tells of its transaction: who made it, and the how manieth it was."""


_DIGITS = 40
"""Digits of a time, in whichever partition; a longer number is none."""
_WITH_A_LOG = ("mysql", "mariadb", "postgresql", "sqlserver", "db2", "oracle", "informix")


def position(source: Source, op: str, event_ms: str | None = None) -> str:
    """Where in the order of its source an event is: text that sorts as the source does.

    event_ms: when the connector made the event, which counts where the source tells neither place nor time.
    """
    rank = "0" if snapshot(source, op) else "1"
    connector = source.get("connector")
    if connector in ("mysql", "mariadb") and source.get("file"):
        file = source["file"] or ""
        log = file.rpartition(".")[2] if file.rpartition(".")[2].isdecimal() else file
        if (source.get("pos") or "0") == "0":
            return ".".join((_whole(log), _whole(None), rank, _time(source, event_ms), OPEN))
        # row counts within the event at pos
        place = ".".join((_whole(log), _whole(source.get("pos")), rank, _whole(source.get("row"))))
        return place + _transaction(source.get("gtid"))
    if source.get("lsn") is not None or (source.get("sequence") or "").startswith("["):
        committed, lsn = _committed(source.get("sequence")), source.get("lsn")
        lsn = lsn if lsn is not None else committed[-1]
        if lsn is not None:
            # a transaction that began before another's commit and ended after it comes after it
            return ".".join((max(_whole(lsn), _whole(committed[0])), rank, _whole(lsn)))
    if source.get("commit_lsn") is not None or source.get("change_lsn") is not None:
        change = source.get("change_lsn")
        commit = source.get("commit_lsn") or change
        serial = _whole(source.get("event_serial_no"))
        return ".".join((_hexadecimal(commit), rank, _hexadecimal(change), serial))
    if source.get("scn") is not None or source.get("commit_scn") is not None:
        scn = source.get("scn")
        commits = (source.get("commit_scn") or scn or "").split(",")
        tail = (source.get("rs_id") or "", _whole(source.get("ssn")))
        return ".".join((max(map(_whole, commits)), rank, _whole(scn), *tail))
    time = _time(source, event_ms)
    if connector in _WITH_A_LOG:
        # Before all that has a place, as a snapshot without one is: what comes later shows by its clock.
        return ".".join((_whole(None), time, rank, OPEN))
    if source.get("ord") is None:
        return ".".join((time, rank, OPEN))
    return ".".join((time, rank, _whole(source.get("ord"))))


def _time(source: Source, event_ms: str | None) -> str:
    """When an event happened, in nanoseconds; when it was made, if the source does not say."""
    times = (source.get("ts_ns"), 1), (source.get("ts_us"), 1_000), (source.get("ts_ms"), 1_000_000)
    for time, factor in (*times, (event_ms, 1_000_000)):
        if time is not None and time.isdecimal() and len(time) <= _DIGITS and int(time):
            return _whole(str(int(time) * factor))
    return _whole(None)


def _transaction(gtid: str | None) -> str:
    """What `uuid:23` of MySQL, `uuid:tag:23` or `0-1-23` of MariaDB says; nothing where it says neither."""
    who, _, number = (gtid or "").rpartition(":")
    if not who:  # a domain counts on, whichever server writes
        who, _, number = (gtid or "").partition("-")[0], "", (gtid or "").rpartition("-")[2]
    if not who or not number.isdecimal():
        return ""
    return f"{TRANSACTION}{who}{TRANSACTION}{_whole(number)}"


def snapshot(source: Source, op: str) -> bool:
    """Whether an event was read by a snapshot (an incremental one as well)."""
    return op == "r" or (source.get("snapshot") or "false") != "false"


def changed_at(source: Source, event_ms: str | None) -> str | None:
    """When the source was changed, in UTC; when the event was made, if the source does not say."""
    for milliseconds in (source.get("ts_ms"), event_ms):
        if milliseconds and milliseconds != "0":
            try:
                second, fraction = divmod(int(milliseconds), 1000)
                return f"{_second(second)}.{fraction:03}Z"
            except (ValueError, OverflowError):
                continue
    return None


@lru_cache(maxsize=4096)
def _second(second: int) -> str:
    return moment(second * 1_000_000).isoformat()


def _whole(number: str | None) -> str:
    """A whole number as text that sorts; anything else as it is."""
    return (number or "").rjust(20, "0")


def _hexadecimal(lsn: str | None) -> str:
    return ":".join(part.lower().rjust(10, "0") for part in (lsn or "::").split(":"))


def _committed(sequence: str | None) -> tuple[str | None, str | None]:
    """The last commit before an event and its own position, of Postgres' `sequence`."""
    if sequence is not None and len(parts := sequence.split('"')) == 5 and parts[2] == ",":
        return parts[1], parts[3]
    try:
        commit, own = json.loads(sequence or "")
    except (ValueError, TypeError, RecursionError):
        return None, None
    return (None if commit is None else str(commit)), (None if own is None else str(own))
