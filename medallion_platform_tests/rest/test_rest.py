"""A real API: each of its records is in the table or its dead letters, once, whatever happens."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.errors import DeclarationError
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import polars_engine as steps
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.replay import parse_table_again, replay
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.rollback import CannotRollBack, rollback
from medallion_platform.pipeline.run import Run
from medallion_platform.sources import http
from medallion_platform.sources.connectors import rest
from medallion_platform.sources.connectors.rest import (
    ById,
    ByTime,
    CursorPaginator,
    LinkHeaderPaginator,
    PageNumberPaginator,
    RestSource,
)
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.sources.http import ClientCredentials, EnvironmentToken
from medallion_platform_tests.pipeline.test_intake import Crash, Crashed
from medallion_platform_tests.pipeline.toy import EVENTS, NOW, RUN

from . import server
from .server import MICROSECONDS, Api, serving

KEYLESS = replace(EVENTS, key=(), watermark=None)
"""Nothing but its place keeps a record from being there twice."""
DRIVER = Path(__file__).with_name("driver.py")
CURSOR, PAGE, LINK = CursorPaginator("cursor", ("next",)), PageNumberPaginator("page"), LinkHeaderPaginator()
PATHS = {CursorPaginator: "cursor", PageNumberPaginator: "page", LinkHeaderPaginator: "link"}
TIME, ID = ByTime("updated_at", "since"), ById("id", "since_id")


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api()) as started:
        yield started


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_backoff", lambda _: 0.01)
    monkeypatch.setattr(http, "PATIENCE", 5.0)


def source_of(api: Api, paging: Any = CURSOR, since: Any = TIME, **named: Any) -> RestSource:
    given: dict[str, Any] = {
        "contract": KEYLESS,
        "url": f"{api.address}/{PATHS[type(paging)]}",
        "records": ("data", "items"),
        "every": timedelta(0),
        **named,
    }
    return RestSource(
        "orders", "bronze.orders", format=JsonLines(), domain="toy", paging=paging, since=since, **given
    )


def take(source: RestSource, lake: Lake, **options: Any) -> IntakeResult:
    return intake(rest.Resource(source, NOW), lake, RUN, **options)


def rows(lake: Lake) -> pl.DataFrame:
    return pl.read_delta(lake.path("bronze.orders")).sort("_offset", "_row")


def letters(lake: Lake) -> pl.DataFrame:
    return dead_letters.read(lake, "bronze.orders").sort("offset", "row")


def position(lake: Lake, log: str = "orders") -> int | None:
    table = lake.open("bronze.orders")
    return table.transaction_version(log) if table else None


def micro(seconds: float) -> int:
    """The value of a record that was changed so many seconds after Monday."""
    from medallion_platform_tests.pipeline.toy import MONDAY

    return int((MONDAY.timestamp() + seconds) * MICROSECONDS)


def texts(lake: Lake) -> Counter[bytes]:
    """Every record that is somewhere, as it came."""
    taken = [text.encode() for text in rows(lake)["_payload"]] if lake.exists("bronze.orders") else []
    return Counter([*taken, *letters(lake)["payload"]])


def whole(api: Api, lake: Lake) -> None:
    """Each record of the API is somewhere, once, and the counts say so."""
    assert texts(lake) == Counter({r.text for r in api.records})
    conserved(lake)


def conserved(lake: Lake) -> None:
    counts = [r.counts for _, r in lake.records("bronze.orders")]
    assert [c.missing for c in counts] == [0] * len(counts)
    assert sum(c.written for c in counts) == rows(lake).height
    assert sum(c.dead_lettered for c in counts) == letters(lake).height


# declarations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"url": "ftp://a/b"}, "http"),
        ({"url": "orders"}, "http"),
        ({"url": "http://a/b?key=hunter2"}, "without user, query"),
        ({"url": "http://me:hunter2@a/b"}, "without user, query"),
        ({"url": "http://a/b", "token": lambda: "x"}, "credentials go to https only"),
        ({"format": Csv()}, "records are JSON"),
        ({"since": replace(TIME, ascending=True), "paging": PAGE}, "pages are counted"),
        ({"since": "id"}, "since is 'id', and not ById"),
        ({"paging": None}, "paging is None, and not a paginator"),
        ({"params": {PAGE.parameter: "7"}, "paging": PAGE}, "is asked for twice"),
        ({"since": replace(TIME, parameter=PAGE.parameter), "paging": PAGE}, "is asked for twice"),
        ({"params": {"limit": 500}}, "params: limit is 500, and not text"),
        ({"records": "items"}, "records is 'items', and not a tuple of texts"),
        ({"every": timedelta(-1)}, "every is -1 day.*at least 0:00:00"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=said) as caught:
        replace(source_of(Api(address="http://127.0.0.1:1")), **changed)
    assert "hunter2" not in str(caught.value)


def test_an_overlap_is_not_negative() -> None:
    with pytest.raises(DeclarationError, match="has to be at least 0"):
        ById("id", "since_id", overlap=-1)
    with pytest.raises(DeclarationError, match="has to be at least 0"):
        ByTime("at", "since", overlap=timedelta(-1))


# what is taken in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("since", [TIME, ID], ids=["time", "id"])
@pytest.mark.parametrize("paging", [CURSOR, PAGE, LINK], ids=["cursor", "page", "link"])
def test_each_paging_gives_all_records_once(api: Api, lake: Lake, paging: Any, since: Any) -> None:
    for n in range(8):
        api.event(f"{n}")
    source = source_of(api, paging, since)
    assert take(source, lake).counts.written == 8
    api.event("8")
    again = take(source, lake)
    assert (again.counts.read, again.counts.written, again.counts.duplicate) == (9, 1, 8)
    assert rows(lake)["event_id"].to_list() == [f"{n}" for n in range(9)]
    assert rows(lake)["_source"].unique().to_list() == ["orders"]
    assert rows(lake)["_file"][0] == f"{source.url} page 1"
    whole(api, lake)


def test_an_api_without_records_is_taken_in(api: Api, lake: Lake) -> None:
    assert take(source_of(api), lake).counts.read == 0
    assert position(lake) == 0
    api.event("a")
    assert take(source_of(api), lake).counts.written == 1


def test_what_stands_in_a_record_is_kept_to_the_letter(api: Api, lake: Lake) -> None:
    head = b'{"event_id": "%s", "event_timestamp": "2026-01-05T00:00:00Z", "updated_at": "2026-01-05 00:00"'
    odd = head % b"a" + b', "amount": 1.10, "big":123456789012345678901234567890 , "n":{"a":[1.0,null]}}'
    api.put(odd, 1)
    api.put(head % "é€😀".encode() + b', "_row": 5, "_source": "mine"}', 2)
    take(source_of(api), lake)
    by = {r["event_id"]: r for r in rows(lake).rows(named=True)}
    assert by["a"]["_payload"].encode() == odd
    assert (by["a"]["big"], by["a"]["n"]) == ("123456789012345678901234567890", '{"a":[1.0,null]}')
    assert by["a"]["amount"] == 1.1
    assert by["é€😀"]["_source"] == "orders"
    whole(api, lake)


BAD = {
    b"7": "record: not an object",
    b"null": "record: not an object",
    b'{"event_id": "\xff"}': "record: not valid utf-8",
    b'{"event_id": "x"}': "record: updated_at is no time",
    b'{"event_id": "x", "updated_at": "yesterday"}': "record: updated_at is no time",
    b'{"event_id": "x", "updated_at": "1969-01-05T00:00:00Z"}': "record: updated_at is no time",
    b'{"event_id": null, "updated_at": "2026-01-05T00:00:00Z"}': "event_id: not null",
    b'{"event_id": "x", "updated_at": "2026-01-05T00:00:00Z"}': "event_timestamp: not null",
    b'{"event_id": "x", "more": {"rate": [-Infinity]}}': "record: not JSON: it has no NaN and no Infinity",
    b'{"event_id": "x", "note": "two\r\nlines, [open"}': "record: not JSON",
    b'{"event_id": "x", "path": "C:\\data"}': "record: not JSON",
    b'{"event_id": undefined}': "record: not JSON",
    b"{'event_id': None}": "record: not JSON",
    b'{"event_id": "x", "tree": ' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001: "record: nested too deeply",
}


def test_a_bad_record_is_a_dead_letter_once_however_often_it_comes(api: Api, lake: Lake) -> None:
    for text in BAD:
        api.put(text, 1)
    api.event("good")
    source = source_of(api, PAGE)
    for turn in range(3):
        taken = take(source, lake)
        assert taken.counts.dead_lettered == (0 if turn else len(BAD))
    assert dict(zip(letters(lake)["payload"], letters(lake)["violations"].list.first(), strict=True)) == BAD
    whole(api, lake)


def test_a_page_is_read_around_what_is_no_json(api: Api, lake: Lake) -> None:
    """A byte order mark, and beside the records what no parser takes."""
    api.event("a")
    text = api.records[0].text
    page = (
        b'\xef\xbb\xbf{"rate": NaN, "note": "\\d", "data": {"items": [%s, {"event_id": NaN}]}, "next": "2"}'
    )
    api.faults.append(server.body(page % text))
    assert take(source_of(api), lake).counts.written == 1
    assert api.asked[-1]["cursor"] == "2"
    assert letters(lake)["payload"].to_list() == [b'{"event_id": NaN}']
    assert rows(lake)["_payload"].to_list() == [text.decode()]


def test_fields_come_and_go(api: Api, lake: Lake) -> None:
    api.event("a", email="x@y.z")
    take(source_of(api), lake)
    api.event("b", color="red")
    api.event("c", amount="much")
    take(source_of(api), lake)
    assert rows(lake)["email"].to_list() == ["x@y.z", None]
    assert rows(lake)["color"].to_list() == [None, "red"]
    assert letters(lake)["violations"].to_list() == [["amount: is a double"]]
    whole(api, lake)


def test_records_at_the_edge_and_late_ones_come_once(api: Api, lake: Lake) -> None:
    source = source_of(api, since=replace(TIME, overlap=timedelta(seconds=60)))
    api.event("a", at=100)
    api.put(b'{"updated_at": "2026-01-05T00:01:40Z"}', 100)
    take(source, lake)
    api.event("b", at=100)
    api.event("late", at=41)
    api.put(b'{"updated_at": "2026-01-05T00:01:40Z", "n": 2}', 100)
    taken = take(source, lake)
    assert (taken.counts.written, taken.counts.dead_lettered, taken.counts.duplicate) == (2, 1, 2)
    assert position(lake) == micro(100) + 1
    assert [q.get("since") for q in api.asked] == [None, "2026-01-05T00:00:40.000000Z"]
    whole(api, lake)


def test_a_record_that_changed_is_a_new_one(api: Api, lake: Lake) -> None:
    api.event("a", email="old")
    take(source_of(api), lake)
    api.records.clear()
    api.event("a", email="new")
    take(source_of(api), lake)
    assert rows(lake)["email"].to_list() == ["old", "new"]
    take(source_of(api, contract=replace(KEYLESS, key=("event_id",))), lake)
    conserved(lake)


def test_a_time_to_come_hides_nothing(api: Api, lake: Lake) -> None:
    api.event("future", at=10**9)
    api.event("a")
    source = source_of(api)
    take(source, lake)
    assert position(lake) == micro(1) + 1
    assert take(source, lake).counts.duplicate == 2
    whole(api, lake)


# pages that move -----------------------------------------------------------------------------------

STRICT = replace(TIME, overlap=timedelta(0))


def test_a_record_that_is_pushed_to_the_next_page_is_counted_as_a_duplicate(api: Api, lake: Lake) -> None:
    for n in range(7):
        api.event(f"{n}")
    api.between.append(lambda: api.event("new", front=True) and None)
    taken = take(source_of(api, PAGE, STRICT), lake)
    assert (taken.counts.read, taken.counts.written, taken.counts.duplicate) == (9, 8, 1)
    whole(api, lake)


@pytest.mark.parametrize("paging", [PAGE, LINK], ids=["page", "link"])
def test_a_record_that_is_pulled_to_the_page_before_is_found(api: Api, lake: Lake, paging: Any) -> None:
    for n in range(7):
        api.event(f"{n}")
    gone = api.records[0]
    api.between.append(lambda: api.records.remove(gone))
    take(source_of(api, paging, STRICT), lake)
    assert texts(lake) == Counter([gone.text, *(r.text for r in api.records)])
    conserved(lake)


def test_what_comes_while_pages_are_read_again_is_not_taken_for_passed_over(api: Api, lake: Lake) -> None:
    for n in range(5):
        api.event(f"{n}")
    first = list(api.records)

    def arrive() -> None:
        for n in range(5, 8):
            api.event(f"{n}")

    # In the second reading three more come, and what is removed pulls the middle one over the edge of a page.
    api.between.extend([lambda: None] * 3 + [arrive, lambda: api.records.remove(first[0])])
    source = source_of(api, PAGE, STRICT)
    take(source, lake)
    assert set(rows(lake)["event_id"]) == set("0123457")
    take(source, lake)
    assert texts(lake) == Counter({r.text for r in (*first, *api.records)})
    conserved(lake)


@pytest.mark.failure("transient", work="intake")
def test_pages_that_never_hold_still_are_taken_in_and_told_and_read_again(api: Api, lake: Lake) -> None:
    late = iter(range(1000, 0, -1))
    api.event("a", at=2000)
    api.event("b", at=2001)
    api.event("c", at=2002)
    api.event("d", at=2003)
    source = source_of(api, PAGE, STRICT)
    api.between.extend([lambda: api.event("late", at=next(late)) and None] * 100)
    with pytest.raises(Unavailable, match="did not hold still"):
        take(source, lake)
    assert position(lake) is None
    assert set(rows(lake)["event_id"]) >= {"a", "b", "c", "d"}
    api.between.clear()
    take(source, lake)
    assert position(lake) == micro(2003) + 1
    whole(api, lake)


action = st.tuples(
    st.sampled_from(["insert", "append", "bad", "delete", "update", "again"]), st.integers(0, 20)
)


def act(api: Api, happens: tuple[str, int], ever: set[bytes]) -> None:
    """One thing that happens in an API, to the record number so much where it is to one."""
    action, number = happens
    if action == "insert":
        api.event(f"i{api.clock}", front=True)
    elif action == "append":
        api.event(f"a{api.clock}")
    elif action == "bad":
        api.event(f"b{api.clock}", amount=-1)
    elif action == "again" and api.records:
        api.records.append(api.records[number % len(api.records)])
    elif action in ("delete", "update") and api.records:
        api.records.pop(number % len(api.records))
        if action == "update":
            api.event(f"u{api.clock}")
    ever.update(r.text for r in api.records)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(0, 9), st.lists(action, max_size=12), st.sampled_from([PAGE, LINK]))
def test_whatever_happens_within_the_first_reading_nothing_that_stays_is_passed_over(
    tmp_path_factory: Any, page: int, begin: int, done: list[Any], paging: Any
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    with serving(Api(page)) as api:
        for n in range(begin):
            api.event(f"{n}")
        ever = {r.text for r in api.records}
        api.between.extend([lambda a=a: act(api, a, ever) for a in done[: max(begin // page, 1)]])
        source = source_of(api, paging, STRICT)
        take(source, lake, batch_rows=4)
        take(source, lake)
        found = texts(lake)
        assert {r.text for r in api.records} <= found.keys() <= ever
        assert set(found.values()) <= {1}
        conserved(lake)


# faults --------------------------------------------------------------------------------------------

PASSING = {
    "429 at once": server.status(429, Retry_After="0"),
    "429 soon": server.status(429, Retry_After="1"),
    "429 until": server.wait_until(1),
    "429 nonsense": server.status(429, Retry_After="whenever"),
    "503 soon": server.status(503, Retry_After="1"),
    "500": server.status(500),
    "hung up": server.hang_up,
    "torn": server.torn,
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_waited_for(api: Api, lake: Lake, fault: str) -> None:
    for n in range(4):
        api.event(f"{n}")
    api.faults.extend([PASSING[fault], PASSING[fault]])
    take(source_of(api), lake)
    whole(api, lake)


def test_retry_after_is_waited_for_by_number_and_by_date() -> None:
    date = {"retry-after": "Mon, 05 Jan 2026 00:01:00 GMT"}
    now = server.MONDAY
    assert http.retry_after_seconds({"retry-after": "17"}, now) == 17
    assert http.retry_after_seconds(date, now) == 60
    assert http.retry_after_seconds({**date, "date": "Mon, 05 Jan 2026 00:00:50 GMT"}, now) == 10
    assert http.retry_after_seconds(date, now + timedelta(days=1)) == 0
    assert [http.retry_after_seconds({"retry-after": t}, now) for t in ("", "-1", "soon", "²")] == [
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("seconds", ["3600", "99999999999999999999"])
@pytest.mark.failure("rate_limit", work="intake")
def test_a_server_that_asks_for_more_than_patience_is_left_and_asked_again_later(
    api: Api, lake: Lake, seconds: str
) -> None:
    for n in range(7):
        api.event(f"{n}")
    source = source_of(api, since=replace(TIME, ascending=True))
    api.between.append(lambda: api.faults.append(server.status(429, Retry_After=seconds)))
    with pytest.raises(Unavailable, match=r"orders: .* answers 429, and was asked for 5 s; what was taken"):
        take(source, lake, batch_rows=1)
    assert rows(lake)["event_id"].to_list() == ["0", "1", "2"]
    api.asked.clear()
    take(source, lake)
    assert "since" in api.asked[0], "the pull does not go on from where it was"
    whole(api, lake)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (server.stuck, "ReadTimeout"),
        (server.dripping("body"), "takes longer than 1 s"),
        (server.dripping("headers"), "takes longer than 1 s"),
    ],
    ids=["stuck", "dripping body", "dripping headers"],
)
def test_a_connection_that_is_stuck_is_ended(
    api: Api, lake: Lake, monkeypatch: pytest.MonkeyPatch, fault: Any, said: str
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.5)
    monkeypatch.setattr(http, "LONGEST", 1.0)
    api.event("a")
    api.faults.append(fault)
    take(source_of(api), lake)
    whole(api, lake)
    monkeypatch.setattr(http, "PATIENCE", 0.0)
    api.faults.append(fault)
    with pytest.raises(Unavailable, match=said):
        take(source_of(api), lake)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (server.status(404), "answers 404"),
        (server.status(204), "answers 204"),
        (server.body(b"<html>"), "not JSON with a list at data.items"),
        (server.body(b'{"data": {}}'), "not JSON with a list"),
        (server.body(b'{"data": {"items": 7}}'), "not JSON with a list"),
        (server.body(b'{"data": {"items": [1,]}}'), "not JSON with a list"),
        (server.body(b'{"data": {"items": [{"id": [1}]}}'), "not JSON with a list"),
        (server.body(b'{"data": {"items": [{"t": "a}]}}'), "not JSON with a list"),
        (server.body(b'{"data": {"items": [1 2]}}'), "not JSON with a list"),
        (server.body(b'{"data": {"items": [1]} '), "not JSON with a list"),
        (server.body(b'{"data": {"items": ["' + b"x" * 2000 + b'"]}}'), "more than 1000 bytes"),
        (server.status(302, Location="ftp://127.0.0.1/"), "leads nowhere"),
    ],
)
def test_a_page_that_cannot_be_used_stops_the_pull_and_loses_nothing(
    api: Api, lake: Lake, monkeypatch: pytest.MonkeyPatch, fault: Any, said: str
) -> None:
    monkeypatch.setattr(http, "LARGEST", 1000)
    for n in range(4):
        api.event(f"{n}")
    source = source_of(api)
    api.between.append(lambda: api.faults.append(fault))
    with pytest.raises(Unavailable, match=said):
        take(source, lake)
    take(source, lake)
    whole(api, lake)


def test_pages_without_an_end_are_told(api: Api, lake: Lake) -> None:
    circle = server.body(b'{"next": "1", "data": {"items": [7]}}')
    api.faults.extend([circle] * 3)
    with pytest.raises(Unavailable, match="link in a circle"):
        take(source_of(api), lake)
    api.faults.clear()
    api.faults.extend([server.body(b'{"data": {"items": [7]}}')] * 100)
    with pytest.raises(Unavailable, match="the same page again and again"):
        take(source_of(api, PAGE), lake)


# credentials ---------------------------------------------------------------------------------------


def test_credentials_that_expired_are_renewed(api: Api, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_ID", "me")
    monkeypatch.setenv("ORDERS_SECRET", "hunter2")
    for n in range(7):
        api.event(f"{n}")
    api.tokens = {"another"}
    api.between.append(lambda: api.tokens.clear() or api.tokens.add("expired"))
    token = ClientCredentials(f"{api.address}/token", "ORDERS_ID", "ORDERS_SECRET", "read")
    take(source_of(api, token=token), lake)
    posted = [t for t in api.seen_tokens if t and t.startswith("Basic")]
    assert posted == ["Basic bWU6aHVudGVyMg=="] * 2
    whole(api, lake)


@pytest.mark.failure("auth", work="intake")
def test_refused_credentials_are_one_sentence_without_secrets(
    api: Api, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.tokens = {"good"}
    source = source_of(api, token=EnvironmentToken("ORDERS_TOKEN"))
    with pytest.raises(Unavailable, match="the environment has no ORDERS_TOKEN"):
        take(source, lake)
    monkeypatch.setenv("ORDERS_TOKEN", "hunter2")
    with pytest.raises(Unavailable, match="refuses the credentials, even renewed ones") as caught:
        take(source, lake)
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__}{source!r}"
    assert caught.value.__suppress_context__

    def broken() -> str:
        raise RuntimeError("hunter2")

    with pytest.raises(Unavailable, match="cannot be read") as caught:
        take(replace(source, token=broken), lake)
    assert "hunter2" not in str(caught.value)


def test_credentials_go_to_no_other_origin(api: Api, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_TOKEN", "hunter2")
    with serving(Api()) as other:
        other.event("elsewhere")
        source = source_of(api, LINK, token=EnvironmentToken("ORDERS_TOKEN"))
        api.faults.append(server.status(302, Location=f"{other.address}/link"))
        take(source, lake)
        assert rows(lake)["event_id"].to_list() == ["elsewhere"]
        assert (api.seen_tokens, other.seen_tokens) == (["Bearer hunter2"], [None])
        link = {"Link": f'<{other.address}/link?page=2>; rel="next"'}
        api.faults.append(lambda h: h.answer(200, b'{"data": {"items": []}}', **link))
        with pytest.raises(Unavailable, match="another origin, which is not requested"):
            take(source, lake)
        assert len(other.seen_tokens) == 1


# crashes -------------------------------------------------------------------------------------------

STEPS = {
    "append": (steps.polars_writer, "append_rows"),
    "validate": (steps, "triage"),
    "letters": (dead_letters, "append"),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("order", ["ascending", "ascending, but not said so", "newest first"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    api: Api,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: int,
    after: bool,
    order: str,
) -> None:
    for n in range(12):
        api.event(f"{n}", amount=-1 if n % 3 == 0 else 1, front=order == "newest first")
    source = source_of(api, since=replace(STRICT, ascending=order == "ascending"))
    if order == "newest first":
        source = source_of(api, PAGE, STRICT)
    with Crash(monkeypatch, *STEPS[step], after=after, call=call), pytest.raises(Crashed):
        take(source, lake, batch_rows=5)
    take(source, lake, batch_rows=2)
    assert letters(lake).height == 4
    whole(api, lake)


turns = st.lists(
    st.tuples(
        st.lists(action, max_size=5),
        st.sampled_from([None, *STEPS]),
        st.booleans(),
        st.integers(1, 3),
        st.lists(st.sampled_from(["500", "429 at once", "hung up", "torn", "html", "401"]), max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25)
@given(st.integers(1, 4), turns, st.sampled_from([CURSOR, PAGE, LINK]), st.booleans())
def test_after_any_mix_of_changes_faults_and_crashes_each_record_is_there_once(
    tmp_path_factory: Any, page: int, played: list[Any], paging: Any, ascending: bool
) -> None:
    faults = {**PASSING, "html": server.body(b"<html>"), "401": server.status(401)}
    lake = Lake(tmp_path_factory.mktemp("lake"))
    with serving(Api(page)) as api, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(http, "_backoff", lambda _: 0.001)
        since = replace(TIME, ascending=ascending and not paging.counted)
        source = source_of(api, paging, since)
        ever: set[bytes] = set()
        for n in range(4):
            act(api, ("bad" if n % 2 else "append", n), ever)
        for happens, step, after, call, broken in played:
            for first in happens[:2]:
                act(api, first, ever)
            api.between.extend([lambda a=a: act(api, a, ever) for a in happens[2:]])
            api.faults.extend(faults[name] for name in broken)
            try:
                if step:
                    with Crash(monkeypatch, *STEPS[step], after=after, call=call):
                        take(source, lake, batch_rows=3)
                else:
                    take(source, lake, batch_rows=3)
            except (Crashed, Unavailable):
                pass
        api.between.clear()
        api.faults.clear()
        take(source, lake)
        found = texts(lake)
        assert {r.text for r in api.records} <= found.keys() <= ever
        assert set(found.values()) <= {1}
        conserved(lake)


def test_killed_at_any_instant_nothing_is_lost_or_doubled(api: Api, tmp_path: Path) -> None:
    for n in range(400):
        api.event(f"{n}", amount=-1 if n % 3 == 0 else 1)
    command = [sys.executable, str(DRIVER), api.address, str(tmp_path), "12"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    ends = ended.stdout.split()
    assert "failed" not in ends, ended.stderr
    lake = Lake(tmp_path)
    between = rows(lake).height if lake.exists("bronze.orders") else 0
    take(source_of(api), lake, batch_rows=23)
    assert ends.count("killed") >= 5, ends
    assert between > 0
    assert letters(lake).height == 134
    whole(api, lake)


# what follows --------------------------------------------------------------------------------------


def test_dead_letters_of_one_time_are_told_apart(api: Api, lake: Lake) -> None:
    for key in "abc":
        api.event(key, at=5, amount=-1)
    api.event("d", at=5)
    strict = source_of(api)
    take(strict, lake)
    assert letters(lake)["offset"].unique().to_list() == [micro(5)]
    lax = replace(strict, contract=replace(KEYLESS, expectations=KEYLESS.expectations[:0]))
    assert replay(lax, lake, RUN).counts.written == 3
    assert sorted(rows(lake)["event_id"]) == ["a", "b", "c", "d"]
    parse_table_again(strict, lake, RUN)
    assert rows(lake)["event_id"].to_list() == ["d"]
    assert letters(lake).height == 3
    again = take(lax, lake)
    assert (again.counts.duplicate, again.counts.written) == (4, 0), "dead letters are replayed, not pulled"
    assert texts(lake) == Counter({r.text for r in api.records})


def test_an_intake_is_not_taken_back_because_it_would_come_again(api: Api, lake: Lake) -> None:
    api.event("a")
    source = source_of(api)
    intake(rest.Resource(source, NOW), lake, Run("mine", NOW))
    with pytest.raises(CannotRollBack, match="would come again with the next pull of source orders"):
        rollback(Catalog((source,), ()), lake, "mine", RUN)
    assert rows(lake).height == 1


def test_dagster_pulls_when_it_is_due(api: Api, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    import dagster as dg

    from medallion_platform.orchestration.build import build_defs
    from medallion_platform.orchestration.intakes import waiting_arrivals
    from medallion_platform.orchestration.lakehouse_resource import Lakehouse

    api.event("a")
    api.event("b", amount=-1)
    catalog = Catalog((source_of(api, every=timedelta(hours=1)),), ())
    place = Lakehouse(
        lake_root=str(tmp_path / "lake"), landing=str(tmp_path), feature_repo=str(tmp_path / "features")
    )
    began = datetime.now(UTC)
    assert waiting_arrivals(catalog, place, began, place.lake) == {"bronze.orders": ["orders"]}
    assert api.asked == [], "a look asks nothing"
    job = build_defs(catalog, place).resolve_job_def("intake")
    with dg.DagsterInstance.ephemeral() as on:
        for _ in range(2):
            assert job.execute_in_process(instance=on).success
        written = on.get_latest_materialization_event(dg.AssetKey("bronze_orders"))
        assert written
        assert written.asset_materialization
        assert written.asset_materialization.metadata["pulls"].value == 1
    assert len(api.asked) == 1, "it was pulled before it was due"
    assert waiting_arrivals(catalog, place, began + timedelta(minutes=59), place.lake) == {}
    assert len(waiting_arrivals(catalog, place, datetime.now(UTC) + timedelta(hours=1), place.lake)) == 1
    assert rows(place.lake)["event_id"].to_list() == ["a"]
