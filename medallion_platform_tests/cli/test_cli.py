"""The command line as a person and as a script meets it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import sys
import termios
from pathlib import Path

import pytest

from medallion_platform_tests.command import MEDALLION, medallion


def in_a_terminal(columns: int, *arguments: str) -> list[str]:
    """What a person sees, line by line, without colours."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ |= {"COLUMNS": str(columns), "TERM": "xterm"}
        os.execv(sys.executable, [*MEDALLION, *arguments])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    said = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # as Linux tells the end
            break
        if not part:
            break
        said += part
    os.waitpid(process, 0)
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).replace("\r\n", "\n").split("\n")


@pytest.fixture(scope="module")
def home(undisturbed: tuple[Path, list[dict[str, int]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo's home that may be written to."""
    return Path(shutil.copytree(undisturbed[0], tmp_path_factory.mktemp("cli") / "home"))


@pytest.mark.timeout(600)
def test_eighty_columns_are_enough_for_a_person(home: Path) -> None:
    status = in_a_terminal(80, "status", "--home", str(home))
    assert max(len(line) for line in status if not line.startswith("Not shown")) <= 80
    names = [line.split("│")[1].strip() for line in status if line.startswith("│")]
    assert "gold.regional_rollups_weekly" in names
    assert any("Not shown: " in line and "--json" in line for line in status)
    (heads,) = (line for line in status if "freshness" in line)
    assert "dead_letters" in heads and "out_of_date" in heads, "what one looks for stays"
    history = in_a_terminal(80, "history", "silver.events", "--home", str(home))
    assert any("written" in line and "dead_lettered" in line for line in history)

    shown = in_a_terminal(80, "show", "silver.users_history", "-n", "2", "--home", str(home))
    assert max(map(len, shown)) <= 80
    assert [line.split()[0] for line in shown if line.startswith(("user_id", "effective_from"))] == [
        "user_id",
        "effective_from",
    ] * 2


@pytest.mark.timeout(600)
def test_a_script_gets_lines_or_json_with_the_same_names(home: Path) -> None:
    lines = medallion("status", "silver.events", "silver.users", "--home", str(home)).stdout.splitlines()
    rows = json.loads(
        medallion("status", "silver.events", "silver.users", "--json", "--home", str(home)).stdout
    )
    assert lines[0].split("\t") == list(rows[0])
    assert [line.split("\t")[0] for line in lines[1:]] == ["silver.events", "silver.users"]
    assert all(re.fullmatch(r"[a-z_]+", name) for name in rows[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", rows[0]["last_commit"])


@pytest.mark.timeout(600)
def test_a_run_tells_what_it_did_and_a_beginning_of_its_id_is_enough(home: Path) -> None:
    status = json.loads(medallion("status", "gold.user_features", "--json", "--home", str(home)).stdout)
    run = status[0]["run"]
    lines = json.loads(medallion("logs", run[:8], "--json", "--home", str(home)).stdout)
    assert any(line["message"].startswith("gold.user_features: ") for line in lines)
    assert any(line["message"].startswith("serving.user_features: ") for line in lines)
    mine = [line["message"] for line in lines if line["message"].startswith("silver.events: ")]
    planned, committed = (next(m for m in mine if word in m) for word in (": planned: ", ": version "))
    assert mine.index(planned) < mine.index(committed)
    (first,) = medallion(
        "history", "silver.events", "-n", "1", "--json", "--home", str(home)
    ).stdout.splitlines()
    counts = json.loads(first)[0]
    told = (
        f"{counts['read']:,} read, {counts['written']:,} written, {counts['dead_lettered']:,} dead-lettered"
    )
    assert committed.endswith(told)
    assert lines == sorted(lines, key=lambda line: line["at"])
    unknown = medallion("logs", "no-such-run", "--home", str(home))
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "no-such-run" in unknown.stderr


@pytest.mark.timeout(600)
def test_the_list_of_runs_names_tables_and_every_check_of_what_is_served_was_evaluated(home: Path) -> None:
    from medallion_platform.orchestration import checks, runs, written_tables_tag

    with runs.open_instance(home / "dagster") as on:
        tags = {run.job_name: run.tags.get(written_tables_tag.TAG, "") for run in on.get_runs()}
        online = checks.last_check_results(on, ["serving.user_features"], checks.PUBLISHED)
    assert tags["intake"].startswith("bronze.")
    assert re.fullmatch(r"silver\.\w+(, \w+\.\w+){4} and \d+ more", tags["catch_up"])
    assert online["serving.user_features"].passed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["history", "departments"], ["bronze.departments", "silver.departments"]),
        (["show", "gold.user_featurs"], ["gold.user_features"]),
        (["history", "nothing-like-it"], ["medallion status"]),
        (["rollback", "nope"], ["nope", "medallion history"]),
    ],
)
def test_a_wrong_name_is_one_sentence_that_helps(home: Path, arguments: list[str], words: list[str]) -> None:
    done = medallion(*arguments, "--home", str(home))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in words)
    assert len(done.stderr) < 200


@pytest.mark.parametrize(
    "command", ["status", "dead-letters list", "history silver.events", "show gold.user_features"]
)
def test_a_home_without_a_lake_is_told(command: str, tmp_path: Path) -> None:
    done = medallion(*command.split(), "--home", str(tmp_path / "nope"))
    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path / "nope") in done.stderr


