"""What others install: the built wheel in an empty environment, and a new project in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from medallion_platform.project import MODULE
from medallion_platform_tests.command import REPOSITORY

UV = shutil.which("uv") or next(
    map(str, sorted((Path.home() / ".cache" / "medallion").glob("uv-*/bin/uv"))), None
)
pytestmark = pytest.mark.skipif(UV is None, reason="needs uv, which `./medallion` gets")


def run(*command: str, where: Path, **environment: str) -> str:
    ours = {MODULE, "MEDALLION_HOME", "MEDALLION_LAKE", "MEDALLION_LANDING", "PYTHONPATH"}
    env = {name: value for name, value in os.environ.items() if name not in ours} | environment
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(str(UV), "build", "--quiet", "--out-dir", str(folder), str(REPOSITORY), where=folder)
    return folder


def test_wheel_and_sdist_hold_the_packages_and_nothing_of_tests(built: Path) -> None:
    wheel = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        source = [name.partition("/")[2] for name in archive.getnames()]
    for names in (wheel, source):
        assert "medallion_platform/py.typed" in names
        assert "medallion_platform/new_project/template/.gitignore.in" in names
        assert "medallion_platform/new_project/template/.github/workflows/ci.yml.in" in names
        assert "medallion_sample/catalog.py" in names
        assert [name for name in names if "medallion_platform_tests" in name] == []


@pytest.mark.timeout(900)
def test_a_new_project_passes_its_tests_where_only_the_wheel_is_installed(
    built: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    wheel = next(built.glob("*.whl"))
    # The versions that this suite runs on: they are in uv's cache, and known to fit.
    locked = run(
        str(UV), "export", "--frozen", "--no-emit-project", "--no-hashes", "--quiet", where=REPOSITORY
    )
    (tmp_path / "locked.txt").write_text(re.sub(r"(?m)^\s*#.*$", "", locked))
    run(str(UV), "venv", "--quiet", "--python", sys.executable, str(environment), where=tmp_path)
    install = ["pip", "install", "--quiet", "--python", str(python), str(wheel)]
    run(str(UV), *install, "pytest", "--constraint", str(tmp_path / "locked.txt"), where=tmp_path)
    medallion = str(environment / "bin" / "medallion")
    run(medallion, "init", "corner_shop", where=tmp_path)
    project = tmp_path / "corner_shop"
    told = run(medallion, "test", "-p", "no:cacheprovider", where=project)
    assert "1 passed" in told
