"""What the wrapper script decides, without making an environment."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

Capture = pytest.CaptureFixture[str]

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "medallion"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout as far as the wrapper looks at it, with an environment that was finished."""
    folder = tmp_path / "checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(SCRIPT, folder)
    (folder / "uv.lock").write_text("locked = 1\n")
    (folder / "pyproject.toml").write_text("")
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    entry = folder / ".venv" / "bin" / "medallion"
    entry.write_text('#!/bin/sh\necho "ran $@"\nexit 7\n')
    entry.chmod(0o755)
    load(folder).write_stamp({"jars"})
    return folder


def load(folder: Path) -> ModuleType:
    loader = SourceFileLoader("wrapper", str(folder / "medallion"))
    spec = importlib.util.spec_from_loader("wrapper", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    # What is compiled of a file without an ending must not lie about in the repository.
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.fixture
def wrapper() -> ModuleType:
    return load(REPOSITORY)


def call(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "medallion"), *args],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "MEDALLION_CACHE": str(folder / "cache"), **env},
        timeout=60,
    )


def is_one_sentence(done: subprocess.CompletedProcess[str]) -> bool:
    said = done.stderr.strip()
    return said.startswith("medallion: ") and "\n" not in said and "Traceback" not in said


# --- Python


def test_an_old_python_can_read_the_script() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_an_old_python_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(SystemExit) as stopped:
        load(REPOSITORY)
    assert stopped.value.code == 3
    said = capsys.readouterr().err
    assert "needs Python 3.11 or newer, and this is 3.9" in said
    assert said.count("\n") == 1


def test_the_bounds_are_those_of_the_project(wrapper: ModuleType) -> None:
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest, newest = (3, 11), wrapper.NEWEST
    assert wanted == f">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"


