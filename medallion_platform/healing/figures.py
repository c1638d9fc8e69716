"""How failures were dealt with: the figures of an installation, by class and by day. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median

from medallion_platform.errors import Kind
from medallion_platform.healing.incident import Incident


@dataclass(frozen=True)
class Figures:
    """Those of some incidents.

    healed_share: of those that are closed, None if none is. detect_..., heal_...: seconds from the failure
    until it was seen, and until it was seen to be healed; None where there is none such.
    """

    incidents: int
    open: int
    healed: int
    healed_share: float | None
    detect_median: float | None
    detect_longest: float | None
    heal_median: float | None
    heal_longest: float | None


def figures_of(incidents: Collection[Incident]) -> Figures:
    """The figures of all of them."""
    closed = [i for i in incidents if i.closed]
    healed = [i for i in incidents if i.verified]
    detect = _seconds(incidents, lambda i: i.detected)
    heal = _seconds(incidents, lambda i: i.verified)
    return Figures(
        len(incidents),
        len(incidents) - len(closed),
        len(healed),
        round(len(healed) / len(closed), 3) if closed else None,
        median(detect) if detect else None,
        max(detect, default=None),
        median(heal) if heal else None,
        max(heal, default=None),
    )


def figures_by_class(incidents: Collection[Incident]) -> Mapping[Kind, Figures]:
    """The figures of each class that has incidents."""
    by_kind = {kind: [i for i in incidents if i.kind is kind] for kind in Kind}
    return {kind: figures_of(of) for kind, of in by_kind.items() if of}


def figures_by_day(incidents: Iterable[Incident], last: date, days: int) -> Mapping[date, Figures]:
    """The figures of each of so many days (UTC) up to the last one, by when the incidents began."""
    by_day: dict[date, list[Incident]] = {last - timedelta(days=n): [] for n in reversed(range(days))}
    for incident in incidents:
        by_day.get(incident.began.astimezone(UTC).date(), []).append(incident)
    return {day: figures_of(of) for day, of in by_day.items()}


def _seconds(incidents: Iterable[Incident], end: Callable[[Incident], datetime | None]) -> list[float]:
    """From the failure to an end, of those that have it; clocks of two machines make none less than 0."""
    ends = ((i.began, end(i)) for i in incidents)
    return [max(round((at - began).total_seconds(), 1), 0.0) for began, at in ends if at]
