"""Telling the ledger of failures that no run tells of: of workers, and of records that are gone.

Whoever tells goes on with its work: it waits a moment at the most, and a ledger that cannot be written is a
line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Thread

from medallion_platform.contracts.codes import Code
from medallion_platform.errors import ErrorChain, Kind, chain_of, classify
from medallion_platform.healing.evidence import Evidence, Work
from medallion_platform.healing.incident import report_of
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources.arrivals import UnreadableRange

_LOG = logging.getLogger(__name__)
_LONGEST = 3.0
"""Seconds that whoever tells waits. A store that does not answer is asked on in the background."""


def report(lake: Lake, evidence: Sequence[Evidence], by: str) -> None:
    """Tell the ledger of failures; never raises, and takes a few seconds at the most."""
    if not evidence:
        return

    def append() -> None:
        try:
            incidents.report(lake, [report_of(found, by) for found in evidence])
        except Exception as error:
            fields = {"table": evidence[0].table, "kind": classify(error).kind.value}
            _LOG.warning("a failure is not in the ledger: %s", type(error).__name__, extra=fields)

    telling = Thread(target=append, daemon=True)
    telling.start()
    telling.join(_LONGEST)


def failure_of_worker(work: Work, table: str, place: str, error: Exception, at: datetime) -> Evidence:
    """Evidence of what failed in a worker. Pure.

    place: where it failed, the same for all workers that meet it, as the log and the begin of a batch. What
    goes on for hours is told once an hour.
    """
    occurrence = f"worker/{work}/{place}/{at.astimezone(UTC):%Y-%m-%dT%H}"
    return Evidence(occurrence, at, work, table, chain=chain_of(error))


def deaths_of_workers(table: str, place: str, deaths: int, at: datetime) -> Evidence:
    """Evidence that so many workers died where they began, which none of them could tell. Pure."""
    return Evidence(f"worker/died/{place}/{deaths}", at, "stream", table, deaths=deaths)


def gaps_in(unread: Sequence[UnreadableRange], table: str, run_id: str, at: datetime) -> list[Evidence]:
    """Evidence of the records that a broker no longer has, one for each range. Pure."""
    chain = ErrorChain(Kind.GAP, table)
    gone = [piece for piece in unread if piece.code is Code.GAP]
    return [Evidence(f"gap/{p.log}/{p.offset}", at, "reading", table, run_id, chain) for p in gone]
