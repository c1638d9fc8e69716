"""How failures were dealt with, by class: the figures of an installation. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from medallion_platform.errors import Kind
from medallion_platform.healing.incident import Incident


@dataclass(frozen=True)
class ClassFigures:
    """The incidents of one class.

    healed_share: of those that are closed, None if none is. detect_..., heal_...: seconds from the failure
    until it was seen, and until it was seen to be healed; None where there is none such.
    """

    kind: Kind
    incidents: int
    open: int
    healed: int
    healed_share: float | None
    detect_median: float | None
    detect_longest: float | None
    heal_median: float | None
    heal_longest: float | None


def figures_by_class(incidents: Iterable[Incident]) -> list[ClassFigures]:
    """The figures of each class that has incidents."""
    known = list(incidents)
    by_kind = {kind: [i for i in known if i.kind is kind] for kind in Kind}
    return [_figures(kind, of) for kind, of in by_kind.items() if of]


def _figures(kind: Kind, of: list[Incident]) -> ClassFigures:
    closed = [i for i in of if i.closed]
    healed = [i for i in of if i.verified]
    detect, heal = _seconds(of, lambda i: i.detected), _seconds(of, lambda i: i.verified)
    return ClassFigures(
        kind,
        len(of),
        len(of) - len(closed),
        len(healed),
        round(len(healed) / len(closed), 3) if closed else None,
        median(detect) if detect else None,
        max(detect, default=None),
        median(heal) if heal else None,
        max(heal, default=None),
    )


def _seconds(incidents: Iterable[Incident], end: Callable[[Incident], datetime | None]) -> list[float]:
    """From the failure to an end, of those that have it; clocks of two machines make none less than 0."""
    ends = ((i.began, end(i)) for i in incidents)
    return [max(round((at - began).total_seconds(), 1), 0.0) for began, at in ends if at]
