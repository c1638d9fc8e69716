"""What looks like personal data, and what only has digits, dots or an @."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.contracts.shapes import count, looks_personal

PERSONAL = [
    "/u?mail=x@example.org",
    "jörg.müller@beispiel.de schrieb",
    "планктон@пример.рф",
    '{"to":"a_b+c@mail.x-y.co.uk"}',
    "+49 170 5550123",
    "+442079460958",
    "+33 1 23 45 67 89",
    "call +1 (555) 010-4477.",
    "tel:+49170555012",
    "(555) 010-4477",
    "555-010-4477",
    "555.010.4477",
    "1-555-010-4477",
    "030/5550123",
    "0170 5550123",
    "0170-5550123, or later",
    "020 7946 0958",
    "01 23 45 67 89",
]
OTHER = [
    "60417.35", "+60417.35", "-1234567.25", "1,234,567.89", "1e+12345678", "+4.9170555", "49.170555 16.33333",
    "2031-04-17", "0001-01-01", "2031-04-17T10:11:12+02:00", "17.04.2031", "04/17/2031", "01/02/2031 03:04",
    "2026 01 05", "2026-01-05 10:11:12.123456", "12:34:56.789012", "+02:00",
    "12345678", "1767600000", "evt-000123", "000123-004567", "AB-555-010-4477-X", "20260105-123-456-7890",
    "978-3-16-148410-0", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "123 456 7890 123",
    "192.168.100.200", "10.0.0.1:8080", "2001:0db8:85a3:0000:0000:8a2e:0370:7334", "v1.23.456.7890",
    "0f8fad5b-d9cb-469f-a165-70867728950e", "01234567-0123-0123-0123-012345678901",
    "2026-01-05_0170-5550123.csv", "part-00000-0f8fad5b.c000.snappy.parquet", "icon@2x.png", "pkg@1.2.3",
    "@scope/pkg", "user@host", "a@b", "100-200-3000x", "",
]  # fmt: skip


@pytest.mark.parametrize("text", PERSONAL)
def test_what_looks_personal(text: str) -> None:
    assert looks_personal(text)


@pytest.mark.parametrize("text", OTHER)
def test_what_only_has_digits_or_an_at(text: str) -> None:
    assert not looks_personal(text)


@given(
    st.lists(st.none() | st.sampled_from([*PERSONAL, *OTHER]) | st.text("0123456789+-. /()@a.x", max_size=24))
)
def test_a_column_is_counted_value_by_value(values: list[str | None]) -> None:
    series = pl.Series(values, dtype=pl.String)
    assert count(series) == sum(looks_personal(v) for v in values if v is not None)


TYPED = [st.dates(), st.datetimes(), st.uuids(), st.ip_addresses(), st.integers(), st.floats()]


@given(st.one_of(*TYPED, st.decimals(allow_nan=False, places=2)))
def test_values_of_other_types_never_look_personal(value: object) -> None:
    assert not looks_personal(str(value))


def test_a_long_text_takes_no_quadratic_time() -> None:
    assert not looks_personal("a" * 200_000 + "@")
    assert not looks_personal("1 " * 100_000)


def test_a_number_without_a_sign_is_seen_where_the_text_begins() -> None:
    assert count(pl.Series(["0170 5550123 (home)", "555-010-4477 or later", "call 0170 5550123"])) == 2
    assert looks_personal("(home) 0170 5550123"), "a bracket is a sign"
