"""Why a refresh stopped before its commit, in sentences without values of rows."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.damaged_files import DamagedFile
from medallion_platform.lakehouse.guard import NotAllowed
from medallion_platform.lakehouse.lake import DamagedLog
from medallion_platform.storage import client_reason

if TYPE_CHECKING:
    from medallion_platform.pipeline.refresh.context import RefreshContext

_UNREACHABLE = (Kind.NETWORK, Kind.RATE_LIMIT, Kind.TRANSIENT, Kind.AUTH)
UNTOUCHED = "Nothing was written, the table is as it was"


class RefreshFailed(MedallionError):
    """A refresh stopped before its commit: the table is unchanged; the text says what to do."""

    kind = Kind.PERMANENT


class MissingUpstream(RefreshFailed):
    """An input of the table does not exist yet."""


class NeedsRebuild(MedallionError):
    """A column gets a wider type: all files must be rewritten, not only those of some partitions or keys."""

    kind = Kind.DATA


@contextmanager
def explain_failures(context: RefreshContext) -> Generator[None]:
    """Raise every error of the work in the `with` block as an error for people.

    Raises:
        CommitConflict: another writer changed the table's columns first.
        DamagedFile: a data file of an input is missing or damaged.
        DamagedLog: the Delta log of the table or of an input cannot be read.
        NotAllowed: the run's guard refuses.
        RefreshFailed: anything else.
    """
    table = context.table
    try:
        yield
    except (RefreshFailed, CommitConflict, NotAllowed, DamagedFile, DamagedLog):
        raise
    except Exception as error:
        # Spark's texts hold values of rows: they stay out of what is stored and shown.
        raise refresh_failure(table.name, error) from (None if _is_about_rows(error) else error)


def refresh_failure(table: str, error: Exception) -> RefreshFailed:
    """A failure in words, without values of rows: what failed, that nothing was written, what to do."""
    from pyspark.errors import PySparkException

    from medallion_platform.contracts.spark_engine import failed_expectation

    if (expectation := failed_expectation(error)) is not None:
        return RefreshFailed(
            f"{table}: the expectation '{expectation}' (severity fail) was violated. {UNTOUCHED}",
            remedy="look at the rows upstream that break it, fix them or the contract, and refresh again",
            kind=Kind.DATA,
            table=table,
        )
    if (kind := classify(error).kind) in _UNREACHABLE:
        return RefreshFailed(
            f"{table}: what it reads or writes cannot be reached: {client_reason(error)}. {UNTOUCHED}",
            remedy="fix the cause and refresh again",
            kind=kind,
            table=table,
        )
    text, name = str(error), type(error).__name__
    condition = error.getCondition() if isinstance(error, PySparkException) else None
    first = text.strip().splitlines()[0][:300] if text.strip() else name
    if isinstance(error, PySparkException) and str(error.getSqlState()).startswith("22"):
        # SQLSTATE 22 is a data exception: the text quotes the value
        first = "a row's value does not fit"
    return RefreshFailed(
        f"{table}: its transform failed ({condition or name}: {first}). {UNTOUCHED}",
        remedy="fix the cause and refresh again",
        kind=kind,
        table=table,
    )


def _is_about_rows(error: Exception) -> bool:
    """Whether the engine's text may quote a row; an error before rows are read only names columns."""
    from pyspark.errors import AnalysisException, PySparkException

    return isinstance(error, PySparkException) and not isinstance(error, AnalysisException)
