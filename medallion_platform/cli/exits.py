"""How a command ends: exit codes, and one sentence for each error."""

from __future__ import annotations

import os
import sys

from medallion_platform.cli import terminal
from medallion_platform.errors import Kind, MedallionError, classify

OK, FAILED, USAGE, NOT_READY, INCOMPLETE = 0, 1, 2, 3, 4
"""Exit codes: done; something failed; wrong usage; the machine lacks something; some input was left."""
_BY_SIGNAL = 128
"""Plus the signal's number: the exit code of what a signal ended."""


class Interruption(BaseException):
    """Ctrl-C or SIGTERM; Typer would end a KeyboardInterrupt silently."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stop(Exception):
    """An error that the user can correct."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def handle_interrupt(number: int, _: object) -> None:
    """Handle SIGINT and SIGTERM."""
    raise Interruption(number)


def end_immediately(number: int) -> None:
    """Print a message and exit without waiting for threads; uncommitted work was never visible."""
    terminal.print_error("stopped; run the same command again to continue, nothing is lost")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_BY_SIGNAL + number)


def error_in_words(error: Exception) -> str:
    """The sentence for an error that no command handles."""
    failure = classify(error)
    if failure.kind is Kind.DISK:
        return "the disk is full: free some space and run the same command again, nothing is lost"
    if isinstance(error, MedallionError):
        return str(error)
    if failure.transient or failure.kind is Kind.AUTH:
        from medallion_platform.storage import client_reason

        return f"{client_reason(error)}; run the same command again, nothing is lost"
    first_line = str(error).partition("\n")[0]  # clients in Rust go on with what only their authors read
    return f"{type(error).__name__}: {first_line} (MEDALLION_DEBUG=1 shows where)"
