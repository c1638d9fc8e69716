"""To which class a failure belongs, by its evidence alone; pure."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from medallion_platform.errors import Kind, Link, classify_chain
from medallion_platform.healing.evidence import Evidence

NO_LABELS: Mapping[str, Kind] = MappingProxyType({})

BY_POD_END: Mapping[str, Kind] = {
    "oom": Kind.OOM,
    **dict.fromkeys(("evicted", "node_lost", "deleted", "killed"), Kind.EVICTED),
    **dict.fromkeys(("deadline", "hung"), Kind.HUNG),
    **dict.fromkeys(("image", "refused"), Kind.PERMANENT),
    **dict.fromkeys(("quota", "no_room"), Kind.RESOURCE),
}
"""By what ended the pod, or keeps it from beginning."""

BY_RUN_FAILURE: Mapping[str, Kind] = {
    **dict.fromkeys(("UNEXPECTED_TERMINATION", "RUN_WORKER_RESTART"), Kind.EVICTED),
    "START_TIMEOUT": Kind.RESOURCE,
    "JOB_INITIALIZATION_FAILURE": Kind.PERMANENT,
}
"""By Dagster's reason, where it says more than that something raised an error."""

BY_SIGNAL: Mapping[str, Kind] = {
    **dict.fromkeys(("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"), Kind.EVICTED),
    **dict.fromkeys(("SIGALRM", "SIGVTALRM", "SIGPROF", "SIGXCPU"), Kind.HUNG),
    "SIGXFSZ": Kind.DISK,
    # Code that is not Python ends so, over what it was given.
    **dict.fromkeys(("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"), Kind.POISON),
}
"""By the signal that ended a process. Whether memory was the reason for SIGKILL, only the pod's end tells."""

BY_EXIT_CODE: Mapping[int, Kind] = {
    # Spark's SparkExitCode.OOM, and what Java ends with by -XX:+ExitOnOutOfMemoryError.
    **dict.fromkeys((52, 3), Kind.OOM),
    # What `timeout` of the system ends with, and its shell for a command that it cannot run, or find.
    124: Kind.HUNG,
    **dict.fromkeys((126, 127), Kind.PERMANENT),
}


DEATHS = 2
"""So many processes have to die over the same records before these are taken for the reason."""
DIED = "died"
"""The rule that says so."""


@dataclass(frozen=True)
class Finding:
    """The class of a failure.

    code: what its maker calls it. rule: which rule told the class: `pod:oom`, `said` (by the platform's own
    error), `link:503`, `run:START_TIMEOUT`, `signal:SIGSEGV`, `exit:52`, `died`, `label:<signature>`; "" if
    none did.
    """

    kind: Kind = Kind.UNKNOWN
    code: str = ""
    rule: str = ""


def classify(evidence: Evidence, labels: Mapping[str, Kind] = NO_LABELS) -> Finding:
    """The class of a failure; `unknown` where nothing in its evidence tells one.

    That several processes died over the same comes first, then what ended the pod: it explains every error
    within. Then comes the error, then what Dagster and the system tell of the process.

    labels: what people said of failures by their `signature`, which counts where no rule tells a class.
    """
    asked = (
        _by_deaths(evidence),
        _by_pod_end(evidence),
        _by_chain(evidence),
        _by_run_failure(evidence),
        _by_exit(evidence),
    )
    found = next((finding for finding in asked if finding.kind is not Kind.UNKNOWN), None)
    if found is None and (of := signature(evidence)) in labels:
        found = Finding(labels[of], rule=f"label:{of}")
    return found or Finding(code=classify_chain(evidence.chain).code)


def fingerprint(evidence: Evidence, finding: Finding) -> str:
    """12 hexadecimal digits, equal for failures that are one: the same error at the same work and table."""
    return _digest([finding.kind, finding.code, _names(evidence), evidence.work, evidence.table])


def cause(evidence: Evidence, kind: Kind, code: str) -> str:
    """12 hexadecimal digits, equal for the same error at any work and table. kind, code: as was found."""
    return _digest([kind, code, _names(evidence)])


def signature(evidence: Evidence) -> str:
    """12 hexadecimal digits of names and codes alone, for which a person gives a label; "" without any."""
    chain = evidence.chain
    told = [
        evidence.ended_by,
        evidence.run_failure,
        evidence.exit_code,
        *chain.own,
        *map(_codes, chain.links),
    ]
    return _digest(told) if any(told) else ""


def _by_deaths(evidence: Evidence) -> Finding:
    """Whatever ended each of them: records that several died over are the reason."""
    return Finding(Kind.POISON, rule=DIED) if evidence.deaths >= DEATHS else Finding()


def _by_pod_end(evidence: Evidence) -> Finding:
    word = evidence.ended_by
    by_signal = _by_exit(evidence) if word == "killed" else Finding()
    return by_signal if by_signal.rule else _finding(BY_POD_END.get(word), word, "pod")


def _by_chain(evidence: Evidence) -> Finding:
    failure = classify_chain(evidence.chain)
    if failure.kind is evidence.chain.said:
        return Finding(failure.kind, failure.code, "said")
    return _finding(failure.kind, failure.code, "link")


def _by_run_failure(evidence: Evidence) -> Finding:
    return _finding(BY_RUN_FAILURE.get(evidence.run_failure), evidence.run_failure, "run")


def _by_exit(evidence: Evidence) -> Finding:
    code = evidence.exit_code or 0
    if code in BY_EXIT_CODE:
        return _finding(BY_EXIT_CODE[code], str(code), "exit")
    number = -code if code < 0 else code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else ""
    return _finding(BY_SIGNAL.get(name), name, "signal")


def _finding(kind: Kind | None, code: str, rule: str) -> Finding:
    return Finding(kind, code, f"{rule}:{code}") if kind else Finding()


def _names(evidence: Evidence) -> list[Any]:
    """What the platform and the innermost link call an error."""
    chain = evidence.chain
    return [*chain.own[-1:], *(sorted(link.names) for link in chain.links[-1:])]


def _codes(link: Link) -> list[Any]:
    return [sorted(link.names), link.errno, link.status, link.code, link.sqlstate]


def _digest(told: list[Any]) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
