"""The position of a change event in the order of its source, and the time of the change.

`source_position` is text that sorts in the order of the source, for events of one log of one source: by the
position in its log, and at the same position a snapshot read before a streamed event, because a snapshot
reads what was committed up to there. After a `~` it has the transaction (of MySQL and MariaDB with GTIDs),
which identifies an event that another server repeats. A position that ends with `OPEN` belongs to an event
without a position: then its place in its topic or file decides.

Positions in two logs cannot be compared, and an event does not show that the log started again (another
server after a failover, a restored database): only a comparison with the other events of a row does, so it is
done where histories are made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from medallion_platform.sources.formats.avro import time_after_epoch

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


def source_position(source: Source, op: str, event_ms: str | None = None) -> str:
    """The position of an event as text that sorts in the order of the source.

    event_ms: when the connector created the event; used if the source has neither position nor time.
    """
    rank = "0" if is_snapshot(source, op) else "1"
    connector = source.get("connector")
    if connector in ("mysql", "mariadb") and source.get("file"):
        file = source["file"] or ""
        log = file.rpartition(".")[2] if file.rpartition(".")[2].isdecimal() else file
        if (source.get("pos") or "0") == "0":
            return ".".join(
                (
                    _sortable_number(log),
                    _sortable_number(None),
                    rank,
                    _event_nanoseconds(source, event_ms),
                    OPEN,
                )
            )
        # row counts within the event at pos
        place = ".".join(
            (
                _sortable_number(log),
                _sortable_number(source.get("pos")),
                rank,
                _sortable_number(source.get("row")),
            )
        )
        return place + _transaction_number(source.get("gtid"))
    if source.get("lsn") is not None or (source.get("sequence") or "").startswith("["):
        committed, lsn = _postgres_commit(source.get("sequence")), source.get("lsn")
        lsn = lsn if lsn is not None else committed[-1]
        if lsn is not None:
            # a transaction that began before another's commit and ended after it comes after it
            return ".".join(
                (max(_sortable_number(lsn), _sortable_number(committed[0])), rank, _sortable_number(lsn))
            )
    if source.get("commit_lsn") is not None or source.get("change_lsn") is not None:
        change = source.get("change_lsn")
        commit = source.get("commit_lsn") or change
        serial = _sortable_number(source.get("event_serial_no"))
        return ".".join((_sortable_lsn(commit), rank, _sortable_lsn(change), serial))
    if source.get("scn") is not None or source.get("commit_scn") is not None:
        scn = source.get("scn")
        commits = (source.get("commit_scn") or scn or "").split(",")
        tail = (source.get("rs_id") or "", _sortable_number(source.get("ssn")))
        return ".".join((max(map(_sortable_number, commits)), rank, _sortable_number(scn), *tail))
    time = _event_nanoseconds(source, event_ms)
    if connector in _WITH_A_LOG:
        # Before all that has a place, as a snapshot without one is: what comes later shows by its clock.
        return ".".join((_sortable_number(None), time, rank, OPEN))
    if source.get("ord") is None:
        return ".".join((time, rank, OPEN))
    return ".".join((time, rank, _sortable_number(source.get("ord"))))


def _event_nanoseconds(source: Source, event_ms: str | None) -> str:
    """The time of a change in nanoseconds; if the source has none, the time of the event."""
    times = (source.get("ts_ns"), 1), (source.get("ts_us"), 1_000), (source.get("ts_ms"), 1_000_000)
    for time, factor in (*times, (event_ms, 1_000_000)):
        if time is not None and time.isdecimal() and len(time) <= _DIGITS and int(time):
            return _sortable_number(str(int(time) * factor))
    return _sortable_number(None)


def _transaction_number(gtid: str | None) -> str:
    """The sortable form of `uuid:23` (MySQL), `uuid:tag:23` or `0-1-23` (MariaDB); empty for other texts."""
    who, _, number = (gtid or "").rpartition(":")
    if not who:  # a domain counts on, whichever server writes
        who, _, number = (gtid or "").partition("-")[0], "", (gtid or "").rpartition("-")[2]
    if not who or not number.isdecimal():
        return ""
    return f"{TRANSACTION}{who}{TRANSACTION}{_sortable_number(number)}"


def is_snapshot(source: Source, op: str) -> bool:
    """Whether an event was read by a snapshot (an incremental one as well)."""
    return op == "r" or (source.get("snapshot") or "false") != "false"


def changed_at(source: Source, event_ms: str | None) -> str | None:
    """The time of a change in UTC; if the source has none, the time of the event."""
    for milliseconds in (source.get("ts_ms"), event_ms):
        if milliseconds and milliseconds != "0":
            try:
                second, fraction = divmod(int(milliseconds), 1000)
                return f"{_format_second(second)}.{fraction:03}Z"
            except (ValueError, OverflowError):
                continue
    return None


@lru_cache(maxsize=4096)
def _format_second(second: int) -> str:
    return time_after_epoch(second * 1_000_000).isoformat()


def _sortable_number(number: str | None) -> str:
    """A whole number as text that sorts; other text unchanged."""
    return (number or "").rjust(20, "0")


def _sortable_lsn(lsn: str | None) -> str:
    return ":".join(part.lower().rjust(10, "0") for part in (lsn or "::").split(":"))


def _postgres_commit(sequence: str | None) -> tuple[str | None, str | None]:
    """The last commit before an event and the event's own position, from Postgres' `sequence`."""
    if sequence is not None and len(parts := sequence.split('"')) == 5 and parts[2] == ",":
        return parts[1], parts[3]
    try:
        commit, own = json.loads(sequence or "")
    except (ValueError, TypeError, RecursionError):
        return None, None
    return (None if commit is None else str(commit)), (None if own is None else str(own))
