"""What others install: the built wheel in an empty environment, and a new project in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from medallion_platform.installation.project import MODULE
from medallion_platform.installation.settings import Settings
from medallion_platform_tests.command import REPOSITORY, UV

pytestmark = pytest.mark.skipif(UV is None, reason="needs uv, which `./medallion` gets")


def clean() -> dict[str, str]:
    """This environment, without what it says of a project."""
    ours = {MODULE, "MEDALLION_HOME", "MEDALLION_LAKE", "MEDALLION_LANDING", "PYTHONPATH"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def run(*command: str, where: Path) -> str:
    done = subprocess.run(command, cwd=where, env=clean(), capture_output=True, text=True, timeout=500)
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


UNRECORDED = """
from medallion_platform.installation.local_spark import local_spark

with local_spark().aot_cache.recorded():
    pass
"""
"""A recording that comes to nothing: it is not tried again on this day."""


@pytest.fixture(scope="module")
def bare(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the wheel, without any extra, and pytest; with a new project `corner_shop`.

    Its sessions are not recorded, for nobody starts from that once the environment is gone; its cache is its
    own, or it would push out a recording that somebody uses.
    """
    where = tmp_path_factory.mktemp("bare")
    environment = where / "environment"
    python = environment / "bin" / "python"
    wheel = next(built.glob("*.whl"))
    # The versions that this suite runs on: they are in uv's cache, and known to fit.
    locked = run(
        str(UV), "export", "--frozen", "--no-emit-project", "--no-hashes", "--quiet", where=REPOSITORY
    )
    (where / "locked.txt").write_text(re.sub(r"(?m)^\s*#.*$", "", locked))
    run(str(UV), "venv", "--quiet", "--python", sys.executable, str(environment), where=where)
    install = [str(UV), "pip", "install", "--quiet", "--python", str(python), str(wheel), "pytest"]
    install += ["--constraint", str(where / "locked.txt")]
    # An index that is asked may send Spark's 400 MB once more, to be built once more.
    cached = subprocess.run([*install, "--offline"], cwd=where, env=clean(), capture_output=True)
    if cached.returncode:
        run(*install, where=where)
    run(str(environment / "bin" / "medallion"), "init", "corner_shop", where=where)
    cache = where / "cache"
    cache.mkdir()
    (cache / "jars").symlink_to(Settings().cache / "jars")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDALLION_CACHE", str(cache))
        run(str(python), "-c", UNRECORDED, where=where)
        yield where


@pytest.mark.timeout(900)
def test_a_new_project_passes_its_tests_where_only_the_wheel_is_installed(bare: Path, tmp_path: Path) -> None:
    medallion, project = str(bare / "environment" / "bin" / "medallion"), bare / "corner_shop"
    kept = tmp_path / "kept"
    told = run(medallion, "test", "-p", "no:cacheprovider", "--basetemp", str(kept), where=project)
    assert "1 passed" in told
    (home,) = kept.glob("test_*0")
    rows = {r["table"]: r for r in json.loads(run(medallion, "status", *of(home), where=project))}
    assert {name: row["rows"] for name, row in rows.items()} == {"bronze.orders": 3, "gold.daily_orders": 2}
    (planned,) = json.loads(run(medallion, "plan", *of(home), where=project))
    assert (planned["table"], planned["action"]) == ("gold.daily_orders", "nothing")


def of(home: Path) -> tuple[str, ...]:
    return "--home", str(home), "--json"


LACKING = """
from importlib.util import find_spec

from medallion_platform import Avro, features
from medallion_platform.extras import EXTRAS, MissingExtra

from corner_shop.tables import daily_orders

print(*[m for modules in EXTRAS.values() for m in modules if find_spec(m)])
for declare in (lambda: Avro("http://registry:8081"), lambda: features(daily_orders)):
    try:
        declare()
    except MissingExtra as error:
        print(error)
"""

TOPICS = """
from corner_shop.tables import Orders
from medallion_platform import Catalog, JsonLines, KafkaSource

ORDERS = KafkaSource(
    name="shop.orders",
    table="bronze.orders",
    contract=Orders.contract,
    format=JsonLines(),
    domain="shop",
    topics=("orders",),
    settings={"bootstrap.servers": "broker:9092"},
)
catalog = Catalog(sources=(ORDERS,), tables=())
"""


def test_what_a_plain_install_lacks_is_told_with_the_extra_that_brings_it(bare: Path) -> None:
    binaries, project = bare / "environment" / "bin", bare / "corner_shop"
    assert run(str(binaries / "python"), "-c", LACKING, where=project).splitlines() == [
        "",
        f"the format avro {lacks('kafka')}",
        f"the feature view of gold.daily_orders {lacks('feast')}",
    ]
    (project / "topics.py").write_text(TOPICS)
    told = {
        ("--module", "topics", "status", "--home", "kept"): f"source 'shop.orders' {lacks('kafka')}",
        ("dev",): f"`medallion dev` {lacks('ui')}",
    }
    for arguments, sentence in told.items():
        done = subprocess.run(
            [str(binaries / "medallion"), *arguments],
            cwd=project,
            env=clean(),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (3, f"medallion: {sentence}\n")


def lacks(extra: str) -> str:
    return f'needs the extra [{extra}], which is not installed; pip install "medallion-platform[{extra}]"'
