"""The public API: small, lazy, typed, documented by examples that run."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import medallion_platform
from medallion_platform import transforms

INIT = Path(medallion_platform.__file__)


def test_what_type_checkers_see_is_what_is_there() -> None:
    seen = {
        alias.name: node.module
        for block in ast.parse(INIT.read_text()).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(medallion_platform.__all__) == sorted(seen)
    homes = medallion_platform._HOMES
    assert seen == {n: f"medallion_platform.{home}" for home, names in homes.items() for n in names.split()}
    for name in medallion_platform.__all__:
        assert getattr(medallion_platform, name) is not None
    assert set(medallion_platform.__all__) <= set(dir(medallion_platform))
    with pytest.raises(AttributeError, match="has no attribute 'Tabel'"):
        _ = medallion_platform.Tabel  # type: ignore[attr-defined]


def test_importing_it_imports_nothing_else() -> None:
    program = (
        "import sys; before = {*sys.modules}; import medallion_platform; print(*{*sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    tops = {module.partition(".")[0] for module in done.stdout.split()}
    assert tops - {*sys.stdlib_module_names} == {"medallion_platform"}
    assert {m for m in done.stdout.split() if m.startswith("medallion_platform.")} == set()


def test_every_public_name_says_what_it_is() -> None:
    undocumented = [
        name
        for place in (medallion_platform, transforms)
        for name in place.__all__
        if callable(getattr(place, name)) and not inspect.getdoc(getattr(place, name))
    ]
    assert undocumented == []


def test_the_examples_of_the_public_api_do_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MEDALLION_HOME", "MEDALLION_LAKE"):
        monkeypatch.delenv(variable, raising=False)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    shown: set[str] = set()
    for name in ["", *medallion_platform.__all__]:
        found = getattr(medallion_platform, name) if name else medallion_platform
        for example in finder.find(found, name or "medallion_platform", globs={}):
            if example.examples:
                shown.add(name)
            runner.run(example)
    assert runner.summarize().failed == 0
    assert shown == {"", *medallion_platform.__all__}
