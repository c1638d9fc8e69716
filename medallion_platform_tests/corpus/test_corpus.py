"""The corpus holds what failures say to programs and nothing else, and the score counts right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.errors import ErrorChain, Kind, Link
from medallion_platform.healing.evidence import Evidence
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.corpus import score as module
from medallion_platform_tests.corpus.causes import PASSWORD, ROW
from medallion_platform_tests.corpus.line import SEEN, UNSEEN, Line, distinct, read
from medallion_platform_tests.corpus.score import in_words, score, seen, unlike
from medallion_platform_tests.test_error_chain import SECRETS

OF_A_TEST = f"""
import dagster as dg
import errno
import pytest

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.orchestration.failures import TableFailure, report_failure
from medallion_platform_tests.pipeline.toy import CSV, Zone, good

PASSWORD, TOKEN, VALUE = {SECRETS!r}


@pytest.mark.failure("disk")
def test_raised(tmp_path):
    with pytest.raises(OSError):
        raise OSError(errno.ENOSPC, PASSWORD, f"/{{TOKEN}}/{{VALUE}}")


@pytest.mark.failure("corrupt")
def test_reported(tmp_path):
    zone = Zone(tmp_path / "ann@example.org")
    zone.csv("events/1.csv", [good("ann@example.org")])
    zone.take()
    for file in (tmp_path / "ann@example.org/lake/bronze/events/_delta_log").glob("*.json"):
        file.write_text(VALUE + TOKEN)
    zone.csv("events/2.csv", [good("ann@example.org")])
    with pytest.raises(MedallionError):
        zone.take()


@pytest.mark.failure("auth")
def test_of_a_run():
    @dg.op
    def step(context) -> None:
        error = MedallionError(VALUE, kind=Kind.AUTH, remedy=TOKEN)
        error.__cause__ = ValueError(PASSWORD)
        raise report_failure(context, {{"silver.events": TableFailure.of("silver.events", error)}})

    @dg.job
    def job():
        step()

    with dg.DagsterInstance.ephemeral() as on:
        assert not job.execute_in_process(instance=on, raise_on_error=False, tags={{"x": PASSWORD}}).success


def test_without_a_mark():
    with pytest.raises(KeyError):
        raise KeyError(VALUE)
