"""Clicks on the pages of an installation: each begins a run in a pod whose size was decided for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Page, expect

from medallion_platform_tests.cluster.conftest import Arrival
from medallion_platform_tests.cluster.graphql import Dagster, Run
from medallion_platform_tests.cluster.installation import Installation
from medallion_platform_tests.cluster.test_install import DAYS, phases
from medallion_platform_tests.ui.browser import SECOND, backfill, chromium, materialize, open_page, open_table
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, arrival: Arrival, dagster: Dagster) -> Iterator[Page]:
    """The first page, as soon as nothing else is at work."""
    dagster.quiet()
    with closing(open_page(browser, dagster.url)) as opened:
        yield opened


def test_materialize_begins_a_run_in_a_pod(installed: Installation, dagster: Dagster, page: Page) -> None:
    open_table(page, "gold_department_metrics")
    begun = materialize(page)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=180 * SECOND)
    run = dagster.succeeded(begun)
    _see_decided_pod(installed, run, "gold.department_metrics")

    page.get_by_role("button", name="View tags and config").click()
    shown = page.get_by_role("dialog")
    expect(shown).to_contain_text("medallion/shape_reason")
    expect(shown).to_contain_text(run.tags["medallion/shape_reason"])


def test_a_backfill_of_three_days_is_one_run_in_a_pod(
    installed: Installation, dagster: Dagster, page: Page
) -> None:
    open_table(page, "gold_daily_user_metrics")
    page.get_by_role("tab", name="Partitions").click()
    made_by = backfill(page, DAYS)

    def ended() -> list[Run]:
        runs = dagster.runs(dagster__backfill=made_by)
        return runs if all(run.ended for run in runs) else []

    (run,) = until(ended, 300, installed.says)
    assert run.status == "SUCCESS", dagster.messages(run.id)
    ends = [run.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    assert ends == [DAYS[0], DAYS[-1]]
    _see_decided_pod(installed, run, "gold.daily_user_metrics")


def _see_decided_pod(installed: Installation, run: Run, table: str) -> None:
    """The pod of a run is of the size that its tags say, and they say why."""
    until(lambda: phases(installed, run.id) == ["Succeeded"], 60, installed.says)
    (pod,) = installed.admin.pods(dagster__run_id=run.id)
    (container,) = pod["spec"]["containers"]
    gibibytes = container["resources"]["limits"]["memory"].removesuffix("Gi")
    assert run.tags["medallion/shape"] == f"threads in a pod of {gibibytes} GiB"
    assert run.tags["medallion/shape_reason"].startswith(f"{table}: ")
