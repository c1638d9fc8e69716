"""The result of one intake of a source, by either engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts, sum_counts


@dataclass
class IntakeResult:
    """What one intake of a source did, summed over its batches."""

    source: str
    table: str
    counts: Counts = field(default_factory=Counts)
    partitions: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    looks_personal: dict[str, int] = field(default_factory=dict)
    pieces: int = 0
    notes: list[str] = field(default_factory=list)
    further: int = 0
    repeated_files: int = 0
    version: int = -1
    seconds: float = 0.0

    @property
    def record(self) -> CommitRecord:
        """The commit record of all batches together."""
        return CommitRecord(
            "intake",
            "",
            "",
            self.counts,
            partitions=self.partitions,
            violations=self.violations,
            warnings=self.warnings,
            looks_personal=self.looks_personal,
            notes=self.notes,
            further=self.further,
            repeated_files=self.repeated_files,
            seconds=self.seconds,
        )

    def add(self, record: CommitRecord) -> None:
        """Add the commit record of one batch."""
        self.counts += record.counts
        self.notes += record.notes
        self.further += record.further
        self.repeated_files += record.repeated_files
        self.partitions = sum_counts((self.partitions, record.partitions))
        self.violations = sum_counts((self.violations, record.violations))
        self.warnings = sum_counts((self.warnings, record.warnings))
        self.looks_personal = sum_counts((self.looks_personal, record.looks_personal))
