"""The figures of incidents: all of them, by class, by day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from medallion_platform.errors import Kind
from medallion_platform.healing.figures import figures_by_class, figures_by_day, figures_of
from medallion_platform.healing.incident import Closed, Incident
from medallion_platform_tests.healing.small_ledger import NOON


def incident(
    number: int, at: datetime, healed_after: float = 0, closed: Closed = "healed", kind: Kind = Kind.NETWORK
) -> Incident:
    """One of a table, open unless it ended after so many seconds."""
    end = at + timedelta(seconds=healed_after) if healed_after else None
    return Incident(f"f-{number}", "silver.a", "f", kind, at, at, closed=closed if end else "", closed_at=end)


def test_of_none_there_is_nothing_to_tell() -> None:
    none = figures_of([])
    assert (none.incidents, none.open, none.healed) == (0, 0, 0)
    assert none.healed_share is none.heal_median is none.detect_longest is None
    assert figures_by_class([]) == {}


def test_what_a_person_closed_has_not_healed_and_what_is_open_has_no_share() -> None:
    three = [incident(1, NOON, 10), incident(2, NOON, 30), incident(3, NOON, 50, "person"), incident(4, NOON)]
    found = figures_of(three)
    assert (found.incidents, found.open, found.healed, found.healed_share) == (4, 1, 2, 0.667)
    assert (found.heal_median, found.heal_longest) == (20, 30)
    other = incident(5, NOON, kind=Kind.DISK)
    by_class = figures_by_class([*three, other])
    assert by_class == {Kind.NETWORK: found, Kind.DISK: figures_of([other])}


def test_each_day_counts_what_began_on_it_and_days_without_are_there() -> None:
    late = datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC)
    old = NOON - timedelta(days=3)
    days = figures_by_day([incident(1, late, 7200), incident(2, NOON), incident(3, old)], NOON.date(), 3)
    assert {day: of.incidents for day, of in days.items()} == {
        date(2026, 11, 28): 0,
        date(2026, 11, 29): 1,
        date(2026, 11, 30): 1,
    }
    assert days[date(2026, 11, 29)].healed == 1, "though it healed on the next day"
