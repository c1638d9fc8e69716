"""What counts as a change of a table's code, in projects outside of this repository."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from medallion_platform.pipeline import code

SILVER = '''\
"""The silver tables."""
import functools
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from functools import partial, wraps

import {rates}
from {helpers} import clean, Level, as_text

WINDOW = timedelta(days=7)
KINDS = {{"b", "a", "c"}}
SCALES = {{"cm": Decimal("0.01"), "fn": lambda x: x * 2}}
TEXT = as_text
half = partial(clean, by=2)


def doubled(function):
    @wraps(function)
    def inner(rows):
        return function(function(rows))
    return inner


def times(n):
    def around(function):
        def inner(rows):
            return function(rows) * n
        return inner
    return around


class Base:
    LIMIT = 10


@dataclass
class Rule(Base):
    name: str = "rule"

    def holds(self, row):
        """Whether it holds."""
        return row < self.LIMIT


RULES = [Rule("first"), Rule("second")]


@doubled
@times(3)
def transform(rows, at=WINDOW):
    """The transform."""
    # a comment
    from {helpers} import late
    local: int = 5
    text = {rates}.scaled(rows)
    return [half, KINDS, SCALES, RULES[0].holds(text), Level.HIGH, late(local), TEXT(rows)]
'''
HELPERS = """\
import functools
from enum import Enum


class Level(Enum):
    LOW = 1
    HIGH = 2


def clean(row, by=1):
    return deep(row) / by


def deep(row):
    return row.strip()


def late(row):
    return row + 1


def unused(row):
    return 0


def as_text(row):
    return str(row)
"""
RATES = """\
RATE = 1.5