def test_a_misspelt_setting_is_told_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDALLION_LANDNG", "/in")
    done = medallion("status", "--home", str(tmp_path))
    first, second = done.stderr.splitlines()
    assert "MEDALLION_LANDING?" in first
    assert "there is no lake" in second


def test_a_port_that_is_none_is_refused() -> None:
    done = medallion("dev", "--port", "70000")
    assert done.returncode == 2
    assert "65535" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_and_completion() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", medallion("--version").stdout)
    assert "--install-completion" in medallion("--help").stdout


@pytest.mark.timeout(600)
def test_replay_names_the_dead_letters_that_hold_no_record(home: Path) -> None:
    """The sample has one file that is cut off."""
    done = medallion("dead-letters", "replay", "bronze.events", "--json", "--home", str(home))
    (told,) = json.loads(done.stdout)
    total = json.loads(medallion("status", "bronze.events", "--json", "--home", str(home)).stdout)
    assert told["read"] + told["left"] == total[0]["dead_letters"]
    assert told["left"] == 1
    assert "part-0009.jsonl.gz" in done.stderr


@pytest.mark.timeout(600)
def test_only_what_was_asked_for_is_replayed_and_told(home: Path) -> None:
    replay = ("dead-letters", "replay", "bronze.events", "--home", str(home), "--json")
    shown = ("dead-letters", "show", "bronze.events", "-n", "999", "--json", "--home", str(home))
    letters = json.loads(medallion(*shown).stdout)
    known = next(letter["offset"] for letter in letters if letter["row"])
    done = medallion(*replay, "--offset", str(known))
    (told,) = json.loads(done.stdout)
    assert (told["read"], told["left"], done.stderr) == (1, 0, ""), "the cut file was not asked for"
    unknown = medallion(*replay, "--offset", str(known), "--offset", "5")
    assert (unknown.returncode, unknown.stdout, len(unknown.stderr.splitlines())) == (2, "", 1)
    assert "bronze.events has no dead letter of offset 5; " in unknown.stderr


def test_long_payloads_are_cut_unless_the_whole_is_asked_for() -> None:
    from medallion_platform.cli.dead_letter_commands import SHOWN_BYTES, _printable_payload

    short, long = b"\xffab", "é".encode() * SHOWN_BYTES
    assert _printable_payload(short, whole=False) == "\\xffab"
    assert _printable_payload(long, whole=True) == "é" * SHOWN_BYTES
    cut = _printable_payload(long, whole=False)
    assert cut.startswith("é" * (SHOWN_BYTES // 2) + " ...")
    assert "4,000 bytes" in cut
    assert "--whole" in cut
