"""A small lake of one source, made without Spark, for tests of backups."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.lakehouse import dead_letters, file_registry, polars_writer
from medallion_platform.lakehouse.commit import next_sequence
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.file_registry import RegisteredFile
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.lake_format import open_lake
from medallion_platform.storage import store

ROWS = pl.DataFrame(schema={"day": pl.String, "id": pl.Int64, "text": pl.String})
NOW = datetime(2026, 11, 30, 2, tzinfo=UTC)
SIX_HOURS = timedelta(hours=6)
TABLES = ("gold.days", "silver.orders", "bronze.orders")
ALL = (*TABLES, "dead_letters.bronze.orders", "files.orders")


class SmallLake:
    """Takes in files of three rows, one of them bad, and keeps two tables behind them up to date."""

    def __init__(self, root: str) -> None:
        open_lake(root)
        self.lake = Lake(root)
        self._ids = count(3 * max(0, self.lake.sequence("files.orders")))

    def round(self, *, refresh: bool = True) -> None:
        """Take in a file, and refresh what is behind."""
        self.take_in()
        if refresh:
            self.refresh("silver.orders", "bronze.orders")
            self.refresh("gold.days", "silver.orders")

    def take_in(self) -> None:
        """Register a file and take its rows in."""
        number = self.lake.sequence("files.orders") + 1
        number = max(number, 1)
        file_registry.register_file_versions(self.lake, "orders", [_file(number)])
        if number == 1:
            store(str(self.lake.root)).put("quarantine/orders/d41d/ä b.csv", b"unreadable")
        table = self.lake.ensure("bronze.orders", ROWS.to_arrow().schema, ["day"])
        letters = self.lake.open("dead_letters.bronze.orders")
        sequence = next_sequence(table, letters)
        reached = (number << 32) + 3
        record = CommitRecord(
            "intake", f"run-{number}", NOW.isoformat(), Counts(3, 2, 1), {"orders": {UNPARTITIONED: reached}}
        )
        record = CommitRecord(**{**vars(record), "sequence": sequence})
        bad = {
            "source": "orders",
            "offset": (number << 32) + 2,
            "row": 2,
            "payload": b"?",
            "code": Code.MALFORMED,
        }
        dead_letters.append(self.lake, "bronze.orders", pl.DataFrame([bad]), record, {"orders": reached})
        rows = pl.DataFrame(
            {"day": [f"d{number % 3}"] * 2, "id": [3 * number, 3 * number + 1], "text": ["ä" * 50, "b" * 50]}
        )
        polars_writer.append_rows(table, rows, record, {"orders": reached})

    def refresh(self, table: str, upstream: str, run_id: str = "run") -> None:
        """Make a table anew from the newest version of another one."""
        source = self.lake.open(upstream)
        assert source is not None
        rows = pl.scan_delta(source).sort("id").collect()
        target = self.lake.ensure(table, ROWS.to_arrow().schema, ["day"])
        position = {upstream: {UNPARTITIONED: source.version()}}
        counts = Counts(rows.height, rows.height)
        record = CommitRecord(
            "refresh", run_id, NOW.isoformat(), counts, position, sequence=next_sequence(target)
        )
        polars_writer.replace_rows(target, rows, record, None)

    def content(self, version: dict[str, int] | None = None) -> dict[str, list[tuple[object, ...]]]:
        """The rows of every table, sorted; at these versions."""
        found: dict[str, list[tuple[object, ...]]] = {}
        for name in ALL:
            opened = self.lake.open(name, version[name] if version else None)
            assert opened is not None, name
            rows = pl.scan_delta(opened).collect()
            found[name] = sorted(
                rows.select(pl.exclude("registered_at", "modified_at", "at")).rows(), key=repr
            )
        return found


def _file(number: int) -> RegisteredFile:
    return {
        "sequence": number,
        "path": f"orders/{number}.csv",
        "digest": f"{number:064x}",
        "size": 9,
        "modified_at": NOW,
        "etag": None,
        "state": "complete",
        "header": None,
        "unreadable": None,
        "damage": None,
        "first_row": None,
        "registered_at": NOW,
        "run_id": f"run-{number}",
    }
