"""One table from a failure until it is healed, as a person sees it: its run, its page, the commands."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from medallion_platform.installation.project import MODULE
from medallion_platform_tests.command import MEDALLION
from medallion_platform_tests.ui import fragile
from medallion_platform_tests.ui.browser import SECOND, chromium, open_page, open_table
from medallion_platform_tests.ui.server import serving
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.ui, pytest.mark.timeout(600)]

TABLE = "gold.fragile"
CHECK = "refresh_succeeds"
SECONDS = 200
"""The longest wait."""


class Shop:
    """A home in which the table fails or does not, and `medallion dev` at it."""

    def __init__(self, home: Path, address: str) -> None:
        self.home, self.address = home, address

    def land(self, name: str, day: str) -> None:
        """A file with a sale of a day."""
        file = self.home / "landing" / "shop" / f"{name}.csv"
        part = file.with_suffix(".part")
        part.write_text(f"till,sold_at,euros\n{name},{day}T08:00:00Z,10\n")
        part.rename(file)

    def fail_by(self, error: str) -> None:
        """Let the transform die of an error from now on."""
        (self.home / fragile.FAULT).write_text(error)

    def mend(self) -> None:
        """Remove the reason."""
        (self.home / fragile.FAULT).unlink()

    def medallion(self, *arguments: str) -> str:
        """What a command says."""
        command = [*MEDALLION, *arguments, "--home", str(self.home)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state_of(self, kind: str) -> dict[str, str] | None:
        """What `incidents list` says of the table's incident of a class."""
        listed = json.loads(self.medallion("incidents", "list", "--json"))
        return next((row for row in listed if (row["table"], row["class"]) == (TABLE, kind)), None)

    def wait_for(self, kind: str, *states: str) -> dict[str, str]:
        """The incident of a class once it is in one of these states."""

        def found() -> dict[str, str] | None:
            row = self.state_of(kind)
            return row if row and row["state"] in states else None

        return until(found, SECONDS, lambda: f"{self.state_of(kind)}\n{self.log[-3000:]}", pause=1)

    @property
    def log(self) -> str:
        """What the terminal of `medallion dev` shows."""
        return (self.home / "dev.log").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def shop(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv(MODULE, fragile.__name__)
    monkeypatch.setenv("MEDALLION_SETTLE_SECONDS", "0")
    (tmp_path / "landing" / "shop").mkdir(parents=True)
    command = [*MEDALLION, "dev", "--home", str(tmp_path), "--port"]
    with serving(lambda port: [*command, str(port)], tmp_path / "dev.log", {}) as answering:
        yield Shop(tmp_path, answering())


def see_check(page: Page, state: str, *told: str) -> None:
    """Wait until the table's page shows the state of its check, and what it tells."""
    expect(page.get_by_text(CHECK, exact=True).first.locator("xpath=../../..")).to_contain_text(
        state, timeout=SECONDS * SECOND
    )
    for text in told:
        expect(page.locator("body")).to_contain_text(re.compile(text), timeout=60 * SECOND)


def test_a_failure_is_followed_from_the_failed_run_until_it_is_healed(browser: Browser, shop: Shop) -> None:
    # What passes is tried again by itself.
    shop.fail_by("MemoryError")
    shop.land("first", "2026-02-02")
    shop.wait_for("oom", "waiting", "trying")
    shop.mend()
    healed = shop.wait_for("oom", "healed")
    assert int(healed["tries"]) >= 1

    # What does not is left alone until somebody has removed the reason and says so.
    shop.fail_by("NotImplementedError")
    shop.land("second", "2026-02-03")
    bug = shop.wait_for("permanent", "breaker open")
    with closing(open_page(browser, f"{shop.address}/runs/{bug['run']}")) as page:
        page.get_by_role("button", name="View tags and config").click()
        tags = page.get_by_role("dialog")
        for tag, value in (("class", "permanent"), ("incident", bug["incident"]), ("next_try", r"\d{4}-")):
            expect(tags).to_contain_text(re.compile(rf"medallion/{tag}\W*{value}"))
        page.keyboard.press("Escape")

        open_table(page, "gold_fragile")
        page.get_by_role("tab", name="Checks").click()
        page.get_by_text(CHECK, exact=True).first.click()
        see_check(
            page,
            "Failed",
            r"NotImplementedError: the test wants it so",
            r"class\s*permanent",
            rf"incident\s*{bug['incident']}",
            rf"tried again at {bug['next_try'][:10]}.*`?medallion incidents resume {TABLE}",
        )
        shop.mend()
        shop.medallion("incidents", "resume", TABLE)
        see_check(page, "Succeeded")
    assert shop.wait_for("permanent", "person")
    assert shop.state_of("oom") == healed
