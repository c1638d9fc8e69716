"""Why tables failed in a run, for whoever looks at it: of an error Dagster keeps only the text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from medallion_platform.errors import ErrorChain, Kind, chain_of, classify_chain, kind_named
from medallion_platform.healing.classify import classify
from medallion_platform.healing.evidence import Evidence

if TYPE_CHECKING:
    from dagster._core.execution.plan.objects import StepFailureData

CLASS = "medallion/class"
"""The tag of a failed run with the class of its failure, or of each of its tables' if they are several."""
INCIDENT, NEXT_TRY = "medallion/incident", "medallion/next_try"
"""The tags of a failed run with the incidents that it is part of, and when its tables are tried again."""
_EVIDENCE = "evidence"
"""The entry beside those of the tables, or of the step, in the metadata of a failed step."""
_KINDS = "kinds"
"""What former versions wrote in its place: classes alone."""

Context = dg.OpExecutionContext | dg.AssetExecutionContext


@dataclass(frozen=True)
class TableFailure:
    """Why work on a table failed: a sentence for people, without the table's name, and its chain."""

    why: str
    chain: ErrorChain = field(default_factory=ErrorChain)

    @classmethod
    def of(cls, table: str, error: Exception) -> TableFailure:
        """What an error says of a table that was worked on."""
        text = str(error).strip().removeprefix(f"{table}: ")
        return cls(text or type(error).__name__, chain_of(error))

    @property
    def kind(self) -> Kind:
        """Its class."""
        return classify_chain(self.chain).kind


def report_failure(context: Context, failed: Mapping[str, TableFailure]) -> dg.Failure:
    """What a step raises that failed at these tables (or at what serves them); its run says the class."""
    _add_classes(context, {f.kind for f in failed.values()})
    chains: dict[str, Any] = {name: f.chain.as_dict() for name, f in failed.items()}
    return dg.Failure(
        "\n".join(f"{name}: {f.why}" for name, f in failed.items()),
        metadata={**{name: f.why for name, f in failed.items()}, _EVIDENCE: dg.MetadataValue.json(chains)},
        allow_retries=False,
    )


def is_reported(error: BaseException) -> bool:
    """Whether it is what `report_failure` gave."""
    return isinstance(error, dg.Failure) and _EVIDENCE in error.metadata


def failures_of(step: StepFailureData) -> dict[str, TableFailure]:
    """The tables that a failed step names; nothing if it failed with an error of another's."""
    told = dict(step.user_failure_data.metadata) if step.user_failure_data else {}
    chains, kinds = told.pop(_EVIDENCE, None), told.pop(_KINDS, None)
    if chains is None and kinds is None:
        return {}
    chain_by_table: Any = chains.value if chains else {}
    kind_by_table: Any = kinds.value if kinds else {}
    return {
        name: TableFailure(
            str(why.value),
            ErrorChain.from_dict(chain_by_table[name])
            if name in chain_by_table
            else ErrorChain(kind_named(kind_by_table.get(name))),
        )
        for name, why in told.items()
    }


def class_of_end(run_id: str, ended_by: str) -> Kind:
    """The class of the failure of a run by what ended its pod, a word of `kubernetes/pod_end.py`."""
    return classify(
        Evidence(f"run/{run_id}", datetime.now(UTC), "run", run_id=run_id, ended_by=ended_by)
    ).kind


def _add_classes(context: Context, kinds: Iterable[Kind]) -> None:
    """Say by a tag of the run what it failed by, beside what another step said."""
    try:
        run = context.instance.get_run_by_id(context.run.run_id)
        before = run.tags.get(CLASS, "").split(", ") if run else []
        classes = sorted({*filter(None, before), *(kind.value for kind in kinds)})
        context.instance.add_run_tags(context.run.run_id, {CLASS: ", ".join(classes)})
    except Exception as error:
        context.log.warning(f"the run does not say the class of its failure: {error}")
