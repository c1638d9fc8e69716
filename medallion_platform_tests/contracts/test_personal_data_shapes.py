"""What looks like personal data, and what only has digits, dots or an @."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.personal_data_shapes import count, looks_personal, masked
from medallion_platform.pipeline.refresh.personal import masked_in_text

NB, NN, THIN, NBH, EN = "\u00a0", "\u202f", "\u2009", "\u2011", "\u2013"
"""Blanks that do not break a line, and hyphens, as typeset text and many CRMs have them."""
PERSONAL = [
    # e-mail addresses
    "/u?mail=x@example.org", "a@b.cd", "jörg.müller@beispiel.de schrieb", "планктон@пример.рф",
    '{"to":"a_b+c@mail.x-y.co.uk"}', "Ana <ana.lima@correio.example.pt>", "o'neil@example.ie", "li@例え.jp",
    "x@example.org.", "mailto:x@example.org?subject=a", "cc:anna@example.org: please call",
    "anna@example.org/phone", "first.last@sub.domain.example.museum",
    "https://host.example?to=x@example.org", "joe@example.org:hunter2", "12345@student.example.edu",
    "x@example.org2026-01-05",
    # international
    "+49 170 5550123", "+442079460958", "+33 1 23 45 67 89", "+33 1.23.45.67.89", "call +1 (212) 555-0104.",
    "tel:+49170555012", "+1-212-555-0104x22", "+49 (0)30 5550123", "+49(0)170/5550123", "(+49) 170 5550123",
    "+7 (495) 123-45-67", "+7 916 123 45 67", "+91 98765 43210", "+55 11 98765-4321", "+81 90-1234-5678",
    "+61 412 345 678", "+45 33 12 34 56", "+358 40 123 4567", "+352 26 12 34 56", "+48 601 234 567",
    "+34.612.345.678", "+380 (44) 123-45-67", "+49 170 5550123 2026-01-05", "phone=+491705550123",
    "0043 660 1234567", "0049-170-555-0123", "0049 (0)170 5550123", "00 44 20 7946 0958", "00353 1 234 5678",
    "001 212 555 0104", f"+43{NB}660{NB}1234567", f"+43{THIN}660{NBH}1234567",
    f"+33{NN}1{NN}23{NN}45{NN}67{NN}89", f"0043{NB}660{NB}1234567",
    # North American
    "(212) 555-0104", "(212)555-0104", "212-555-0104", "212.555.0104", "1-212-555-0104", "646 555 0104",
    f"212{NBH}555{EN}0104", "1 (416) 555-0104",
    # national, with a leading 0
    "030/5550123", "0170 5550123", "0170-5550123, or later", "020 7946 0958", "01 23 45 67 89",
    "01.23.45.67.89", "07700 900123", "044 668 18 00", "0664/123 45 67", "090-1234-5678", "03-1234-5678",
    "010-9876-5432", "054-765-4321", "0470 12 34 56", "0470/12.34.56", "02/123.45.67", "06-12345678",
    "020-1234567", "08-123 456 78", "0412 345 678", "(02) 9876 5432", "(030) 5550123", "(01632) 960123",
    "(11) 98765-4321", f"0170{NB}5550123", f"030{NBH}5550123", "0532 123 45 67", "0917-123-4567",
    "098765 43210",
]  # fmt: skip
OTHER = [
    # numbers
    "60417.35", "+60417.35", "-1234567.25", "1,234,567.89", "1.234.567,89", "1 234 567,89", "1e+12345678",
    "+4.9170555", "+49 12345.67", "+49 123 456,78", "+49.123.456,78", "+49 1234567.89", "sum=+123456789",
    "delta=+9876543210", "=+12345678", "+123456789", "+12345678", "+100 200 300", "+1 234 567 890", "+15%",
    "+0049170", "49.170555 16.33333", "0.000012345678", "(1234567890)", "(123) 456", "12345678",
    "1767600000", "00491705550123", "0170555012345", "4.2e+0170", "1/3", "0/0", "+48.8566+2.3522/",
    "+40.20361-75.00417/", "+4012.22-07500.25/", "48°51'24\"N 2°21'07\"E", "51.4778, -0.0015",
    # days and times
    "2031-04-17", "0001-01-01", "2031-04-17T10:11:12+02:00", "17.04.2031", "04/17/2031", "01/02/2031 03:04",
    "2026 01 05", "2026-01-05 10:11:12.123456", "12:34:56.789012", "+02:00", "+0200", "20260105T101112+0200",
    "+2026-01-05", "+002026-01-05", "05-01-2026", "01-02-2026 09:15", "05 Jan 2026 10:11:12 +0000",
    "2026-W02-1", "2026-005", "09:00-17:00", "0900-1730", "(01) 2026-01-05", "2024-2025", "(12) 2024-2025",
    "P3DT12H30M5S",
    # ids, orders, parts
    "evt-000123", "000123-004567", "AB-555-010-4477-X", "20260105-123-456-7890", "100-200-3000",
    "001-002-0003", "123-456-7890x9z", "112-233-4455", "200-112-3344", "302-1234567-1234567",
    "171-0000000-0000000", "00123-004567", "00234-004567", "0023 4567 8901", "010-2026-01-05",
    "PO 0042-00017", "SO-0170-5550123", "INV/2026/00123", "0281-002-504", "0 281 002 504",
    "6ES7 214-1AG40-0XB0", "1N4148-0170", "SKU#0170-5550123", "SN:0123456789", "0815-4711", "02139-4307",
    "10001-2345", "SW1A 2AA", "75008 PARIS", "078-05-1120", "12 345 678 901", "93/815/08152", "21/815/08150",
    "XX-0049-170-55501", "T-0412 345 678", "1Z999AA10123456784",
    # registered numbers
    "978-3-16-148410-0", "0-306-40615-2", "3-16-148410-0", "4006381333931", "0 12345 67890 5",
    "4111 1111 1111 1111", "4111-1111-1111-1111", "DE89 3704 0044 0532 0130 00",
    "GB29 NWBK 6016 1331 9268 19", "NL91ABNA0417164300", "123 456 7890 123",
    "FR76 3000 6000 0112 3456 7890 189", f"DE89{NB}3704{NB}0044{NB}0532{NB}0130{NB}00", "1234 5678 9012",
    "0123 4567 8901 2345", "2234-5678", "ISSN 0317-8471", "10.1000/182", "doi:10.1109/5.771073",
    "49-015420-323751-8",
    # addresses and names of machines
    "192.168.100.200", "10.0.0.1:8080", "010.001.002.003", "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "01-23-45-67-89-ab", "01:23:45:67:89:ab", "v1.23.456.7890", "1.2.3+20130313144700",
    "2.0.0-rc.1+build.123", "01.02.03.04.05.06", "12.1.105.212", "git@github.com:owner/repo.git",
    "git@host.example:repo.git", "deploy@host.example:/srv/www", "user@db.example.org:5432",
    "postgres://u:p@db.internal:5432/x", "https://user:s3cret@host.example.org/a?b=c",
    "amqp://guest@mq.example.org", "ssh://git@host.example.org:22/a.git", "user@host", "a@b",
    "root@localhost", "@scope/pkg", "pkg@1.2.3", "icon@2x.png", "@user.name", "x@y.1",
    # hashes, files
    "0f8fad5b-d9cb-469f-a165-70867728950e", "01234567-0123-0123-0123-012345678901",
    "d41d8cd98f00b204e9800998ecf8427e", "sha256:9f86d081884c7d65", "2026-01-05_0170-5550123.csv",
    "part-00000-0f8fad5b.c000.snappy.parquet", "img_0170-5550123", "IMG-20260105-WA0001.jpg",
    "100-200-3000x", "ABC+491705550123", "x+1", "C++20", "a+b@", "",
]  # fmt: skip


@pytest.mark.parametrize("text", PERSONAL)
def test_what_looks_personal(text: str) -> None:
    assert looks_personal(text)
    assert masked(text) != text


@pytest.mark.parametrize("text", OTHER)
def test_what_only_has_digits_or_an_at(text: str) -> None:
    assert not looks_personal(text)
    assert masked(text) == text


def test_both_engines_mask_alike(spark: SparkSession) -> None:
    """Bronze is counted by Python's patterns, what flows on is masked by Java's."""
    texts = [*PERSONAL, *OTHER, *(f"{a}; {b}" for a, b in zip(PERSONAL, OTHER, strict=False))]
    rows = spark.createDataFrame([(text,) for text in texts], "text string")
    found = {
        row.text: row.masked
        for row in rows.select("text", masked_in_text(F.col("text")).alias("masked")).collect()
    }
    assert {text: masked(text) for text in texts} == found


def test_what_a_mask_leaves() -> None:
    assert masked("call (+49) 170 5550123 or 0043 660 1234567.") == "call (*** or ***."
    assert masked("a+b@x.example.org, 212-555-0104 x 3") == "a+b***@x.example.org, *** x 3"
    assert masked("https://user:s3cret@host.example.org/?to=anna@example.org").endswith(
        "?to=ann***@example.org"
    )


@example([None, *PERSONAL, *OTHER])
@given(
    st.lists(
        st.none()
        | st.sampled_from([*PERSONAL, *OTHER])
        | st.text("0123456789+-. /()@a.x\u00a0\u2011", max_size=24)
    )
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
    assert count(pl.Series(["0170 5550123 (home)", "212-555-0104 or later", "call 0170 5550123"])) == 2
    assert looks_personal("(home) 0170 5550123"), "a bracket is a sign"
