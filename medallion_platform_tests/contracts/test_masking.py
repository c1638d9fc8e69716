"""Masks: what is kept, that nothing else is, and that both engines keep the same."""

from __future__ import annotations

import hashlib
import hmac
import re

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.contract import Pii
from medallion_platform.contracts.masking import (
    KEY_VARIABLE,
    NoTokenKey,
    digest_polars,
    digest_spark,
    key_fingerprint,
    mask,
    mask_for_display,
    mask_polars,
    mask_spark,
    token_key,
)
from medallion_platform.pipeline.refresh.personal import key_pads

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
NAMES = {
    "Jane Doe": "J. D.",
    "Jean-Pierre  O'Neil": "J.-P.  O.",
    "von der Leyen, Ursula": "v. d. L. U.",
    "J. D.": "J. D.",
    "Ödön\tÅse": "Ö.\tÅ.",
    "Mary\u00a0Ann": "M.\u00a0A.",
    "(Bob)": "(B.",
    "山田 太郎": "山. 太.",
    "jane@example.com": "***",
    "Jane 5551234567": "***",
    "٣٣": "***",
    "...": "***",
    "": "***",
    "***": "***",
}
KNOWN: dict[Pii, dict[str, str]] = {"email": EMAILS, "phone": PHONES, "name": NAMES}
CASES = [(kind, clear, masked) for kind, known in KNOWN.items() for clear, masked in known.items()]


def polars_masks(values: list[str | None], pii: Pii) -> list[str | None]:
    frame = pl.DataFrame({"x": pl.Series(values, dtype=pl.String)})
    return frame.select(mask_polars(pl.col("x"), pii)).to_series().to_list()


@pytest.mark.parametrize(("pii", "clear", "masked"), CASES)
def test_a_known_mask(pii: Pii, clear: str, masked: str) -> None:
    assert mask(clear, pii) == masked
    assert polars_masks([clear, None], pii) == [masked, None]


# Python knows fewer letters than the engines do: those of Unicode 14, where Java and Rust have 16.
alphabet = st.sampled_from("aZ9é@*.-_ \n+()/\x00😀٣") | st.characters(exclude_categories=["Cs", "Cn"])
emails = st.builds("{}@{}".format, st.text(alphabet, max_size=6), st.text("ab.-9é ", max_size=6))
phones = st.text("0123456789", max_size=17) | st.text("0123456789 +()-./x*٣", max_size=24)
values = st.none() | st.text(alphabet, max_size=8) | emails | phones


@settings(max_examples=300, deadline=None)
@example("a***@b", "email")
@given(values, st.sampled_from(["email", "phone", "name"]))
def test_a_mask_is_its_own_mask_and_tells_nothing_else(clear: str | None, pii: Pii) -> None:
    masked = mask(clear, pii)
    assert polars_masks([clear], pii) == [masked]
    assert mask(masked, pii) == masked
    if clear is None or masked is None:
        assert clear is masked
    elif pii == "phone":
        assert masked == "***" or (len(masked) == 7 and masked[:3] == "***")
    elif pii == "name":
        words = re.split(r"[^\S\x0b\x0c\x1c-\x1f\x85]|-", clear)
        assert masked == "***" or sum(map(str.isalpha, masked)) <= len(words)
    elif masked != "***":
        local, domain = clear.split("@")
        assert masked == f"{local[:3].split('*')[0]}***@{domain}"


@quick(3)
@given(st.lists(values, min_size=300, max_size=500), st.sampled_from(["email", "phone", "name"]))
def test_spark_masks_alike(spark: SparkSession, found: list[str | None], pii: Pii) -> None:
    known = [clear for kind, clear, _ in CASES if kind == pii]
    frame = pl.DataFrame({"x": pl.Series([*found, *known], dtype=pl.String)})
    df = spark.createDataFrame(numbered(frame).to_arrow())
    masked = to_polars(df.select(ROW, mask_spark(F.col("x"), pii).alias("x"))).sort(ROW)
    assert masked["x"].to_list() == polars_masks(frame["x"].to_list(), pii)


