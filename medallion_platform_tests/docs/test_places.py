"""What the docs send a reader to is there: paths, pages, headings, commands. The drawing is the code's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from medallion_platform.cli import app
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.docs import packages
from medallion_platform_tests.docs.test_docs import PAGES

TESTS = REPOSITORY / "medallion_platform_tests"
ROOTS = (
    REPOSITORY / "medallion_platform",
    TESTS,
    REPOSITORY,
    REPOSITORY / "medallion_platform" / "new_project" / "template",
    REPOSITORY / "medallion_sample" / "clickstream",
)
"""What a path in the docs may begin at."""
OF_THE_CODE = {"architecture.md", "CONTRIBUTING.md"}
"""Pages that name folders of the repository; on the others a folder is one of the reader's."""


PATH = re.compile(r"`([a-z][\w./-]*(?:\.(?:py|java|toml)|(?<=\w)/))`", re.IGNORECASE)


def missing(page: str, *, folders: bool) -> list[str]:
    """Paths in backticks that lead nowhere; they may begin in a folder that the row or paragraph names."""
    lost: list[str] = []
    for part in re.split(r"\n(?=\|)|\n\n", prose(page)):
        named: list[Path] = []
        for path in PATH.findall(part):
            tried = [root / name for root in (*named, *ROOTS) for name in (path, f"{path}.in")]
            found = next((file for file in tried if file.exists()), None)
            if found:
                named.append(found if found.is_dir() else found.parent)
            elif folders or not path.endswith("/"):
                lost.append(path)
    return lost


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_leads_somewhere(page: Path) -> None:
    assert missing(page.read_text(), folders=page.name in OF_THE_CODE) == []


def test_a_path_that_leads_nowhere_is_found() -> None:
    page = "`pipeline/refresh/`, `plan.py`, `nowhere.py`\n\n| `lakehouse/` |\n| `lakehouses/`, `lake.py` |"
    assert missing(page, folders=True) == ["nowhere.py", "lakehouses/", "lake.py"]
    assert missing(page, folders=False) == ["nowhere.py", "lake.py"]


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text())
    for path, heading in links:
        leads = (page.parent / path).resolve() if path else page
        assert leads.exists(), f"{page.name}: {path}"
        assert not heading or heading in anchors(leads), f"{page.name}: {path}#{heading}"


def commands(page: str) -> Iterator[list[str]]:
    """What a page says to type after `medallion`, in a block of code or between backticks."""
    typed = re.findall(r"^(?:\./)?medallion (.+)$", page, re.MULTILINE)
    typed += re.findall(r"`(?:\./)?medallion ([^`]+)`", page)
    for words in typed:
        yield shlex.split(words.replace("...", ""), comments=True)


VALUES = {"json", "info"}
"""Of options that stand before the name of a command."""


def unknown(words: list[str]) -> list[str]:
    """The words of a command that it does not know: names of commands, and options."""
    command: Any = typer.main.get_command(app)
    lost: list[str] = []
    for word in words:
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        within = getattr(command, "commands", {})
        if word.startswith("-"):
            passes_on = command.context_settings.get("ignore_unknown_options", False)
            lost += [word] if word not in options and not passes_on else []
        elif word in within:
            command = within[word]
        elif within and word not in VALUES:
            lost.append(word)
    return lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_there(page: Path) -> None:
    assert [words for words in commands(page.read_text()) if unknown(words)] == []


def test_a_command_that_is_not_there_is_found() -> None:
    told = "`medallion letters`, `./medallion dead-letters lists`\n./medallion run --fast\nmedallion status"
    assert [unknown(words) for words in commands(told)] == [["--fast"], [], ["letters"], ["lists"]]


def test_the_drawing_of_the_packages_is_that_of_the_code() -> None:
    renew = "docs/pictures/packages.svg is stale: python -m medallion_platform_tests.docs.packages"
    assert packages.PICTURE.read_text() == packages.drawing(), renew


def test_the_page_tells_of_each_package_in_the_order_of_the_drawing() -> None:
    told = list(packages.questions(packages.PAGE.read_text()))
    assert sorted(told) == sorted(name for layer in packages.layers() for name in layer)
    drawn = [set(row) - {packages.PROJECT} for row in packages.rows_of_boxes()]
    for row in drawn:
        assert set(told[: len(row)]) == row
        told = told[len(row) :]


def test_arrows_that_follow_from_others_are_left_out() -> None:
    assert packages.needed({("a", "b"), ("b", "c"), ("a", "c"), ("a", "d"), ("d", "c")}) == {
        ("a", "b"),
        ("b", "c"),
        ("a", "d"),
        ("d", "c"),
    }
