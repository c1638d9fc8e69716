"""Is a value unusual? More than two standard deviations from a trailing window of earlier values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW = 30
LEAST_HISTORY = 5
THRESHOLD = 2.0
_MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation of a normal distribution (Rousseeuw 1993)."""
_FLOOR = 0.05
"""Differences below 5 % of the usual value are noise, however steady the history was."""


@dataclass(frozen=True)
class Drift:
    """How far `value` lies from its history, in standard deviations; None on a short history."""

    value: float
    usual: float | None
    deviations: float | None

    @property
    def drifted(self) -> bool:
        """Whether a person should look."""
        return self.deviations is not None and self.deviations > THRESHOLD


def drift(history: Sequence[float], value: float) -> Drift:
    """Compare a value with the trailing history before it.

    The median and the median absolute deviation stand for mean and standard deviation, so that
    one earlier outlier neither hides the next one nor raises an alarm; under five values of history
    nothing is said.
    """
    trailing = list(history)[-WINDOW:]
    if len(trailing) < LEAST_HISTORY:
        return Drift(value, None, None)
    usual = median(trailing)
    spread = _MAD_TO_SIGMA * median(abs(v - usual) for v in trailing)
    spread = max(spread, _FLOOR * abs(usual), 1e-9)
    return Drift(value, usual, abs(value - usual) / spread)
