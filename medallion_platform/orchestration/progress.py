"""Reports the current work to listeners in this process; the command line shows it."""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[str, str], None]] = []


def listen_to_progress(listener: Callable[[str, str], None]) -> None:
    """Call `listener(table, text)` for every step from now on."""
    _listeners.append(listener)


def report_progress(table: str, text: str) -> None:
    """Say what happens to a table now."""
    for listener in _listeners:
        listener(table, text)
