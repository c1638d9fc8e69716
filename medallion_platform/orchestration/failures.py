"""Why tables failed in a run, for whoever launched it: of an error Dagster keeps only the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from medallion_platform.errors import Kind, classify

if TYPE_CHECKING:
    from dagster._core.execution.plan.objects import StepFailureData

_KINDS = "kinds"
"""The entry beside those of the tables, whose names have a dot, in the metadata of a failed step."""


@dataclass(frozen=True)
class TableFailure:
    """Why work on a table failed: a sentence for people, without the table's name, and its kind."""

    why: str
    kind: Kind = Kind.UNKNOWN

    @classmethod
    def of(cls, table: str, error: Exception) -> TableFailure:
        """What an error says of a table that was worked on."""
        text = str(error).strip().removeprefix(f"{table}: ")
        return cls(text or type(error).__name__, classify(error).kind)


def failure(failed: Mapping[str, TableFailure]) -> dg.Failure:
    """What a step raises after work on these tables (or on what serves them) failed."""
    kinds: dict[str, Any] = {name: f.kind for name, f in failed.items()}
    return dg.Failure(
        "\n".join(f"{name}: {f.why}" for name, f in failed.items()),
        metadata={**{name: f.why for name, f in failed.items()}, _KINDS: dg.MetadataValue.json(kinds)},
        allow_retries=False,
    )


def failures_of(step: StepFailureData) -> dict[str, TableFailure]:
    """The tables that a failed step names; nothing if it failed with any other error than `failure`."""
    metadata = dict(step.user_failure_data.metadata) if step.user_failure_data else {}
    if _KINDS not in metadata:
        return {}
    kinds: Any = metadata.pop(_KINDS).value
    return {name: TableFailure(str(why.value), Kind(kinds[name])) for name, why in metadata.items()}
