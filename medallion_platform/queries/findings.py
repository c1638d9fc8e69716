"""The health of a table, from its own commits; the same for everybody who asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from medallion_platform.contracts.contract import Contract
from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts, sum_counts
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.refresh.changes import of_other_code
from medallion_platform.pipeline.table import Table
from medallion_platform.queries.drift import Drift, drift
from medallion_platform.sources.connectors.landing_scan import REPEATED
from medallion_platform.sources.source import Source

WRITES = 31
"""A table's newest write and the thirty before it: as far as any of these looks back."""
SURGE_ROWS = 10
"""Fewer rejected rows are no surge."""
SURGE_SHARE = 0.05
SURGE_TIMES = 3


@dataclass(frozen=True)
class ContractHealth:
    """How well the newest write with rows kept the contract.

    read: its rows. rejected and warned: violations of each expectation. worst_share: the share of rejected
    rows, or of rows with a warning of one expectation if that is greater. tolerated_share: the share that the
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
        """Whether the share of bad rows is within what the contract tolerates."""
        return self.worst_share <= self.tolerated_share


@dataclass(frozen=True)
class Surge:
    """The rows that the newest write with rows rejected, compared with earlier writes.

    share and usual_share: of the rows read. violations: by expectation.
    """

    rejected: int
    share: float
    usual_share: float
    violations: Mapping[str, int]

    @property
    def surges(self) -> bool:
        """Whether these are unusually many rows."""
        return self.rejected >= SURGE_ROWS and self.share > max(SURGE_SHARE, SURGE_TIMES * self.usual_share)


def writes(lake: Lake, table: str) -> list[CommitRecord]:
    """The records of the newest writes, newest first; read once for all findings."""
    return [record for _, record in lake.records(table, WRITES)]


def _writes_with_rows(writes: Sequence[CommitRecord]) -> list[CommitRecord]:
    """The writes that changed the table's rows."""
    return [record for record in writes if record.counts.read]


def _last_write(writes: Sequence[CommitRecord]) -> CommitRecord | None:
    return next(iter(_writes_with_rows(writes)), None)


def last_write_counts(writes: Sequence[CommitRecord]) -> Counts:
    """What happened to the rows of the newest write with rows."""
    last = _last_write(writes)
    return last.counts if last else Counts()


def contract_health(
    lake: Lake, table: str, contract: Contract, writes: Sequence[CommitRecord]
) -> ContractHealth:
    """How well the newest write kept the contract (a total over all writes would fail forever)."""
    last = _last_write(writes)
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


def rejection_surge(writes: Sequence[CommitRecord]) -> Surge:
    """Whether the newest write with rows rejected unusually many rows, and what they violated."""
    writes = _writes_with_rows(writes)
    if not writes:
        return Surge(0, 0.0, 0.0, {})
    newest, *before = [write.counts.dead_lettered / write.counts.read for write in writes]
    return Surge(
        writes[0].counts.dead_lettered, newest, median(before) if before else 0.0, writes[0].violations
    )


def former_code(lake: Lake, table: Table, partition_columns: Mapping[str, str | None]) -> list[str]:
    """The partitions that were made by an earlier transform or contract, in order."""
    return sorted(of_other_code(table, lake, partition_columns))


def looks_personal(contract: Contract, writes: Sequence[CommitRecord]) -> dict[str, int]:
    """Values that look personal in the newest writes, by column not declared as personal data."""
    found = sum_counts(record.looks_personal for record in writes)
    return {column: n for column, n in found.items() if column not in contract.pii}


def repeated_files(lake: Lake, source: Source) -> int:
    """The number of files of a source that were not read because their content was taken in before."""
    return file_registry.count_file_versions(lake, source.name, REPEATED)


def rows_by_partition(lake: Lake, table: str, partition_column: str) -> dict[str, int]:
    """The current rows of each partition, from the Delta log's statistics, in order of the partition."""
    found = lake.open(table)
    rows: dict[str, int] = {}
    for file in files_of(found) if found else ():
        partition = str(file.get(f"partition.{partition_column}"))
        rows[partition] = rows.get(partition, 0) + file["num_records"]
    return dict(sorted(rows.items()))


def drifted_partitions(
    lake: Lake, table: str, partition_column: str, writes: Sequence[CommitRecord]
) -> dict[str, Drift]:
    """The partitions of the newest write with an unusual row count, compared with earlier partitions."""
    last = _last_write(writes)
    if last is None:
        return {}
    return unusual_partitions(rows_by_partition(lake, table, partition_column), last.partitions)


def unusual_partitions(rows: Mapping[str, int], partitions: Iterable[str]) -> dict[str, Drift]:
    """The `partitions` with an unusual row count, compared with the partitions before them, and how far."""
    names = list(rows)
    compared = {
        partition: drift([rows[name] for name in names[: names.index(partition)]], rows[partition])
        for partition in sorted(set(partitions) & set(names))
    }
    return {partition: found for partition, found in compared.items() if found.drifted}
