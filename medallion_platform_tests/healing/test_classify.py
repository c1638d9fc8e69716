"""The class of a failure by its evidence; that of errors is in test_errors.py."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest
from dagster._core.events import RunFailureReason
from hypothesis import given

from medallion_platform.errors import ErrorChain, Kind, MedallionError, chain_of
from medallion_platform.healing.classify import (
    BY_POD_END,
    BY_RUN_FAILURE,
    Finding,
    classify,
    fingerprint,
    signature,
)
from medallion_platform.healing.evidence import Evidence
from medallion_platform.kubernetes.pod_end import EndedBy
from medallion_platform_tests.healing.test_evidence import EVIDENCE

NOTHING = Evidence("run/1/silver.events", datetime(2026, 11, 30, tzinfo=UTC), "refresh", "silver.events")
FULL = replace(NOTHING, chain=chain_of(OSError(errno.ENOSPC, "")))


def test_every_end_of_a_pod_has_a_class() -> None:
    assert set(BY_POD_END) == set(get_args(EndedBy))


def test_the_reasons_of_a_run_are_those_that_dagster_has() -> None:
    told_by_the_error = {"RUN_EXCEPTION", "STEP_FAILURE", "UNKNOWN"}
    assert set(BY_RUN_FAILURE) == {reason.value for reason in RunFailureReason} - told_by_the_error


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (NOTHING, Finding()),
        (FULL, Finding(Kind.DISK, "ENOSPC", "link:ENOSPC")),
        (replace(FULL, ended_by="oom"), Finding(Kind.OOM, "oom", "pod:oom")),
        (replace(FULL, run_failure="STEP_FAILURE"), Finding(Kind.DISK, "ENOSPC", "link:ENOSPC")),
        (replace(NOTHING, run_failure="STEP_FAILURE"), Finding()),
        (
            replace(NOTHING, run_failure="START_TIMEOUT"),
            Finding(Kind.RESOURCE, "START_TIMEOUT", "run:START_TIMEOUT"),
        ),
        (
            replace(NOTHING, chain=chain_of(MedallionError("x", kind=Kind.GAP))),
            Finding(Kind.GAP, "", "said"),
        ),
        (replace(NOTHING, exit_code=1), Finding()),
        (replace(NOTHING, exit_code=52), Finding(Kind.OOM, "52", "exit:52")),
        (replace(NOTHING, exit_code=139), Finding(Kind.POISON, "SIGSEGV", "signal:SIGSEGV")),
        (replace(NOTHING, exit_code=-9), Finding(Kind.EVICTED, "SIGKILL", "signal:SIGKILL")),
        (
            replace(NOTHING, exit_code=134, ended_by="killed"),
            Finding(Kind.POISON, "SIGABRT", "signal:SIGABRT"),
        ),
        (replace(NOTHING, ended_by="killed"), Finding(Kind.EVICTED, "killed", "pod:killed")),
        (replace(NOTHING, ended_by="of a later version"), Finding()),
        (replace(NOTHING, exit_code=-9, deaths=1), Finding(Kind.EVICTED, "SIGKILL", "signal:SIGKILL")),
        (replace(NOTHING, ended_by="oom", deaths=2), Finding(Kind.POISON, "", "died")),
    ],
)
def test_the_class_and_the_rule_that_told_it(evidence: Evidence, told: Finding) -> None:
    assert classify(evidence) == told


@pytest.mark.parametrize("ended", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
def test_a_process_that_a_signal_ended(ended: signal.Signals) -> None:
    code = f"import os, signal; os.kill(os.getpid(), {int(ended)})"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert classify(replace(NOTHING, exit_code=done.returncode)).code == ended.name


@given(EVIDENCE)
def test_a_label_counts_only_where_no_rule_tells_a_class(evidence: Evidence) -> None:
    found, of = classify(evidence), signature(evidence)
    labelled = classify(evidence, {of: Kind.POISON}) if of else found
    if found.rule:
        assert labelled == found
    elif of:
        assert labelled == Finding(Kind.POISON, "", f"label:{of}")
    assert bool(found.rule) == (found.kind is not Kind.UNKNOWN)


def test_one_failure_has_one_fingerprint_and_another_table_another() -> None:
    def of(evidence: Evidence) -> str:
        return fingerprint(evidence, classify(evidence))

    later = replace(FULL, occurrence="run/2/silver.events", at=datetime(2027, 1, 1, tzinfo=UTC), run_id="2")
    other = replace(FULL, chain=chain_of(OSError(errno.EDQUOT, "")))
    assert of(later) == of(FULL)
    assert len({of(e) for e in (FULL, other, replace(FULL, table="gold.days"), NOTHING)}) == 4


def test_a_signature_is_that_of_the_error_wherever_it_was_met() -> None:
    elsewhere = replace(FULL, work="intake", table="bronze.clicks", occurrence="run/3/bronze.clicks")
    assert signature(elsewhere) == signature(FULL) != signature(NOTHING) == ""
    assert signature(replace(NOTHING, chain=ErrorChain(own=("Torn",))))
