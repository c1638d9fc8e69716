"""Why a refresh stopped before its commit, in sentences without values of rows."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.damage import DamagedFile, telling_damage
from medallion_platform.storage import reason

if TYPE_CHECKING:
    from medallion_platform.pipeline.refresh.context import RefreshContext

_UNREACHABLE = (Kind.NETWORK, Kind.RATE_LIMIT, Kind.TRANSIENT, Kind.AUTH)
UNTOUCHED = "Nothing was written, the table is as it was"


class RefreshFailed(MedallionError):
    """A refresh that stopped before its commit: the table is as it was; the text says what to do."""

    kind = Kind.PERMANENT


class MissingUpstream(RefreshFailed):
    """A table that this one is made from does not exist yet."""


class NeedsRebuild(Exception):
    """A column becomes wider: all files must be written anew, not only those of some partitions or keys."""


@contextmanager
def told_in_words(context: RefreshContext) -> Generator[None]:
    """Whatever the work in the `with` stumbles over is raised as what a person can read.

    Raises:
        CommitConflict: another writer changed the table's columns meanwhile.
        DamagedFile: a data file that was to be read is gone or damaged.
        RefreshFailed: anything else.
    """
    table = context.table
    try:
        with telling_damage(context.lake, (*table.upstream_names, table.name)):
            yield
    except (RefreshFailed, CommitConflict, DamagedFile):
        raise
    except Exception as error:
        # Spark's texts hold values of rows: they stay out of what is stored and shown.
        raise explain(table.name, error) from (None if _is_about_rows(error) else error)


def explain(table: str, error: Exception) -> RefreshFailed:
    """A failure in words, without row values: what broke, that nothing was written, what to do."""
    from pyspark.errors import PySparkException

    from medallion_platform.contracts.spark_engine import violated

    if (expectation := violated(error)) is not None:
        return RefreshFailed(
            f"{table}: the expectation '{expectation}' (severity fail) was violated. {UNTOUCHED}. Look at "
            "the rows upstream that break it, fix them or the contract, and refresh again.",
            kind=Kind.DATA,
            table=table,
        )
    if (kind := classify(error).kind) in _UNREACHABLE:
        return RefreshFailed(
            f"{table}: what it reads or writes cannot be reached: {reason(error)}. {UNTOUCHED}; fix the "
            "cause and refresh again.",
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
        f"{table}: its transform failed ({condition or name}: {first}). {UNTOUCHED}; fix the cause and "
        "refresh again.",
        kind=Kind.PERMANENT if kind is Kind.UNKNOWN else kind,
        table=table,
    )


def _is_about_rows(error: Exception) -> bool:
    """Whether the engine's text may quote a row; what fails before rows are read names columns only."""
    from pyspark.errors import AnalysisException, PySparkException

    return isinstance(error, PySparkException) and not isinstance(error, AnalysisException)
