"""What tests of several rooms share: one Spark, a lake of one's own, real data where it is there."""

from __future__ import annotations

import fcntl
import gc
import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from medallion_platform.installation.project import MODULE, SAMPLE
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.command import REPOSITORY, demo
from medallion_platform_tests.unsynced import leave_writing_to_the_system

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SHARED_DATA = Path(os.environ.get("MEDALLION_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")

os.environ.setdefault(MODULE, SAMPLE)
"""What the tests' own processes and the commands that they start run, wherever these stand."""

SERVERS = ("broker", "cluster", "faults", "s3")
"""Markers of tests that start real servers, or make what runs on them."""

# On a shared machine a deadline measures the neighbours. In CI the same examples every time: a red
# build means a change, and the wider search is for the desk.
settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("desk"), derandomize=True, max_examples=60)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
leave_writing_to_the_system()
# As rarely as commands do it: with Python's own thresholds, looking for cycles takes a seventh of its CPU.
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One Spark for all tests of this process, set up as the platform sets it up."""
    from medallion_platform.installation.local_spark import local_spark

    started = local_spark(topics=True, memory="1g", cores=2).session()
    started.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
    started.sparkContext.setLogLevel("ERROR")
    yield started
    started.stop()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(tmp_path / "lake")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with data as it really comes; tests that need it are skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}: set MEDALLION_SHARED_DATA to where it is")
    return SHARED_DATA


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, int]]]:
    """The home of a demo that nobody disturbed, and its closing table; not to be written to."""
    base = tmp_path_factory.getbasetemp()
    # Of all processes of this run: the first one that asks makes it, another one waits.
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    # Blanks and umlauts, because people have them.
    home, closing = folder / "undisturbed" / "mein häuschen", folder / "undisturbed" / "closing.json"
    with (folder / "undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not closing.exists():
            home.parent.mkdir()
            closing.write_text(json.dumps(demo(home)))
    return home, json.loads(closing.read_text())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Suites that take long have a short run, and a long one for the desk."""
    parser.addoption("--long", action="store_true", help="many more faults, and tests of an hour")


def pytest_configure(config: pytest.Config) -> None:
    """Report every skipped test with its reason: what was not tested must not look tested."""
    if "s" not in config.option.reportchars:
        config.option.reportchars += "s"
    if os.environ.get("MEDALLION_TEST_CORPUS"):
        config.pluginmanager.import_plugin("medallion_platform_tests.corpus.capture")


USUAL = 300
"""Seconds that a test may take unless it says otherwise, as pyproject.toml has it."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Modules with tests that may take long come first, so that no process is left alone with one at the end.

    A module stays together, for what it made is there as long as its tests are.
    """
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    marks = ((item.path, item.get_closest_marker("timeout")) for item in items)
    long = {path for path, mark in marks if mark and mark.args[0] > USUAL}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Look for no cycles in what was imported and collected: it stays to the end."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI every server is there: a test that was skipped because there is "no ..." has failed."""
    report = yield
    server = report.skipped and any(map(item.get_closest_marker, SERVERS))
    if os.environ.get("CI") and server and "Skipped: no " in str(report.longrepr):
        report.outcome = "failed"
    return report


_NO_CHARTS = "there are no charts at"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say so where the answers on real data were not proven, and the pods of neighbours not looked at."""
    reasons = {str(report.longrepr[-1]) for report in terminalreporter.getreports("skipped")}
    for reason in (r.removeprefix("Skipped: ") for r in reasons if _NO_CHARTS in r):
        terminalreporter.write_line(f"NOT TESTED: the pods of neighbours, {reason}", yellow=True)
    if not SHARED_DATA.is_dir():
        terminalreporter.write_line(
            f"NOT TESTED: known answers on real data, there is no {SHARED_DATA} "
            "(MEDALLION_SHARED_DATA names another place)",
            yellow=True,
        )
