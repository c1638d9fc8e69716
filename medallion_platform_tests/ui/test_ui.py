"""The Dagster UI as a person uses it: a real browser, mouse and keyboard, against `medallion dev`.

What the page shows is asserted, and then held against Dagster's own records and the Delta tables.
With MEDALLION_TEST_SCREENSHOTS naming a folder, pictures of what was seen are written there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from playwright.sync_api import Browser, Locator, Page, expect

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import runs
from medallion_platform_tests.command import MEDALLION
from medallion_platform_tests.ui.browser import (
    SECOND,
    backfill,
    chromium,
    open_page,
    open_table,
    type_text,
)
from medallion_platform_tests.ui.server import DAGSTER, serving

PICTURES = os.environ.get("MEDALLION_TEST_SCREENSHOTS")
DAYS = ["2026-01-05", "2026-01-06", "2026-01-07"]
METRICS = dg.AssetKey("gold_daily_user_metrics")

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


@dataclass
class Ui:
    """A running UI: the product's own, and one with a table that goes stale after two minutes."""

    home: Path
    address: str
    short_home: Path
    address_of_short_windows: str
    log: Path

    @property
    def lake(self) -> Lake:
        return Lake(self.home / "lake")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def ui(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    root = tmp_path_factory.mktemp("ui")
    home, copy, log = root / "home", root / "copy", root / "dev.log"
    if PICTURES:  # no name of this machine's user in a picture
        home, copy = Path("/tmp/medallion-ui"), Path("/tmp/medallion-short")
        home.mkdir()  # fails where something is
    made = subprocess.run(
        [sys.executable, "-m", "medallion_platform_tests.ui.home", str(home)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    # It would make what is left to the mouse.
    stop = [*DAGSTER, "sensor", "stop", "catch_up_sensor", "-w", str(runs.write_workspace(home / "dagster"))]
    env = {**os.environ, "MEDALLION_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
    stopped = subprocess.run(stop, env=env, capture_output=True, text=True, timeout=100)
    assert stopped.returncode == 0, stopped.stderr[-3000:]
    shutil.copytree(home, copy)
    often = {"FRESHNESS_DAEMON_INTERVAL_SECONDS": "5"}
    with ExitStack() as stack:
        if PICTURES:
            stack.callback(shutil.rmtree, home)
            stack.callback(shutil.rmtree, copy)
        dev = stack.enter_context(
            serving(lambda port: [*MEDALLION, "dev", "--home", str(home), "--port", str(port)], log, often)
        )
        short = stack.enter_context(
            serving(
                lambda port: [
                    *DAGSTER,
                    *("dev", "-h", "127.0.0.1", "-p", str(port)),
                    *("-m", "medallion_platform_tests.ui.short_windows"),
                ],
                root / "short.log",
                {**often, "MEDALLION_HOME": str(copy), "DAGSTER_HOME": str(copy / "dagster")},
            )
        )
        yield Ui(home, dev(), copy, short(), log)


@pytest.fixture
def page(browser: Browser, ui: Ui) -> Iterator[Page]:
    with closing(open_page(browser, ui.address)) as opened:
        yield opened


@pytest.fixture(scope="module")
def departments(browser: Browser, ui: Ui) -> Generator[Page]:
    """The page of a table that may be a minute old; it stays open from test to test."""
    with closing(open_page(browser, ui.address_of_short_windows)) as page:
        open_table(page, "silver_departments")
        yield page


def test_a_table_is_as_fresh_as_its_data(departments: Page, ui: Ui) -> None:
    _see_freshness(departments, "Failed", 240)
    _picture(departments, "freshness-stale")
    file = ui.short_home / "landing" / "hr" / "departments.csv"
    part = file.with_suffix(".part")
    part.write_text(file.read_text() + "999,Falconry\n")
    part.replace(file)
    _see_freshness(departments, "Passing", 240)
    _picture(departments, "freshness-recovered")


def test_three_days_are_made_by_hand(page: Page, ui: Ui) -> None:
    open_table(page, METRICS.path[0])
    page.get_by_role("tab", name="Partitions").click()
    type_text(page, page.locator("input[type=text]").first, f"[{DAYS[0]}...{DAYS[-1]}]")
    expect(page.get_by_text("Missing (3)")).to_be_visible()
    for day in DAYS:
        assert not _is_green(page, day), f"{day} is green before it was made"

    made_by = backfill(page, DAYS)
    expect(page.get_by_text("Materialized (3)")).to_be_visible(timeout=150 * SECOND)
    expect(page.get_by_text("Missing (0)")).to_be_visible()
    for day in DAYS:
        assert _is_green(page, day), f"{day} is not green"
    page.locator(f'[title="{DAYS[1]}"]').click()
    expect(page.get_by_text("delta_version")).to_be_visible()
    _picture(page, "partitions")

    with dg.DagsterInstance.from_config(str(ui.home / "dagster")) as on:
        assert on.get_materialized_partitions(METRICS) == set(DAYS)
        (run,) = on.get_runs(dg.RunsFilter(tags={"dagster/backfill": made_by}))
        assert run.status == dg.DagsterRunStatus.SUCCESS
        (record,) = (r for _, r in ui.lake.records("gold.daily_user_metrics") if r.run_id == run.run_id)
        assert set(DAYS) <= set(record.partitions)
        assert _rows_by_day(ui.lake, "gold.daily_user_metrics") == _expected_by_day(ui.lake)

        page.get_by_role("link", name="Runs").click()
        page.get_by_role("tab", name="Backfills").click()
        ended = re.compile(rf"{made_by}.*Manually launched.*Success", re.DOTALL)
        expect(page.locator("body")).to_contain_text(ended, timeout=60 * SECOND)
        # The page goes by the run; the daemon closes the record at its next look, every 30 seconds.
        deadline = time.monotonic() + 90
        while on.get_backfills()[0].status == BulkActionStatus.REQUESTED and time.monotonic() < deadline:
            time.sleep(1)
        assert on.get_backfills()[0].status == BulkActionStatus.COMPLETED_SUCCESS


def test_bad_rows_that_land_fail_the_checks_with_their_numbers(page: Page, ui: Ui) -> None:
    _switch_on(page, "catch_up_sensor")
    open_table(page, "bronze_events")
    page.get_by_role("tab", name="Checks").click()
    letters_before, count_before = _dead_letters(ui.home), dead_letters.count(ui.lake, "bronze.events")
    good = {"user_id": "u0001", "event_type": "click", "event_timestamp": "2026-01-11T10:00:00Z"}
    rows = [{"event_id": f"planted-{n}", **good} for n in range(20)]
    rows += [{"event_id": f"untimely-{n}", **good, "event_timestamp": "at noon"} for n in range(47)]
    rows += [{"event_id": None, **good} for _ in range(23)]
    _land(ui.home / "landing" / "clickstream" / "events" / "2026-01-12" / "planted.jsonl", rows)

    held = page.get_by_text("contract_holds").first
    held.click()
    told = page.locator("body")
    for line in (
        rf"dead_letters_now\s*{count_before + 70}",
        r"last write, reject: event_timestamp: is a timestamp\s*47",
        r"last write, reject: event_id: not null\s*23",
    ):
        expect(told).to_contain_text(re.compile(line), timeout=90 * SECOND)
    expect(_check(page, "contract_holds")).to_contain_text("Failed")
    expect(_check(page, "dead_letters_as_usual")).to_contain_text("Failed")
    expect(_check(page, "rows_are_conserved")).to_contain_text("Succeeded")
    _picture(page, "failed-check")
    page.get_by_text("dead_letters_as_usual").first.click()
    expect(told).to_contain_text(re.compile(r"share\s*0\.777"))

    letters = _dead_letters(ui.home)
    more = {k: n - letters_before.get(k, 0) for k, n in letters.items() if n != letters_before.get(k, 0)}
    assert more == {"event_timestamp: is a timestamp": 47, "event_id: not null": 23}
    written = pl.read_delta(ui.lake.path("bronze.events"), columns=["event_id"])["event_id"]
    assert written.str.starts_with("planted-").sum() == 20
    assert written.str.starts_with("untimely-").sum() == 0


def test_a_table_goes_stale_as_time_passes(departments: Page) -> None:
    """After the test that refreshed it, and the minutes that the others took."""
    _see_freshness(departments, "Failed", 300)


@pytest.mark.skipif(not PICTURES, reason="MEDALLION_TEST_SCREENSHOTS names no folder for pictures")
def test_pictures_of_the_demo(browser: Browser, tmp_path: Path) -> None:
    home = Path("/tmp/medallion-demo")
    home.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        subprocess.run(
            [*MEDALLION, "demo", "--home", str(home)], check=True, capture_output=True, timeout=300
        )
        command = [*MEDALLION, "dev", "--home", str(home), "--port"]
        address = stack.enter_context(serving(lambda port: [*command, str(port)], tmp_path / "log", {}))()
        group = f"{address}/locations/medallion_platform/asset-groups"
        page = stack.enter_context(closing(open_page(browser, f"{group}/clickstream_silver/lineage")))
        time.sleep(10)  # the graph is drawn small, with names that are cut
        _picture(page, "asset-graph")
        open_table(page, METRICS.path[0])
        expect(page.get_by_text("Row count")).to_be_visible()
        _picture(page, "table")
        page.get_by_text("preview", exact=True).first.scroll_into_view_if_needed()
        _picture(page, "table-counts")
        page.get_by_text("[Show Markdown]").first.click()
        _picture(page, "table-preview")
        page.keyboard.press("Escape")
        page.get_by_text("Plots", exact=True).first.click()
        page.get_by_role("button", name="Events").first.click()
        page.get_by_text("run_rows_written").first.scroll_into_view_if_needed()
        _picture(page, "table-plots")


def test_nothing_went_wrong_behind_the_pages(ui: Ui) -> None:
    lines = ui.log.read_text().splitlines()
    wrong = [n for n, s in enumerate(lines) if re.search(r"ERROR|CRITICAL|Traceback|Warning", s)]
    assert not wrong, "\n".join(lines[wrong[0] : wrong[-1] + 60])


def _rows_by_day(lake: Lake, table: str) -> dict[str, int]:
    days = pl.read_delta(lake.path(table))["event_date"].cast(pl.String)
    return {day: days.eq(day).sum() for day in DAYS}


def _expected_by_day(lake: Lake) -> dict[str, int]:
    """One row for each user and region that had an event on the day."""
    events = pl.read_delta(lake.path("silver.events"), columns=["event_date", "user_id", "region_code"])
    rows = events.drop_nulls("user_id").unique()["event_date"].cast(pl.String)
    return {day: rows.eq(day).sum() for day in DAYS}


def _switch(page: Page, sensor: str) -> Locator:
    row = page.locator("div").filter(has=page.get_by_role("link", name=sensor))
    boxes = row.filter(has=page.locator("input[type=checkbox]")).last.locator("input[type=checkbox]")
    expect(boxes).to_have_count(2)  # the first one selects the row
    return boxes.last


def _switch_on(page: Page, sensor: str) -> None:
    page.get_by_role("link", name="Automation").click()
    # On by default: before it is shown so, no switch shows what is the case.
    expect(_switch(page, "data_grew_old")).to_be_checked()
    switch = _switch(page, sensor)
    expect(switch).not_to_be_checked()
    switch.locator("xpath=..").click()
    expect(switch).to_be_checked()


def _is_green(page: Page, partition: str) -> bool:
    """Whether the dot beside a partition in the list is green, by its colour on the screen."""
    color = page.locator(f'[title="{partition}"]').first.evaluate(
        """found => {
            for (let e = found; e; e = e.parentElement)
                for (const dot of e.querySelectorAll('div'))
                    if (dot.style.borderRadius === '100%') return getComputedStyle(dot).backgroundColor;
        }"""
    )
    red, green, blue = map(int, re.findall(r"\d+", color)[:3])
    return green > 1.5 * max(red, blue)


def _see_freshness(page: Page, state: str, seconds: float) -> None:
    """Wait until the page tells this state; it takes a new one in when it is loaded again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return expect(_freshness(page)).to_contain_text(state, timeout=5 * SECOND)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            page.reload()


def _freshness(page: Page) -> Locator:
    return page.locator("div").filter(has_text=re.compile(r"^Freshness policy\s*\w")).last


def _check(page: Page, name: str) -> Locator:
    """A check in the list on the left, with its state."""
    return page.get_by_text(name, exact=True).first.locator("xpath=../../..")


def _land(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text("".join(json.dumps(r) + "\n" for r in rows))
    part.replace(file)


def _dead_letters(home: Path) -> dict[str, int]:
    done = subprocess.run(
        [*MEDALLION, "dead-letters", "list", "bronze.events", "--json", "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {r["violates"]: r["dead_letters"] for r in json.loads(done.stdout)}


def _picture(page: Page, name: str) -> None:
    if PICTURES:
        time.sleep(1)  # animations
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(PICTURES) / f"{name}.png")