@pytest.mark.parametrize("args", [["status"], ["demo"], ["run"], ["dead-letters", "list"], ["-h"], []])
def test_no_command_asks_for_a_java_of_the_machine(checkout: Path, tmp_path: Path, args: list[str]) -> None:
    done = call(checkout, *args, PATH=str(tmp_path), JAVA_HOME="/nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"ran {' '.join(args)}\n", "")


# --- the stamp


def test_a_finished_environment_starts_at_once(checkout: Path) -> None:
    done = call(checkout, "status")
    assert (done.returncode, done.stdout, done.stderr) == (7, "ran status\n", "")
    assert not (checkout / "cache").exists()


def change_lock(checkout: Path) -> None:
    (checkout / "uv.lock").write_text("locked = 2\n")


def change_project(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text("[project]\n")


def lose_python(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "python").unlink()


def lose_entry(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "medallion").unlink()


def tear_stamp(checkout: Path) -> None:
    stamp = checkout / ".venv" / "medallion-stamp.json"
    stamp.write_text(stamp.read_text()[:20])


def other_stamp(checkout: Path) -> None:
    (checkout / ".venv" / "medallion-stamp.json").write_text("[]")


def be_killed(checkout: Path) -> None:
    (checkout / ".venv" / "medallion-unfinished").touch()


@pytest.mark.parametrize(
    "damage",
    [change_lock, change_project, lose_python, lose_entry, tear_stamp, other_stamp, be_killed],
    ids=lambda f: f.__name__,
)
def test_anything_else_is_set_up_again(checkout: Path, damage: Callable[[Path], None]) -> None:
    assert load(checkout).is_ready(set())
    damage(checkout)
    assert not load(checkout).is_ready(set())


def test_an_environment_that_was_moved_is_not_used(checkout: Path) -> None:
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert not load(moved).is_ready(set())
    assert not load(moved).moved_here()


def test_more_is_only_set_up_when_it_is_wanted(checkout: Path) -> None:
    module = load(checkout)
    assert module.is_ready({"jars"})
    assert not module.is_ready({"jars", "dev"})


def test_two_set_ups_wait_for_each_other(checkout: Path) -> None:
    module = load(checkout)
    change_lock(checkout)
    with module.Locked():
        waiting = subprocess.Popen(
            [sys.executable, str(checkout / "medallion"), "status"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "MEDALLION_CACHE": str(checkout / "cache")},
        )
        assert waiting.stderr
        assert "waiting" in waiting.stderr.readline()
        module.write_stamp(set())
    out, err = waiting.communicate(timeout=30)
    assert (out, err) == ("ran status\n", "")


# --- set-up, with a uv that only writes down how it was called

UV = """#!/bin/sh
echo "$@ / dev: ${{UV_NO_DEV-unset}} / index: ${{UV_DEFAULT_INDEX-unset}}" >> {calls}
case "$1" in
  venv) mkdir -p {venv}/bin && ln -sf {python} {venv}/bin/python ;;
  sync) {sync} ;;
esac
"""


@pytest.fixture
def bare(checkout: Path) -> Path:
    shutil.rmtree(checkout / ".venv")
    return checkout


def give_uv(checkout: Path, sync: str = "") -> Path:
    """Put a uv where the wrapper keeps its own; returns the file with its calls."""
    calls, venv = checkout / "calls", checkout / ".venv"
    program = checkout / "cache" / f"uv-{load(checkout).UV}" / "bin" / "uv"
    program.parent.mkdir(parents=True, exist_ok=True)
    finish = f"printf '#!/bin/sh\\necho ran $@\\n' > {venv}/bin/medallion; chmod +x {venv}/bin/medallion"
    program.write_text(UV.format(calls=calls, venv=venv, python=sys.executable, sync=sync or finish))
    program.chmod(0o755)
    return calls


NO_INDEX = {"PIP_CONFIG_FILE": os.devnull}


def test_the_first_call_makes_the_environment_and_the_second_does_not(bare: Path) -> None:
    calls = give_uv(bare)
    first = call(bare, "status", UV_NO_DEV="1", **NO_INDEX)
    assert (first.returncode, first.stdout) == (0, "ran status\n"), first.stderr
    assert all(line.endswith(" s") for line in first.stderr.splitlines())
    made = calls.read_text().splitlines()
    assert [c.split()[0] for c in made] == ["venv", "sync"]
    assert "sync --locked --all-extras --no-dev / dev: unset / index: unset" in made[1]
    second = call(bare, "status")
    assert (second.stdout, second.stderr) == ("ran status\n", "")
    assert calls.read_text().splitlines() == made


def test_tests_bring_their_tools_and_keep_them(bare: Path) -> None:
    calls = give_uv(bare)
    module = load(bare)
    call(bare, "status", **NO_INDEX)
    stamp = json.loads((bare / ".venv" / "medallion-stamp.json").read_text())
    assert stamp["has"] == []
    (bare / ".venv" / "bin" / "pytest").touch()
    change_lock(bare)
    call(bare, "status", **NO_INDEX)
    assert calls.read_text().splitlines()[-1].startswith("sync --locked --all-extras /")
    assert module.is_ready({"dev"})


def test_a_set_up_that_was_killed_starts_over(bare: Path) -> None:
    calls = give_uv(bare, sync="kill -9 $$")
    killed = call(bare, "status", **NO_INDEX)
    assert killed.returncode == 3
    assert "ended by signal 9" in killed.stderr
    give_uv(bare)
    assert call(bare, "status", **NO_INDEX).returncode == 0
    assert [c.split()[:2] for c in calls.read_text().splitlines()] == [
        ["venv", "--clear"],
        ["sync", "--locked"],
        ["venv", "--clear"],
        ["sync", "--locked"],
    ]


def test_a_failure_that_changed_nothing_keeps_what_is_there(bare: Path) -> None:
    give_uv(bare)
    call(bare, "status", **NO_INDEX)
    change_lock(bare)
    calls = give_uv(bare, sync="echo 'error: Failed to fetch x'; echo 'cause: dns error' ; exit 2")
    failed = call(bare, "status", **NO_INDEX)
    assert failed.returncode == 3
    assert "no answer from where it is fetched" in failed.stderr
    calls.unlink()
    give_uv(bare)
    assert call(bare, "status", **NO_INDEX).returncode == 0
    assert [c.split()[0] for c in calls.read_text().splitlines()] == ["sync"]


def test_another_index_is_asked_for_the_locked_files_by_digest(bare: Path) -> None:
    calls = give_uv(bare)
    call(bare, "status", UV_DEFAULT_INDEX="file:///mirror")
    made = calls.read_text().splitlines()
    assert [" ".join(c.split()[:2]) for c in made] == [
        "venv --clear",
        "export --frozen",
        "pip sync",
        "pip install",
    ]
    assert "--all-extras" in made[1]
    assert "--require-hashes" in made[2]
    assert all(c.endswith("index: file:///mirror") for c in made)


def test_the_index_that_pip_is_configured_with_counts(bare: Path, tmp_path: Path) -> None:
    calls = give_uv(bare)
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = file:///mirror\n")
    call(bare, "status", PIP_CONFIG_FILE=str(config))
    assert "index: file:///mirror" in calls.read_text()


# --- what a machine may lack


def test_no_pip_at_all_is_told_with_the_remedy(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(bare)
    monkeypatch.setattr(module, "pip", list)
    with pytest.raises(module.Stop, match="python3-venv"):
        module.get_uv(None, bare)


def test_a_full_disk_is_told_before_and_while(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    module = load(bare)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(module.Stop, match=r"needs 3\.0 GB, and the disk of .* has 1\.0 GB free"):
        module.check_disk(bare)
    with module.open_log(bare) as log:
        run = module.Steps(log, os.open(bare, os.O_RDONLY))
        with pytest.raises(module.Failed, match="the disk became full while installing x: make room"):
            run("installing x (much)", ["sh", "-c", "echo 'No space left on device'; exit 1"])
    assert capsys.readouterr().err.startswith("medallion: installing x (much) ...")


def test_a_cache_that_cannot_be_made(bare: Path) -> None:
    done = call(bare, "status", MEDALLION_CACHE="/proc/nowhere")
    assert (done.returncode, is_one_sentence(done)) == (3, True)
    assert "MEDALLION_CACHE" in done.stderr


def test_a_checkout_without_its_lock(bare: Path) -> None:
    (bare / "uv.lock").unlink()
    done = call(bare, "status", **NO_INDEX)
    assert (done.returncode, is_one_sentence(done)) == (3, True)
