"""An API server for one lease, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

from medallion_platform.kubernetes.lease import LeaseApi, LeaseChanged, LeaseRecord


@dataclass
class Memory(LeaseApi):
    """An API server that has one lease, and refuses who did not see its newest version."""

    record: LeaseRecord = field(default_factory=LeaseRecord)
    versions: count[int] = field(default_factory=lambda: count(1))

    def read(self) -> LeaseRecord:
        return self.record

    def write(self, record: LeaseRecord) -> LeaseRecord:
        if record.version != self.record.version:
            raise LeaseChanged
        self.record = replace(record, version=str(next(self.versions)))
        return self.record
