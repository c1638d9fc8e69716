"""Findings, and how checks are made: side by side, each within a bound of time, and none of them can fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from threading import Thread
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.storage import client_reason

if TYPE_CHECKING:
    from medallion_platform.installation.settings import Settings

WITHIN = 20.0
"""Seconds that a check has. Most servers' clients give the reason of a failure after fifteen."""
_PAUSE = 2.0
"""Seconds between two looks at what failed."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    ok: None if it could not be looked at from here; `found` says why. remedy: what to do. check: the check's
    name. seconds: from the beginning of the check to this finding.
    """

    ok: bool | None
    found: str
    remedy: str = ""
    check: str = ""
    seconds: float = 0.0


Check = Callable[["Settings"], Iterable[Finding]]
"""Looks at one thing. It finds nothing where an installation has no such thing; an error that it raises is a
finding, too."""
Checks = Mapping[str, Check]
"""Checks by their names."""


def examine(settings: Settings, checks: Checks, within: float = WITHIN) -> list[Finding]:
    """The findings of all checks, in their order.

    within: seconds that a check has; of one that takes longer, what it found so far is told.
    """
    found: dict[str, list[Finding]] = {name: [] for name in checks}
    # Daemons: one that hangs keeps the process from ending otherwise.
    threads = {
        name: Thread(target=_look, args=(name, check, settings, found[name]), daemon=True)
        for name, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    until = time.monotonic() + within
    for name, thread in threads.items():
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            slow = Finding(False, f"no answer within {within:g} s", _BY_KIND[Kind.NETWORK], name, within)
            found[name] = [*found[name], slow]
    return [finding for findings in found.values() for finding in findings]


def examine_until(settings: Settings, checks: Checks, patience: float) -> list[Finding]:
    """The same, where what fails is looked at again for up to `patience` seconds."""
    until = time.monotonic() + patience
    found = examine(settings, checks)
    while (failed := {f.check for f in found if f.ok is False}) and time.monotonic() < until:
        time.sleep(_PAUSE)
        again = examine(settings, {name: check for name, check in checks.items() if name in failed})
        found = [*(f for f in found if f.check not in failed), *again]
    order = list(checks)
    return sorted(found, key=lambda finding: order.index(finding.check))


def failure(error: BaseException) -> Finding:
    """An error as a finding, in plain words."""
    if isinstance(error, MedallionError):
        return Finding(False, str(error.args[0]), error.remedy or _BY_KIND.get(error.kind, ""))
    kind = classify(error).kind
    name = f"{type(error).__name__}: " if kind is Kind.UNKNOWN else ""
    return Finding(False, f"{name}{client_reason(error)}", _BY_KIND.get(kind, ""))


def _look(name: str, check: Check, settings: Settings, into: list[Finding]) -> None:
    started = time.monotonic()

    def add(finding: Finding) -> None:
        into.append(replace(finding, check=name, seconds=round(time.monotonic() - started, 3)))

    try:
        for finding in check(settings):
            add(finding)
    except BaseException as error:  # a panic of a client in Rust is no Exception
        add(failure(error))


_BY_KIND = {
    Kind.NETWORK: "see that the server runs, and that firewalls and network policies let this machine in",
    Kind.AUTH: "see that user and password (or key) are right and have the rights that they need",
    Kind.DISK: "make room",
    Kind.RATE_LIMIT: "run it again in a minute",
    Kind.TRANSIENT: "create what is missing, or run it again in a minute",
}
"""What to do about an error that does not say it itself."""
