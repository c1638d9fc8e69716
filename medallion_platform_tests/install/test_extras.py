"""The extras as pyproject.toml, the code and the README say them; what lacks one is told in one sentence."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from medallion_platform.extras import EXTRAS, MissingExtra, require_extra
from medallion_platform_tests.command import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DECLARED = {
    extra: {re.split(r"[\[<>=]", wanted)[0] for wanted in packages}
    for extra, packages in PROJECT["optional-dependencies"].items()
}


def test_pyproject_and_the_code_know_the_same_extras() -> None:
    by = {module: {name.lower() for name in names} for module, names in packages_distributions().items()}
    assert DECLARED.keys() == {*EXTRAS, "all"}
    for extra, modules in EXTRAS.items():
        assert all(by[module] & DECLARED[extra] for module in modules), extra
    assert PROJECT["optional-dependencies"]["all"] == [f"medallion-platform[{','.join(EXTRAS)}]"]


def test_nothing_that_an_extra_brings_is_in_a_plain_install() -> None:
    plain = {re.split(r"[\[<>=]", wanted)[0] for wanted in PROJECT["dependencies"]}
    assert plain & set().union(*DECLARED.values()) == set()


def test_the_readme_has_them_all() -> None:
    told = re.findall(r"^\| `\[(\w+)\]` \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(DECLARED)


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.failure("permanent")
def test_who_lacks_one_is_told_which(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra(extra, "this")
    for module in EXTRAS[extra]:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            with pytest.raises(MissingExtra) as told:
                require_extra(extra, "this")
        install = f'pip install "medallion-platform[{extra}]"'
        assert str(told.value) == f"this needs the extra [{extra}], which is not installed; {install}"
