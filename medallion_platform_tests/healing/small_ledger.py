"""A ledger in memory, and evidence for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from medallion_platform.errors import ErrorChain, Kind
from medallion_platform.healing.classify import classify
from medallion_platform.healing.evidence import Evidence, Work
from medallion_platform.healing.incident import Incident, Known, fold, report_of
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.incidents import Row

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
TABLE = "silver.events"


def evidence(
    occurrence: str,
    kind: Kind = Kind.NETWORK,
    table: str = TABLE,
    at: datetime = NOON,
    work: Work = "refresh",
    chain: ErrorChain | None = None,
) -> Evidence:
    """A failure of a class."""
    found = Evidence(occurrence, at, work, table, chain=chain or ErrorChain(said=kind))
    assert chain or classify(found).kind is kind
    return found


@dataclass
class SmallLedger:
    """As `lakehouse.incidents`, in memory."""

    rows: list[Row] = field(default_factory=list[Row])
    seen: int = 0

    def report(self, *found: Evidence) -> None:
        self.rows += [report_of(e, "worker") for e in found]

    def decide(self, rows: Sequence[Row], seen: int) -> None:
        if rows and seen != self.seen:
            raise CommitConflict("somebody was faster")
        self.rows += [replace(row, sequence=seen + n) for n, row in enumerate(rows, 1)]
        self.seen += len(rows)

    @property
    def known(self) -> Known:
        return fold(self.rows)

    @property
    def incidents(self) -> list[Incident]:
        return list(self.known.incidents.values())