# hashes and tokens --------------------------------------------------------------------------------

keys = st.binary(min_size=1, max_size=150)


def digested(text: str | None, key: bytes | None) -> str | None:
    """What the standard library says."""
    if text is None:
        return None
    said = hmac.new(key, text.encode(), "sha256") if key is not None else hashlib.sha256(text.encode())
    return said.hexdigest()


@quick(4)
@example([None, "", "x"], b"k" * 64)
@example([None, "ä", "y" * 200], b"k" * 65)
@given(st.lists(values, min_size=100, max_size=200), st.none() | keys)
def test_tokens_and_hashes_are_those_of_the_standard(
    spark: SparkSession, found: list[str | None], key: bytes | None
) -> None:
    frame = pl.DataFrame({"x": pl.Series(found, dtype=pl.String)})
    expected = [digested(text, key) for text in found]
    assert frame.select(digest_polars(pl.col("x"), key))["x"].to_list() == expected
    df = spark.createDataFrame(numbered(frame).to_arrow())
    held = key_pads(spark, key) if key is not None else None
    told = to_polars(df.select(ROW, digest_spark(F.col("x"), held).alias("x"))).sort(ROW)
    assert told["x"].to_list() == expected
    again = to_polars(
        spark.createDataFrame(told.to_arrow()).select(ROW, digest_spark(F.col("x"), held).alias("x"))
    )
    assert again.sort(ROW)["x"].to_list() == expected, "a token stays as it is"


def test_no_plan_tells_the_key(spark: SparkSession) -> None:
    key = b"a secret key of 32 characters..."
    rows = spark.range(3).selectExpr("cast(id as string) as x")
    tokens = rows.select(digest_spark(F.col("x"), key_pads(spark, key)).alias("x"))
    tokens.collect()
    jvm_frame = tokens._jdf  # pyright: ignore[reportPrivateUsage]
    ran = jvm_frame.queryExecution()
    shown = [
        ran.toString(),
        ran.executedPlan().treeString(),
        ran.executedPlan().toJSON(),
        ran.analyzed().toJSON(),
    ]
    shown += [ran.optimizedPlan().toJSON(), ran.simpleString(), str(tokens.schema), repr(tokens)]
    assert "scalar-subquery" in shown[0]
    secrets = [
        key,
        bytes(b ^ 0x36 for b in key.ljust(64, b"\0")),
        bytes(b ^ 0x5C for b in key.ljust(64, b"\0")),
    ]
    for text in shown:
        bare = text.upper().replace(" ", "").replace(",", "")
        for secret in secrets:
            assert secret.hex().upper()[:24] not in bare
            assert secret.decode("latin-1")[:12].upper() not in text.upper()
            assert "".join(map(str, secret))[:24] not in bare


def test_what_is_shown_of_a_column_of_tokens() -> None:
    token = digested("x", b"k")
    frame = pl.DataFrame({"x": ["jane.doe@example.com", token, None]})
    assert frame.select(mask_for_display(pl.col("x"), "email", "tokenize"))["x"].to_list() == [
        "jan***@example.com",
        token,
        None,
    ]
    assert frame.select(mask_for_display(pl.col("x"), "email", "mask"))["x"].to_list() == [
        "jan***@example.com",
        "***",
        None,
    ]


@pytest.mark.failure("auth")
def test_a_key_is_asked_for_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(NoTokenKey, match=r"^MEDALLION_TOKEN_KEY is not set; set it to a secret"):
        token_key()
    assert key_fingerprint() == ""
    monkeypatch.setenv(KEY_VARIABLE, "too short")
    with pytest.raises(NoTokenKey, match="is too short") as error:
        token_key()
    assert "too short;" in str(error.value)
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
    one = key_fingerprint()
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdeF")
    assert len({one, key_fingerprint(), ""}) == 3
