"""The page on formats and connectors is as the code is."""

from __future__ import annotations

import re
from typing import Any

import pytest

from medallion_platform.sources.formats.format import FORMATS
from medallion_platform.sources.source import CONNECTORS
from medallion_platform_tests.docs.options import PAGE, own, renewed, rows_of
from medallion_platform_tests.sources.reading import fields, frame_of


def test_the_tables_of_options_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    renew = "docs/sources.md is stale: python -m medallion_platform_tests.docs.options"
    assert page == renewed(page), renew


def test_every_option_says_what_it_means() -> None:
    kinds = [*own(FORMATS), *own(CONNECTORS)]
    assert {"csv", "parquet", "files", "kafka", "rest"} <= {made.kind for made in kinds}
    mute = [f"{made.__name__}.{row[0]}" for made in kinds for row in rows_of(made) if not row[3]]
    assert mute == []


def test_a_kind_of_ones_own_reads_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORMATS, "_known", {**FORMATS._known})
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    said: dict[str, Any] = {"__name__": "my_package.ltsv"}
    exec(compile(code, "sources.md", "exec", dont_inherit=True), said)
    ltsv = FORMATS.load("ltsv")
    assert ltsv is said["Ltsv"]
    frame = frame_of(b"station:vienna\twind:3.2\nno label\nstation:linz\twind:\n", ltsv())
    assert fields(frame).rows() == [("vienna", "3.2"), (None, None), ("linz", None)]
    assert frame["_malformed"].to_list() == [None, "a field without a label", None]
