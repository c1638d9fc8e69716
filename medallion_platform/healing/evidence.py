"""What a failure leaves behind for programs: names, codes and numbers; no sentence, and no value of a row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from medallion_platform.errors import ErrorChain

Work = Literal["intake", "refresh", "publish", "stream", "maintenance", "backup", "reading", "run"]
"""What failed; a run, where it is not known of which work. Reading of a log fails where records are gone: the
intake that finds it goes on behind them."""

_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
_LONGEST = 300
_MOST_SECONDS = 1e9


@dataclass(frozen=True)
class Evidence:
    """One failure, as whoever met it knows it.

    occurrence: the same whenever the same failure is told (`run/<id>/<table>`). chain: of the error, if there
    was one. ended_by: what ended the pod, or kept it from beginning, a word of `kubernetes/pod_end.py`.
    run_failure: Dagster's `RunFailureReason`. exit_code: of a process; of one that a signal ended 128 and its
    number, or minus its number. seconds: that the run took which failed, None where it is not known.
    deaths: how many processes have died by now over the same records.
    """

    occurrence: str
    at: datetime
    work: Work
    table: str = ""
    run_id: str = ""
    chain: ErrorChain = field(default_factory=ErrorChain)
    ended_by: str = ""
    run_failure: str = ""
    exit_code: int | None = None
    seconds: float | None = None
    deaths: int = 0

    def to_json(self) -> str:
        """The evidence as JSON, without what is empty."""
        told: dict[str, Any] = {**vars(self), "at": self.at.isoformat(), "chain": self.chain.as_dict()}
        if self.chain == ErrorChain():
            del told["chain"]
        if not self.deaths:
            del told["deaths"]
        return json.dumps({name: value for name, value in told.items() if value not in (None, "")})

    @classmethod
    def from_json(cls, text: str) -> Evidence:
        """What can be read of it: a text of another version, or one that is none, gives less."""
        try:
            told: Any = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        found: dict[str, Any] = told if isinstance(told, dict) else {}
        work = found.get("work")
        return cls(
            _text(found.get("occurrence")),
            _time(found.get("at")),
            next((known for known in get_args(Work) if known == work), "run"),
            _text(found.get("table")),
            _text(found.get("run_id")),
            ErrorChain.from_dict(found.get("chain")),
            _text(found.get("ended_by")),
            _text(found.get("run_failure")),
            _number(found.get("exit_code")),
            _seconds(found.get("seconds")),
            _number(found.get("deaths")) or 0,
        )


def _text(told: object) -> str:
    return told[:_LONGEST] if isinstance(told, str) else ""


def _seconds(told: object) -> float | None:
    if isinstance(told, int | float) and not isinstance(told, bool) and 0 <= told <= _MOST_SECONDS:
        return float(told)
    return None


def _number(told: object) -> int | None:
    return told if isinstance(told, int) and not isinstance(told, bool) else None


def _time(told: object) -> datetime:
    try:
        at = datetime.fromisoformat(told) if isinstance(told, str) else _UNKNOWN_TIME
    except ValueError:
        at = _UNKNOWN_TIME
    return at if at.tzinfo else at.replace(tzinfo=UTC)
