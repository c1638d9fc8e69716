"""Masks: what is kept, that nothing else is, and that both engines keep the same."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.contract import Pii
from medallion_platform.contracts.masking import mask, mask_lean, mask_spark

from .engines import ROW, numbered, quick, to_polars

EMAILS = {
    "jane.doe@example.com": "jan***@example.com",
    "ab@example.com": "ab***@example.com",
    "a@example.com": "a***@example.com",
    "äöü😀x@münchen.de": "äöü***@münchen.de",
    "a***@example.com": "a***@example.com",
    "*bc@example.com": "***@example.com",
    "no address": "***",
    "": "***",
    "@example.com": "***",
    "a@b@example.com": "***",
    "a@": "***",
    "jane@example.com\n": "***",
    "jane@call me at 555": "***",
    "***": "***",
}
PHONES = {
    "+1 (555) 123-4567": "***4567",
    "5551234567": "***4567",
    "555 12 34 567": "***4567",
    "***4567": "***4567",
    "123456": "***",
    "1234": "***",
    "call 5551234567": "***",
    "٣٣٣٣٣٣٣٣": "***",
    "": "***",
    "***": "***",
    "12345678901234567": "***",
}
KNOWN: dict[Pii, dict[str, str]] = {"email": EMAILS, "phone": PHONES}
CASES = [(kind, clear, masked) for kind, known in KNOWN.items() for clear, masked in known.items()]


def lean_masks(values: list[str | None], pii: Pii) -> list[str | None]:
    frame = pl.DataFrame({"x": pl.Series(values, dtype=pl.String)})
    return frame.select(mask_lean(pl.col("x"), pii)).to_series().to_list()


@pytest.mark.parametrize(("pii", "clear", "masked"), CASES)
def test_a_known_mask(pii: Pii, clear: str, masked: str) -> None:
    assert mask(clear, pii) == masked
    assert lean_masks([clear, None], pii) == [masked, None]


alphabet = st.sampled_from("aZ9é@*.-_ \n+()/\x00😀٣") | st.characters(exclude_categories=["Cs"])
emails = st.builds("{}@{}".format, st.text(alphabet, max_size=6), st.text("ab.-9é ", max_size=6))
phones = st.text("0123456789", max_size=17) | st.text("0123456789 +()-./x*٣", max_size=24)
values = st.none() | st.text(alphabet, max_size=8) | emails | phones


@settings(max_examples=300, deadline=None)
@example("a***@b", "email")
@given(values, st.sampled_from(["email", "phone"]))
def test_a_mask_is_its_own_mask_and_tells_nothing_else(clear: str | None, pii: Pii) -> None:
    masked = mask(clear, pii)
    assert lean_masks([clear], pii) == [masked]
    assert mask(masked, pii) == masked
    if clear is None or masked is None:
        assert clear is masked
    elif pii == "phone":
        assert masked == "***" or (len(masked) == 7 and masked[:3] == "***")
    elif masked != "***":
        local, domain = clear.split("@")
        assert masked == f"{local[:3].split('*')[0]}***@{domain}"


@quick(3)
@given(st.lists(values, min_size=300, max_size=500), st.sampled_from(["email", "phone"]))
def test_spark_masks_alike(spark: SparkSession, found: list[str | None], pii: Pii) -> None:
    known = [clear for kind, clear, _ in CASES if kind == pii]
    frame = pl.DataFrame({"x": pl.Series([*found, *known], dtype=pl.String)})
    df = spark.createDataFrame(numbered(frame).to_arrow())
    masked = to_polars(df.select(ROW, mask_spark(F.col("x"), pii).alias("x"))).sort(ROW)
    assert masked["x"].to_list() == lean_masks(frame["x"].to_list(), pii)
