"""What is kept of an error: enough to classify it anywhere, and nothing that was written for people."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.errors import (
    ErrorChain,
    Kind,
    Link,
    MedallionError,
    chain_of,
    classify,
    classify_chain,
)

SECRETS = ("hunter2 the password", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9/+c2ln", "ann@example.org")
"""A password, a token and a row's value."""

WORDS = st.text("abcdefXYZ019_.$-", min_size=1, max_size=30)
LINKS = st.builds(
    Link,
    names=st.frozensets(WORDS, max_size=5),
    errno=st.none() | st.integers(0, 200),
    status=st.none() | st.integers(100, 599),
    code=st.just("") | WORDS,
    sqlstate=st.just("") | WORDS,
    retriable=st.booleans(),
)
CHAINS = st.builds(
    ErrorChain,
    said=st.sampled_from(Kind),
    table=st.just("") | WORDS,
    own=st.lists(WORDS, max_size=3).map(tuple),
    links=st.lists(LINKS, max_size=4).map(tuple),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(("said", "table", "own", "links", "names", "code", "x")), inner)
    ),
    max_leaves=12,
)


def there_and_back(chain: ErrorChain) -> ErrorChain:
    return ErrorChain.from_dict(json.loads(json.dumps(chain.as_dict())))


@given(CHAINS)
def test_a_chain_is_the_same_after_it_was_kept(chain: ErrorChain) -> None:
    assert there_and_back(chain) == chain


@given(JSON)
def test_whatever_was_kept_can_be_read_and_classified(told: object) -> None:
    chain = ErrorChain.from_dict(told)
    assert classify_chain(chain).kind in Kind
    assert there_and_back(chain) == chain


def of_an_answer() -> None:
    request = httpx.Request("GET", f"https://x.invalid/?token={SECRETS[1]}", headers={"A": SECRETS[0]})
    httpx.Response(503, request=request, text=SECRETS[2]).raise_for_status()


def of_the_system() -> None:
    raise OSError(errno.ENOSPC, SECRETS[0], SECRETS[1])


def of_a_row() -> None:
    int(SECRETS[2])


def of_the_platform() -> None:
    try:
        of_the_system()
    except OSError as error:
        raise MedallionError(SECRETS[0], table=SECRETS[1], remedy=SECRETS[2]) from error


def of_a_library_with_a_code() -> None:
    class Refused(Exception):
        errno, response = SECRETS[0], {"Error": {"Code": SECRETS[1]}}

    raise Refused(*SECRETS)


@pytest.mark.parametrize(
    "work", [of_an_answer, of_the_system, of_a_row, of_the_platform, of_a_library_with_a_code]
)
def test_what_is_kept_classifies_as_the_error_did_and_says_nothing_else(work: Callable[[], None]) -> None:
    with pytest.raises(Exception) as caught:
        work()
    chain = chain_of(caught.value)
    told = classify(caught.value)
    again = classify_chain(there_and_back(chain))
    assert (again.kind, again.code) == (told.kind, told.code)
    assert not [secret for secret in SECRETS if secret in json.dumps(chain.as_dict())]


def test_a_table_a_class_and_the_types_are_kept() -> None:
    class Torn(MedallionError):
        kind = Kind.CORRUPT

    def tell() -> None:
        try:
            raise KeyError
        except KeyError as error:
            raise Torn("torn", table="bronze.x") from error

    with pytest.raises(Torn) as caught:
        tell()
    chain = there_and_back(chain_of(caught.value))
    assert (chain.said, chain.table, chain.own) == (Kind.CORRUPT, "bronze.x", ("Torn",))
    assert {"KeyError", "LookupError"} <= chain.links[0].names
