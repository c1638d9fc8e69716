"""How checks are made: none fails, none is waited for too long, what failed is looked at again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event, current_thread

import pytest

from medallion_platform.doctor import finding
from medallion_platform.doctor.finding import Checks, Finding, examine, examine_until
from medallion_platform.errors import MedallionError
from medallion_platform.installation.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def told(findings: list[Finding]) -> list[tuple[str, bool | None, str]]:
    return [(f.check, f.ok, f.found) for f in findings]


def fine(_: Settings) -> Iterator[Finding]:
    yield Finding(True, "fine")


def nothing(_: Settings) -> Iterator[Finding]:
    yield from ()


def test_findings_come_in_the_order_of_their_checks(settings: Settings) -> None:
    begun = Event()

    def first(_: Settings) -> Iterator[Finding]:
        assert begun.wait(10), "the second check waits for the first"
        yield Finding(None, "cannot be seen from here")
        yield Finding(True, "the rest is")

    def second(_: Settings) -> Iterator[Finding]:
        begun.set()
        yield Finding(False, "gone", "bring it back")

    found = examine(settings, {"first": first, "none": nothing, "second": second})
    assert told(found) == [
        ("first", None, "cannot be seen from here"),
        ("first", True, "the rest is"),
        ("second", False, "gone"),
    ]
    assert found[-1].remedy == "bring it back"


class PanicException(BaseException):
    """As clients in Rust raise it."""


@pytest.mark.parametrize(
    ("error", "text", "remedy"),
    [
        (MedallionError("the lake is gone", remedy="bring it back"), "the lake is gone", "bring it back"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device", "make room"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused", "firewalls"),
        (KeyError("x"), "KeyError: 'x'", ""),
        (ValueError("no\nTraceback"), "ValueError: no", ""),
        (PanicException("unreachable"), "PanicException: unreachable", ""),
    ],
)
def test_an_error_is_a_finding_in_plain_words(
    settings: Settings, error: BaseException, text: str, remedy: str
) -> None:
    def fails(_: Settings) -> Iterator[Finding]:
        yield Finding(True, "so far")
        raise error

    so_far, failed, _ = examine(settings, {"fails": fails, "fine": fine})
    assert (so_far.ok, failed.ok, failed.check) == (True, False, "fails")
    assert text in failed.found and "\n" not in failed.found
    assert (remedy in failed.remedy) if remedy else not failed.remedy


def test_who_gives_no_answer_is_not_waited_for(settings: Settings) -> None:
    forever, threads = Event(), []

    def hangs(_: Settings) -> Iterator[Finding]:
        threads.append(current_thread())
        yield Finding(True, "so far")
        forever.wait()
        yield Finding(True, "too late")

    found = examine(settings, {"hangs": hangs, "fine": fine}, within=0.2)
    assert told(found) == [
        ("hangs", True, "so far"),
        ("hangs", False, "no answer within 0.2 s"),
        ("fine", True, "fine"),
    ]
    assert threads[0].daemon, "the process would never end"
    forever.set()


def test_what_fails_is_looked_at_again_until_it_does_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_PAUSE", 0.01)
    looked = {"late": 0, "fine": 0}

    def late(_: Settings) -> Iterator[Finding]:
        looked["late"] += 1
        yield Finding(looked["late"] > 2, f"look {looked['late']}")

    def counted(_: Settings) -> Iterator[Finding]:
        looked["fine"] += 1
        yield Finding(True, "fine")

    checks: Checks = {"late": late, "fine": counted}
    assert told(examine_until(settings, checks, 60)) == [("late", True, "look 3"), ("fine", True, "fine")]
    assert looked == {"late": 3, "fine": 1}


def test_patience_ends(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_PAUSE", 0.01)

    def never(_: Settings) -> Iterator[Finding]:
        yield Finding(False, "never")

    for patience in (0, 0.05):
        assert told(examine_until(settings, {"never": never}, patience)) == [("never", False, "never")]
