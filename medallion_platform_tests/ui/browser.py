"""A real browser, and what a person clicks on Dagster's pages, wherever their web server is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECOND = 1000
"""In Playwright's milliseconds."""


@contextmanager
def chromium() -> Generator[Browser]:
    """A browser; who asks for one is skipped where there is none."""
    if not CHROMIUM:
        assert not os.environ.get("CI"), "CI must test the UI, and there is no chromium"
        pytest.skip("the UI is not tested: there is no chromium (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        # Root, as in a container, has no sandbox; the pages are our own.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        expect.set_options(timeout=30 * SECOND)  # on a machine that others use too
        yield started
        started.close()


def open_page(browser: Browser, address: str) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(30 * SECOND)
    page.goto(address)
    return page


def open_table(page: Page, key: str) -> None:
    """From anywhere to the page of a table, by way of the catalog, which draws what there is room for."""
    page.get_by_role("link", name="Catalog").click()
    # Long names are cut in the middle; the link is told by where it leads.
    page.locator(f'a[href="/assets/{key}"]').first.click()
    expect(page.get_by_role("tab", name="Checks")).to_be_visible()


def materialize(page: Page) -> str:
    """From the page of a table without partitions to that of a run that makes it; returns the run's id."""
    page.get_by_role("button", name="Materialize").first.click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    page.get_by_role("link", name="View", exact=True).click()
    page.wait_for_url("**/runs/*")
    return page.url.rpartition("/")[2]


def backfill(page: Page, days: Sequence[str]) -> str:
    """Begin a backfill of successive days on the page of their table; returns its id."""
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Show all partitions").click()
    type_text(page, dialog.locator("input[type=text]").first, f"[{days[0]}...{days[-1]}]")
    expect(dialog.get_by_text(f"{len(days)} partitions", exact=True)).to_be_visible()
    dialog.get_by_role("button", name="Launch backfill").click()
    told = page.get_by_text(re.compile(r"Created backfill \w+"))
    return told.inner_text().split()[-1]


def type_text(page: Page, field: Locator, text: str) -> None:
    field.click()
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
    page.keyboard.press("Enter")
