"""One table from a failure until it is healed, as a person sees it: its run, its page, the commands."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from medallion_platform.errors import Kind
from medallion_platform.healing.incident import Incident, known_from, state_of
from medallion_platform.installation.project import MODULE
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.command import MEDALLION
from medallion_platform_tests.ui import fragile
from medallion_platform_tests.ui.browser import SECOND, chromium, open_page, open_table
from medallion_platform_tests.ui.server import serving
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.ui, pytest.mark.timeout(600)]

TABLE = "gold.fragile"
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

    def incident(self, kind: Kind) -> tuple[Incident | None, str]:
        """The table's incident of a class, and its state."""
        known = known_from(incidents.read(Lake(str(self.home / "lake"))))
        found = [i for i in known.incidents.values() if (i.table, i.kind) == (TABLE, kind)]
        return (found[-1], state_of(found[-1], known)[0]) if found else (None, "")

    def wait_for(self, kind: Kind, *states: str) -> Incident:
        """The incident of a class once it is in one of these states."""

        def found() -> Incident | None:
            incident, state = self.incident(kind)
            return incident if state in states else None

        seen = until(found, SECONDS, lambda: f"{self.incident(kind)}\n{self.log[-3000:]}", pause=1)
        assert seen
        return seen

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


def see_check(page: Page, check: str, state: str, *told: str) -> None:
    """Wait until the page of an asset shows the state of its check, and what it tells."""
    page.get_by_role("tab", name="Checks").click()
    page.get_by_text(check, exact=True).first.click()
    expect(page.get_by_text(check, exact=True).first.locator("xpath=../../..")).to_contain_text(
        state, timeout=SECONDS * SECOND
    )
    for text in told:
        expect(page.locator("body")).to_contain_text(re.compile(text), timeout=60 * SECOND)


def see_tags(page: Page, address: str, run_id: str, **tags: str) -> None:
    """What the tags of a run say."""
    page.goto(f"{address}/runs/{run_id}")
    page.get_by_role("button", name="View tags and config").click()
    for tag, value in tags.items():
        expect(page.get_by_role("dialog")).to_contain_text(re.compile(rf"medallion/{tag}\W*{value}"))
    page.keyboard.press("Escape")


def see_incidents(page: Page, line: str) -> None:
    """The asset of incidents is fresh, and its newest event has a line of the table, and a picture."""
    page.get_by_role("tab", name="Overview").click()
    page.reload()  # it takes a new badge in then
    expect(page.locator("body")).to_contain_text(re.compile(r"Freshness policy\s*Passing"))
    with shown_markdown(page, "open_incidents") as told:
        expect(told).to_contain_text(re.compile(line))
    with shown_markdown(page, "by_day") as told:
        picture = told.locator("img[src^='data:image/svg+xml']")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.naturalWidth") > 0


@contextmanager
def shown_markdown(page: Page, name: str) -> Generator[Locator]:
    """The text of an entry of the newest event."""
    row = page.locator("tr").filter(has=page.get_by_text(name, exact=True)).first
    row.get_by_text("[Show Markdown]").click()
    dialog = page.get_by_role("dialog")
    yield dialog
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_a_failure_is_followed_from_the_failed_run_until_it_is_healed(browser: Browser, shop: Shop) -> None:
    # What passes is tried again by itself.
    shop.fail_by("MemoryError")
    shop.land("first", "2026-02-02")
    shop.wait_for(Kind.OOM, "waiting", "trying")
    shop.mend()
    healed = shop.wait_for(Kind.OOM, "healed")
    assert healed.tries

    # What does not is left alone until somebody has removed the reason and says so.
    shop.fail_by("NotImplementedError")
    shop.land("second", "2026-02-03")
    bug = shop.wait_for(Kind.PERMANENT, "breaker open")
    with closing(open_page(browser, shop.address)) as page:
        next_try = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ \(breaker open\)"
        see_tags(
            page, shop.address, bug.run_id, **{"class": "permanent", "incident": bug.id, "next_try": next_try}
        )
        open_table(page, "gold_fragile")
        why = [
            r"NotImplementedError: the test wants it so",
            r"class\s*permanent",
            rf"incident\s*{bug.id}",
            rf"is tried again at .*`medallion incidents resume {TABLE}`",
        ]
        see_check(page, "refresh_succeeds", "Failed", *why)
        page.get_by_role("link", name="incidents", exact=True).first.click()
        see_check(
            page, "no_table_is_left_out", "Failed", rf"{TABLE}\s*breaker open: failed permanent.*{bug.id}"
        )
        see_incidents(page, rf"{TABLE}\s*permanent\s*breaker open")

        shop.mend()
        shop.medallion("incidents", "resume", TABLE)
        assert shop.wait_for(Kind.PERMANENT, "person")
        see_check(page, "no_table_is_left_out", "Succeeded")
        open_table(page, "gold_fragile")
        see_check(page, "refresh_succeeds", "Succeeded")
    assert shop.incident(Kind.OOM)[0] == healed
