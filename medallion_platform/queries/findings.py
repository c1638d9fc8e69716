"""The health of a table, from its own commits; the same for everybody who asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from medallion_platform.contracts.contract import Contract
from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts, summed
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.refresh.changes import of_other_code
from medallion_platform.pipeline.table import Table
from medallion_platform.queries.drift import Drift, drift
from medallion_platform.sources.connectors.landing import REPEATED
from medallion_platform.sources.source import Source

WRITES = 31
"""A table's newest write and the thirty before it: as far as any of these looks back."""
SURGE_ROWS = 10
"""Fewer rejected rows are no surge."""
SURGE_SHARE = 0.05
SURGE_TIMES = 3


@dataclass(frozen=True)
class ContractHealth:
    """How well a contract was kept by the newest write that did something.

    read: its rows. rejected and warned: how many broke each expectation. worst_share: of its rows, those
    rejected or, where they are more, those warned about by one expectation. tolerated_share: what of it the
    contract tolerates. dead_letters and rows: of the table now.
    """

    read: int
    rejected: Mapping[str, int]
    warned: Mapping[str, int]
    worst_share: float
    tolerated_share: float
    dead_letters: int
    rows: int

    @property
    def holds(self) -> bool:
        """Whether bad rows were no more than the contract tolerates."""
        return self.worst_share <= self.tolerated_share


@dataclass(frozen=True)
class Surge:
    """How many rows the newest write that did something rejected, compared with those before.

    share and usual_share: of the rows read. violations: what they broke.
    """

    rejected: int
    share: float
    usual_share: float
    violations: Mapping[str, int]

    @property
    def surges(self) -> bool:
        """Whether these are unusually many."""
        return self.rejected >= SURGE_ROWS and self.share > max(SURGE_SHARE, SURGE_TIMES * self.usual_share)


def writes(lake: Lake, table: str) -> list[CommitRecord]:
    """The accounts of the newest writes, newest first: read once, for all that are to look at them."""
    return [record for _, record in lake.records(table, WRITES)]


def _with_rows(writes: Sequence[CommitRecord]) -> list[CommitRecord]:
    """Those that did something to the table's rows."""
    return [record for record in writes if record.counts.read]


def _last(writes: Sequence[CommitRecord]) -> CommitRecord | None:
    return next(iter(_with_rows(writes)), None)


def counts(writes: Sequence[CommitRecord]) -> Counts:
    """What became of the rows of the newest write that did something."""
    last = _last(writes)
    return last.counts if last else Counts()


def contract_health(
    lake: Lake, table: str, contract: Contract, writes: Sequence[CommitRecord]
) -> ContractHealth:
    """How well the contract was kept by one write: a total that only grows would fail for ever."""
    last = _last(writes)
    read = last.counts.read if last else 0
    warned = last.warnings if last else {}
    worst = max([last.counts.dead_lettered, *warned.values()]) if last else 0
    return ContractHealth(
        read=read,
        rejected=last.violations if last else {},
        warned=warned,
        worst_share=worst / max(1, read),
        tolerated_share=contract.tolerated_share,
        dead_letters=dead_letters.count(lake, table),
        rows=lake.rows(table),
    )


def surge(writes: Sequence[CommitRecord]) -> Surge:
    """Whether the newest write that did something rejected unusually many rows, and what they broke."""
    writes = _with_rows(writes)
    if not writes:
        return Surge(0, 0.0, 0.0, {})
    newest, *before = [write.counts.dead_lettered / write.counts.read for write in writes]
    return Surge(
        writes[0].counts.dead_lettered, newest, median(before) if before else 0.0, writes[0].violations
    )


def former_code(lake: Lake, table: Table, partition_columns: Mapping[str, str | None]) -> list[str]:
    """The partitions that a former transform or contract made, in order."""
    return sorted(of_other_code(table, lake, partition_columns))


def looks_personal(contract: Contract, writes: Sequence[CommitRecord]) -> dict[str, int]:
    """Values that look personal in the newest writes, by a column that the contract does not declare so."""
    found = summed(record.looks_personal for record in writes)
    return {column: n for column, n in found.items() if column not in contract.pii}


def repeated_files(lake: Lake, source: Source) -> int:
    """How many files of a source had the content of one before, so that nothing was read of them."""
    return file_registry.count(lake, source.name, REPEATED)


def rows_by_partition(lake: Lake, table: str, partition_column: str) -> dict[str, int]:
    """Rows of each partition now, by the log's statistics, in order of the partition."""
    found = lake.open(table)
    rows: dict[str, int] = {}
    for file in files_of(found) if found else ():
        partition = str(file.get(f"partition.{partition_column}"))
        rows[partition] = rows.get(partition, 0) + file["num_records"]
    return dict(sorted(rows.items()))


def drifted(
    lake: Lake, table: str, partition_column: str, writes: Sequence[CommitRecord]
) -> dict[str, Drift]:
    """Of the partitions of the newest write, those whose row count is unlike that of the ones before them."""
    last = _last(writes)
    if last is None:
        return {}
    return unusual(rows_by_partition(lake, table, partition_column), last.partitions)


def unusual(rows: Mapping[str, int], partitions: Iterable[str]) -> dict[str, Drift]:
    """Of `partitions`, those whose row count drifted from the partitions before them, and how far."""
    names = list(rows)
    compared = {
        partition: drift([rows[name] for name in names[: names.index(partition)]], rows[partition])
        for partition in sorted(set(partitions) & set(names))
    }
    return {partition: found for partition, found in compared.items() if found.drifted}
