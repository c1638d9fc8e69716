"""SQLite as tests need it: what it commits outlives a killed process, and nobody waits for the disk."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


def leave_writing_to_the_system() -> None:
    """From here on, Dagster's storages in this process commit without waiting until the disk has the rows.

    Only a machine that loses its power could tell the difference. Each event of a run is a commit, and a busy
    disk takes up to a tenth of a second for one.
    """
    event.listen(Engine, "connect", _unsynced)


def _unsynced(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")
