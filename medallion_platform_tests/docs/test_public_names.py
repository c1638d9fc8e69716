"""The docs and the public docstrings send a reader to public names only."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

import medallion_platform
from medallion_platform import transforms
from medallion_platform_tests.docs.test_docs import PAGES

PLACES = {"medallion_platform": medallion_platform, "medallion_platform.transforms": transforms}
"""As docs/public-api.md names them."""
GROUPS = {"medallion_platform.formats", "medallion_platform.connectors"}
"""Entry points of packages with kinds of their own."""
IN_DAGSTER_YAML = {"medallion_platform.orchestration.launcher"}
"""Modules that an installation names there."""
MODULES = {
    part
    for found in pkgutil.walk_packages(medallion_platform.__path__, "medallion_platform.")
    for part in found.name.split(".")
} - {"table", "features", "transforms", "medallion_platform"}
"""Of which none is public, without those that share their name with what is."""


def docstrings() -> Iterator[tuple[str, str]]:
    """Of every public name, and of what of ours a public class offers."""
    for place in PLACES.values():
        for name in place.__all__:
            public = getattr(place, name)
            yield name, inspect.getdoc(public) or ""
            for member, found in vars(public).items() if inspect.isclass(public) else ():
                if not member.startswith("_"):
                    yield f"{name}.{member}", inspect.getdoc(found) or ""


def test_a_dotted_name_is_public_and_there() -> None:
    texts = [*docstrings(), *((page.name, page.read_text()) for page in PAGES)]
    dotted = re.compile(r"\bmedallion_platform(?:\.\w+)+")
    named = {(where, found) for where, text in texts for found in dotted.findall(text)}
    assert len(named) > 3
    for where, found in {(where, name) for where, name in named if name not in GROUPS | IN_DAGSTER_YAML}:
        place, _, name = found.rpartition(".")
        assert found in PLACES or (place in PLACES and name in PLACES[place].__all__), f"{where}: {found}"


def test_no_public_docstring_speaks_of_a_module_of_the_inside() -> None:
    spoken = [
        (where, found)
        for where, text in docstrings()
        for found in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`|\b[Ss]ee `([a-z_]+)`", text)
        if {*".".join(found).split(".")} & MODULES
    ]
    assert spoken == []


@pytest.mark.parametrize("text", ["See `contracts.sql` for", "(see `masking`)", "as `refresh.reconcile`"])
def test_what_is_looked_for_is_found(text: str) -> None:
    (found,) = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`|\b[Ss]ee `([a-z_]+)`", text)
    assert {*".".join(found).split(".")} & MODULES
