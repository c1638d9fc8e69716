"""What the doctor finds on this machine, and what it finds where something of it is broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from medallion_platform.cli.exits import USAGE
from medallion_platform.doctor import local
from medallion_platform.doctor.checks import ALL
from medallion_platform.doctor.finding import Finding
from medallion_platform.installation.project import MODULE
from medallion_platform.installation.settings import Settings
from medallion_platform.spark.jars import DELTA
from medallion_platform_tests.command import REPOSITORY, medallion
from medallion_platform_tests.doctor.looking import look, only


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts no small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_setting_that_is_none_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(local.settings_are_known, settings).ok
    monkeypatch.setenv("MEDALLION_SPARK_CORE", "2")
    found = only(local.settings_are_known, settings)
    assert found.ok is False and "did you mean MEDALLION_SPARK_CORES?" in found.found and found.remedy


def test_a_project_that_does_not_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    env = {**os.environ, MODULE: "broken", "MEDALLION_HOME": str(tmp_path / "home")}
    done = medallion("doctor", "--json", where=tmp_path, env=env)
    (project,) = (f for f in json.loads(done.stdout) if f["check"] == "project")
    assert done.returncode == 3 and done.stderr == ""
    assert (
        project["result"] == "problem" and "broken does not import: ModuleNotFoundError" in project["found"]
    )


def test_where_no_project_is_none_is_missed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MODULE)
    monkeypatch.chdir(tmp_path)
    found = only(local.project, settings)
    assert found.ok is None and str(tmp_path) in found.found


def test_versions_that_fit_and_one_that_does_not(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    found = only(local.versions, settings)
    assert found.ok and "pyspark 4.2.0" in found.found
    there = local._version
    others = {"pyspark": "4.1.0", "obstore": "", "confluent-kafka": "1.0"}
    monkeypatch.setattr(local, "_version", lambda name: others.get(name, there(name)))
    told = {f.found: f.remedy for f in look(local.versions, settings)}
    assert told["pyspark 4.1.0, needed: pyspark==4.2.0"] == 'pip install "pyspark==4.2.0"'
    assert any(text.startswith("obstore is missing, needed: obstore<0.13") for text in told)
    assert any(text.startswith("confluent-kafka 1.0") for text in told)
    assert len(told) == len(others)
    monkeypatch.setattr(local, "is_installed", lambda extra: extra != "kafka")
    assert len(look(local.versions, settings)) == len(others) - 1, (
        "an extra that is not there needs no version"
    )


def test_a_java_that_starts_and_those_that_do_not(settings: Settings, tmp_path: Path) -> None:
    assert only(local.java, settings).ok
    home = tmp_path / "java"
    (home / "bin").mkdir(parents=True)
    program = home / "bin" / "java"
    broken = settings.model_copy(update={"java_home": home})
    missing = only(local.java, broken)
    assert missing.ok is False and "no java runs there" in missing.found
    (home / "release").write_text('JAVA_VERSION="17.0.1"\n')
    program.write_text("#!/bin/sh\necho libjvm.so: wrong ELF class >&2\nexit 1\n")
    program.chmod(0o755)
    found = only(
        local.java, settings.model_copy(update={"java_home": shutil.copytree(home, tmp_path / "j2")})
    )
    assert found.ok is False and "ends with code 1: libjvm.so: wrong ELF class" in found.found
    other = shutil.copytree(home, tmp_path / "j3")
    (other / "bin" / "java").write_bytes(b"\x7fELF of another machine")
    found = only(local.java, settings.model_copy(update={"java_home": other}))
    assert found.ok is False and "does not start: Exec format error" in found.found
    assert "MEDALLION_JAVA_HOME" in found.remedy


def test_jars_that_are_here_damaged_or_nowhere(settings: Settings, tmp_path: Path) -> None:
    here = only(local.jars, settings)
    assert here.ok and here.found.startswith("all 2 are in ")
    cache, empty = tmp_path / "cache", tmp_path / "maven"
    (cache / "jars").mkdir(parents=True)
    for jar in DELTA:
        shutil.copyfile(settings.cache / "jars" / jar.file_name, cache / "jars" / jar.file_name)
    damaged = cache / "jars" / DELTA[0].file_name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    given = settings.model_copy(update={"cache": cache})

    def at(repository: Path | str) -> Finding:
        return only(local.jars, given.model_copy(update={"maven": type(settings.maven)(str(repository))}))

    lost = at(empty)
    assert lost.ok is False and "1 of 2 are not in" in lost.found and "MEDALLION_MAVEN" in lost.remedy
    (empty / DELTA[0].path).parent.mkdir(parents=True)
    (empty / DELTA[0].path).touch()
    assert at(empty).ok
    silent = at("http://user:secret@127.0.0.1:9")
    assert silent.ok is False and "does not answer" in silent.found
    assert "secret" not in silent.found + silent.remedy
    assert not damaged.with_name(".fetch").exists() and len(list((cache / "jars").iterdir())) == 2


def test_a_disk_with_room_is_left_as_it_was(settings: Settings, tmp_path: Path) -> None:
    assert all(f.ok for f in look(local.disks, settings))
    assert list(tmp_path.iterdir()) == [], "the home was made, or something was left"


def test_a_full_disk(settings: Settings, small: Path) -> None:
    full = only(lambda _: [local._room_in(small / "home", "MEDALLION_HOME")], settings)
    assert full.ok is False and "No space left on device" in full.found
    assert full.remedy == "make room, or name another folder with MEDALLION_HOME"
    assert list(small.iterdir()) == []


def test_a_disk_with_little_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LEAST_FREE", 1 << 60)
    home, _ = look(local.disks, settings)
    assert home.ok is False and "less than" in home.found and "make room" in home.remedy


def test_a_disk_that_cannot_be_written(settings: Settings, small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    found = only(lambda _: [local._room_in(small, "TMPDIR")], settings)
    assert found.ok is False and "Read-only file system" in found.found
    assert "right to write" in found.remedy and "TMPDIR" in found.remedy


def test_tables_and_temporary_files_elsewhere_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "spark"))
    given = Settings(home=tmp_path / "home", lake=tmp_path / "lake")
    places = [f.found.partition(":")[0] for f in look(local.disks, given)]
    assert places == [
        str(tmp_path / "home"),
        tempfile.gettempdir(),
        str(tmp_path / "lake"),
        str(tmp_path / "spark"),
    ]
    inside = Settings(home=tmp_path / "home", lake="s3://bucket/lake")
    assert len(look(local.disks, inside)) == 3


def test_the_command_says_what_to_do_and_ends_with_its_code(tmp_path: Path) -> None:
    env = {**os.environ, "MEDALLION_HOME": str(tmp_path / "home")}
    well = medallion("doctor", "--json", where=tmp_path, env=env)
    assert (well.returncode, well.stderr) == (0, "")
    checks = [f["check"] for f in json.loads(well.stdout)]
    there = [name for name in local.CHECKS if name != "retries"]  # Dagster has no settings here yet
    assert list(dict.fromkeys(checks)) == [*there, "lake", "landing zone"]
    ill = medallion("doctor", where=tmp_path, env={**env, "MEDALLION_SPARK_CORE": "2"})
    assert ill.returncode == 3
    assert ill.stdout.splitlines()[1].startswith(
        "settings\tproblem\tno setting is named MEDALLION_SPARK_CORE"
    )
    assert ill.stderr == "settings: rename it or remove it\n"


def test_settings_that_cannot_be_are_a_finding(tmp_path: Path) -> None:
    env = {**os.environ, "MEDALLION_SPARK_CORES": "secret", "MEDALLION_LAKE": "ftp://x"}
    done = medallion("doctor", "--json", where=tmp_path, env=env)
    assert done.returncode == 3 and "secret" not in done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [f["check"] for f in found] == ["settings", "settings"]
    assert {f["found"].partition(":")[0] for f in found} == {"MEDALLION_SPARK_CORES", "MEDALLION_LAKE"}


def test_the_page_tells_of_each_check() -> None:
    page = (REPOSITORY / "docs" / "doctor.md").read_text()
    assert re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) == list(ALL)
    shown = re.findall(r"^│ (\w[\w ]*?) +│", page, re.MULTILINE)
    assert [name for name in ALL if name in shown] == list(dict.fromkeys(shown))


def test_a_check_alone(tmp_path: Path) -> None:
    env = {**os.environ, "MEDALLION_HOME": str(tmp_path / "home"), "MEDALLION_SPARK_CORE": "2"}
    done = medallion("doctor", "--json", "--only", "disk", "--only", "topics", where=tmp_path, env=env)
    assert done.returncode == 0
    assert {row["check"] for row in json.loads(done.stdout)} == {"disk"}
    unknown = medallion("doctor", "--only", "brokers", where=tmp_path, env=env)
    assert unknown.returncode == USAGE
    assert "no check is named brokers" in unknown.stderr and "topics" in unknown.stderr