"""


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """What a run of these tests leaves."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "test_secrets.py").write_text(OF_A_TEST)
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "medallion_platform_tests.corpus.capture"]
    done = subprocess.run(
        [*command, "-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(folder), str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "MEDALLION_TEST_CORPUS": str(folder / "lines.jsonl")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return read(folder / "lines.jsonl")


def test_what_a_marked_test_meets_is_kept_with_its_true_class(captured: list[Line]) -> None:
    told = {(line.test.rpartition("::")[2], line.kind.value) for line in captured}
    assert told == {("test_raised", "disk"), ("test_reported", "corrupt"), ("test_of_a_run", "auth")}
    evidence = [line.evidence for line in captured]
    assert any("DamagedLog" in e.chain.own and e.work == "intake" for e in evidence)
    assert any(e.run_failure == "STEP_FAILURE" and e.chain.said is Kind.AUTH for e in evidence)
    assert any(link.errno for e in evidence for link in e.chain.links)


def test_no_secret_and_no_value_of_a_row_is_kept(captured: list[Line]) -> None:
    text = "".join(line.to_json() for line in captured)
    assert not [planted for planted in (*SECRETS, "hunter2", "example.org", "eyJ") if planted in text]


def strings(told: Any) -> Iterator[str]:
    if isinstance(told, str):
        yield told
    elif isinstance(told, dict):
        for value in told.values():
            yield from strings(value)
    elif isinstance(told, list):
        for value in told:
            yield from strings(value)


def test_the_corpus_holds_words_and_numbers_alone() -> None:
    lines = [*read(SEEN), *read(UNSEEN)]
    assert lines
    for line in lines:
        assert Line.from_json(line.to_json()) == line
        told = json.loads(line.evidence.to_json())
        assert re.fullmatch(r"(test|run|process)/[\w-]+", told.pop("occurrence"))
        assert not [text for text in strings(told) if not re.fullmatch(r"[\w$.:+-]{1,100}", text)]


def test_nothing_that_tests_plant_is_in_the_corpus() -> None:
    """Passwords that servers were told, values of rows, and where the tests ran."""
    text = "".join(line.evidence.to_json() for line in [*read(SEEN), *read(UNSEEN)])
    planted = (*SECRETS, PASSWORD, ROW, "planted", "hunter2", str(Path.home()), str(REPOSITORY), "/tmp")
    assert not [of for of in planted if of in text]


def test_each_failure_was_made_by_a_test_that_is_there() -> None:
    for line in [*read(SEEN), *read(UNSEEN)]:
        file, _, name = line.test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (SEEN.parent.parent / file).read_text(), line.test


def test_the_rules_do_no_worse_than_they_did() -> None:
    """On what they were made by; it says nothing about what comes."""
    found = seen()
    assert found.covered >= Fraction(82, 100)
    assert found.right >= Fraction(76, 100), in_words("seen", found)


def test_the_page_has_the_figures_that_the_command_prints() -> None:
    """Those of each class are in the table that is made from the same scores (`healing/test_policy.py`)."""
    command = [sys.executable, "-m", "medallion_platform_tests.corpus.score"]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    printed = re.findall(
        r"^(?:un)?seen: (\d+) distinct, covered (\S+), right (\S+), wrong (\S+)$", told, re.M
    )
    (seen_total, *of_seen), (total, *of_unseen) = printed
    for name, *shares in zip(("any", "true", "another"), of_seen, of_unseen, strict=True):
        row = f"| all: {name} class | {seen_total} | {shares[0]} | {total} | {shares[1]} |"
        assert row in (REPOSITORY / "docs/healing.md").read_text()


def of(kind: Kind, **link: Any) -> Line:
    chain = ErrorChain(links=(Link(**link),))
    evidence = Evidence("test/0", datetime(2026, 11, 30, tzinfo=UTC), "refresh", "silver.a", chain=chain)
    return Line(evidence, kind, "test_x.py::test_x", "abc")


def test_the_score_of_what_is_known() -> None:
    lines = [
        of(Kind.DISK, errno=28),
        of(Kind.DATA, errno=28),
        of(Kind.NETWORK, status=408),
        of(Kind.HUNG, names=frozenset({"X"})),
        of(Kind.UNKNOWN, names=frozenset({"Y"})),
    ]
    found = score(lines)
    assert (found.covered, found.right, found.wrong) == (Fraction(3, 4), Fraction(3, 5), Fraction(1, 5))
    assert set(found.confused) == {(Kind.DATA, Kind.DISK), (Kind.HUNG, Kind.UNKNOWN)}
    assert "data was taken for disk: 1" in in_words("seen", found)


def test_what_the_rules_learn_from_stays_as_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: tmp_path / name for name in ("SEEN", "UNSEEN", "MEASURED")}
    for name, place in files.items():
        monkeypatch.setattr(module, name, place)
    old, new = of(Kind.DISK, errno=28), of(Kind.HUNG, names=frozenset({"X"}))
    files["SEEN"].write_text(f"{old.to_json()}\n")
    files["UNSEEN"].write_text(f"{old.to_json()}\n{new.to_json()}\n")
    before = module.unseen()
    assert before.of_class == {Kind.HUNG: 1}, "what is known is not counted"
    module.learn()
    assert not files["UNSEEN"].exists()
    assert module.seen().of_class == {Kind.DISK: 1, Kind.HUNG: 1}
    monkeypatch.setattr(module, "classify", lambda _: pytest.fail("nobody asks the rules again"))
    assert module.unseen() == before


def test_a_failure_at_another_table_is_none_of_its_own() -> None:
    one = of(Kind.DISK, errno=28)
    other = replace(one, evidence=replace(one.evidence, table="gold.b", occurrence="test/1"))
    assert distinct(one) == distinct(other)
    assert len(unlike([one, other, of(Kind.DISK, errno=122)])) == 2
    assert unlike([other, of(Kind.DISK, errno=122)], known=[one]) == [of(Kind.DISK, errno=122)]