def scaled(row):
    return row * RATE
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Tells the code of `transform` in a project as it is after some replacements of its texts."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = 0

    def told(
        changes: Mapping[str, str] | None = None,
        package: str = "weather.",
        names: tuple[str, str] = ("weather.helpers", "weather.rates"),
    ) -> str:
        nonlocal made
        made += 1
        root = tmp_path / str(made)
        helpers, rates = names
        files = {
            f"{package}silver": SILVER.format(helpers=helpers, rates=rates),
            helpers: HELPERS,
            rates: RATES,
        }
        for name, text in files.items():
            for old, new in (changes or {}).items():
                text = text.replace(old, new)
            path = root.joinpath(*name.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent != root:
                (path.parent / "__init__.py").touch()
            path.write_text(text)
        tops = {name.partition(".")[0] for name in files}
        for name in [m for m in sys.modules if m.partition(".")[0] in tops]:
            del sys.modules[name]
        code.forget_files()
        monkeypatch.syspath_prepend(str(root))
        importlib.invalidate_caches()
        return code.code_text(importlib.import_module(f"{package}silver").transform)

    yield told
    for name in [m for m in sys.modules if m.partition(".")[0] in ("weather", "silver", "helpers", "rates")]:
        del sys.modules[name]


COUNTS = {
    "its own text": {"local: int = 5": "local: int = 6"},
    "a helper": {"row.strip()": "row.lstrip()"},
    "a helper of a helper's default": {"def clean(row, by=1)": "def clean(row, by=3)"},
    "a constant of another module": {"RATE = 1.5": "RATE = 1.6"},
    "a function of a module": {"row * RATE": "row + RATE"},
    "what is imported within": {"row + 1": "row + 2"},
    "a partial": {"partial(clean, by=2)": "partial(clean, by=4)"},
    "a set": {'{{"b", "a", "c"}}'.format(): '{{"b", "a"}}'.format()},
    "a number in a mapping": {'"0.01"': '"0.001"'},
    "a lambda in a mapping": {"x * 2": "x * 3"},
    "a default": {"timedelta(days=7)": "timedelta(days=8)"},
    "a decorator": {"function(function(rows))": "function(rows)"},
    "a decorator's argument": {"@times(3)": "@times(4)"},
    "a method": {"row < self.LIMIT": "row <= self.LIMIT"},
    "a constant of a base class": {"LIMIT = 10": "LIMIT = 11"},
    "an object's state": {'Rule("first")': 'Rule("1st")'},
    "an enum's value": {"HIGH = 2": "HIGH = 3"},
    "a function by another name": {"return str(row)": "return repr(row)"},
}
DOES_NOT = {
    "a comment": {"# a comment": "# another one"},
    "a docstring": {'"""The transform."""': '"""Another."""', '"""Whether it holds."""': ""},
    "formatting": {"row * RATE": "(row\n        *   RATE)", "days=7": "days = 7"},
    "annotations": {"local: int = 5": "local: float = 5", "def deep(row):": "def deep(row: str) -> str:"},
    "what nobody uses": {"return 0": "return 1"},
    "the order of a set": {'{{"b", "a", "c"}}'.format(): '{{"c", "b", "a"}}'.format()},
    "lines above": {"import functools\n": "import functools\n\n\n\n"},
}
PLACES: list[tuple[str, tuple[str, str]]] = [
    ("weather.", ("weather.helpers", "weather.rates")),
    ("", ("helpers", "rates")),
    ("weather.deep.", ("weather.shared.helpers", "weather.shared.deep.rates")),
]


@pytest.mark.parametrize("place", PLACES, ids=["siblings", "single files", "far away"])
@pytest.mark.parametrize("change", COUNTS.values(), ids=COUNTS)
def test_what_decides_over_rows_counts(
    project: Callable[..., str], change: dict[str, str], place: tuple[str, tuple[str, str]]
) -> None:
    assert any(
        old in text for old in change for text in (SILVER.format(helpers="", rates=""), HELPERS, RATES)
    )
    assert project(None, *place) != project(change, *place)


@pytest.mark.parametrize("place", PLACES, ids=["siblings", "single files", "far away"])
@pytest.mark.parametrize("change", DOES_NOT.values(), ids=DOES_NOT)
def test_nothing_else_counts(
    project: Callable[..., str], change: dict[str, str], place: tuple[str, tuple[str, str]]
) -> None:
    before = project(None, *place)
    assert before == project(change, *place)
    assert " at 0x" not in before


DISPATCHED = {
    "def unused(row):": "@functools.singledispatch\ndef read(row):\n    return row\n\n\n"
    "@read.register\ndef _(row: int):\n    return row + 7\n\n\ndef unused(row):",
    "return row.strip()": "return read(row.strip())",
}
LOADED = {
    "RATE = 1.5": "RATE = 1.5\nDIGITS = 2",
    "import functools\nfrom enum": "import functools\nimport importlib\nfrom enum",
    "return str(row)": "return round(row, getattr(importlib.import_module('weather.rates'), 'DIG' + 'ITS'))",
}


@pytest.mark.parametrize(
    ("uses", "change"),
    [
        (DISPATCHED, {"row + 7": "row + 8"}),
        (DISPATCHED, {"def read(row):\n    return row\n": "def read(row):\n    return -row\n"}),
        (DISPATCHED, {"row: int": "row: float"}),
        (LOADED, {"DIGITS = 2": "DIGITS = 3"}),
        (
            LOADED | {"import importlib\n": "from importlib import import_module\n", "importlib.i": "i"},
            {"DIGITS = 2": "DIGITS = 3"},
        ),
        (LOADED | {"'weather.rates'": "'.rates', __package__"}, {"DIGITS = 2": "DIGITS = 3"}),
    ],
)
def test_what_is_registered_or_loaded_by_its_name_counts(
    project: Callable[..., str], uses: dict[str, str], change: dict[str, str]
) -> None:
    assert project(uses) == project(uses)
    assert project(uses) != project(uses | change)


def test_a_module_that_nobody_loads_does_not_count(project: Callable[..., str]) -> None:
    unused = {"RATE = 1.5": "RATE = 1.5\nDIGITS = 2"}
    assert project(unused) == project(unused | {"DIGITS = 2": "DIGITS = 3"})


def test_installed_libraries_do_not_count(project: Callable[..., str]) -> None:
    uses = {"return str(row)": "return pl.lit(row)", "import functools\n": "import functools, polars as pl\n"}
    told = project(uses)
    assert "Name(id='pl'); attr='lit'" in told
    assert len(told) < 2 * len(project())


def test_a_file_of_the_project_that_changed_after_it_was_loaded_is_known(
    project: Callable[..., str], tmp_path: Path
) -> None:
    project()
    files = [Path(file) for file in code.loaded_files() if Path(file).is_relative_to(tmp_path)]
    assert files
    before = code.loaded_files()
    assert code.changed_files(before) == []
    assert not any("site-packages" in file or file == code.__file__ for file in before)
    os.utime(files[0], ns=(1, 1))
    files[-1].unlink()
    assert code.changed_files(before) == sorted({str(files[0]), str(files[-1])})


def test_lambdas_of_one_line_are_told_apart() -> None:
    first, second = (lambda x: x + 1), (lambda x: x + 2)
    assert code.code_text(first) != code.code_text(second)
    outer = lambda x: lambda y: x + y  # noqa: E731
    assert code.code_text(outer) != code.code_text(outer(1))
    assert code.code_text(outer(1)) != code.code_text(outer(2)), "what is closed over counts"


def test_functions_that_call_each_other_end() -> None:
    assert code.code_text(ping) == code.code_text(ping)


def ping(n: int) -> int:
    return pong(n - 1) if n else 0


def pong(n: int) -> int:
    return ping(n - 1) if n else 1


def _pythons() -> list[Path]:
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    return sorted(p for v in ("3.11", "3.12", "3.13") for p in versions.glob(f"{v}.*/bin/python"))


def test_it_is_the_same_in_every_process_and_version_of_python(tmp_path: Path) -> None:
    (tmp_path / "silver.py").write_text(SILVER.format(helpers="helpers", rates="rates"))
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "rates.py").write_text(RATES)
    program = (
        "import sys, importlib.util as u; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1])\n"
        "spec = u.spec_from_file_location('code_', sys.argv[2]); m = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(m); import silver; print(m.code_text(silver.transform))"
    )
    told = {
        subprocess.run(
            [str(python), "-c", program, str(tmp_path), code.__file__],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for python, seed in zip([sys.executable, sys.executable, *_pythons()], "12345", strict=False)
    }  # fmt: skip
    assert len(told) == 1
    assert re.search(r"FunctionDef\(name='transform'", told.pop())
