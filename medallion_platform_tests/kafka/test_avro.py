"""Avro of a real registry: a record is what it would be as JSON, and what is none is kept as it came."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.errors import DeclarationError
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.replay import parse_table_again, replay
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.connectors.kafka.follow import TopicFollower
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats import avro
from medallion_platform.sources.formats.avro import Avro
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.sources.http import EnvironmentUser
from medallion_platform.sources.source import Engine
from medallion_platform_tests.pipeline.toy import EVENTS, RUN

from .broker import Broker
from .registry import Gateway, Registry, framed, message
from .test_kafka import ENGINES, KEYLESS, conserved, ids, letters, rows, source_of, take, waits

CLICK: dict[str, Any] = {
    "type": "record",
    "name": "Click",
    "namespace": "shop",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "event_timestamp", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "amount", "type": ["null", "double"], "default": None},
    ],
}
COLORED = {**CLICK, "fields": [*CLICK["fields"], {"name": "color", "type": "string", "default": "none"}]}
DRAFT = "http://json-schema.org/draft-07/schema#"
AT = datetime(2026, 1, 5, tzinfo=UTC)


def click(key: str, **fields: Any) -> dict[str, Any]:
    return {"event_id": key, "event_timestamp": AT, **fields}


def of(broker: Broker, registry: Registry | Gateway, *topics: str, **named: Any) -> KafkaSource:
    return source_of(broker, *topics, format=Avro(registry.url), **named)


def parsed(registry: Registry | Gateway, *messages: bytes) -> pl.DataFrame:
    return Avro(registry.url).parse(messages)


def field(registry: Registry, kind: Any, body: bytes) -> Any:
    """What a message's only field is, as text."""
    schema = {"type": "record", "name": "R", "fields": [{"name": "f", "type": kind}]}
    number = registry.register("field", schema)
    row = parsed(registry, framed(number, body)).row(0, named=True)
    assert row["_malformed"] is None, row["_malformed"]
    return row["f"]


@pytest.fixture
def gateway(registry: Registry) -> Iterator[Gateway]:
    with Gateway(registry) as started:
        yield started


# declarations, without a registry ------------------------------------------------------------------


def test_a_declaration_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(DeclarationError, match="not an http or https URL"):
        Avro("registry:8081")
    with pytest.raises(DeclarationError, match="EnvironmentUser") as caught:
        Avro("https://me:hunter2@registry:8081")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(DeclarationError, match="credentials go to https only"):
        Avro("http://registry:8081", EnvironmentUser("REGISTRY_USER"))
    with pytest.raises(DeclarationError, match="from topics, not from files"):
        FileSource("a", "bronze.a", EVENTS, Avro("http://registry"), "toy", claims=("a/**",))
    sent = pickle.loads(pickle.dumps(Avro("https://registry/", EnvironmentUser("REGISTRY_USER"))))
    assert sent == Avro("https://registry", EnvironmentUser("REGISTRY_USER"))


# what a record is ----------------------------------------------------------------------------------


@pytest.mark.broker
def test_the_example_of_the_specification_is_read(registry: Registry) -> None:
    """https://avro.apache.org/docs/1.12.0/specification/#schema-record"""
    fields = [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]
    number = registry.register("test", {"type": "record", "name": "test", "fields": fields})
    row = parsed(registry, framed(number, bytes.fromhex("3606666f6f"))).row(0, named=True)
    assert (row["a"], row["b"]) == ("27", "foo")
    assert (row["_payload"], row["_payload_bytes"]) == ('{"a":27,"b":"foo"}', None)


def _long(value: int) -> bytes:
    value, out = (value << 1) ^ (value >> 63), b""
    while value > 127:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


def _logical(base: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": name, **more}


DECIMAL = _logical("bytes", "decimal", precision=4, scale=2)
MICROS = 1_767_571_200_123_456
FIXED = {"type": "fixed", "name": "F", "size": 16}


@pytest.mark.broker
@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (DECIMAL, b"\x04\x00\x96", "1.50"),
        (DECIMAL, b"\x02\xfb", "-0.05"),
        # more digits than its schema has room for are not rounded
        (DECIMAL, b"\x06\x12\xd6\x87", "12345.67"),
        ({**FIXED, "logicalType": "decimal", "precision": 38, "scale": 0}, bytes(15) + b"\x07", "7"),
        (_logical("int", "date"), _long(20458), "2026-01-05"),
        (_logical("int", "date"), _long(2**31 - 1), "2147483647"),
        (_logical("int", "time-millis"), _long(3_600_001), "01:00:00.001000"),
        (_logical("long", "time-micros"), _long(-1), "-1"),
        (_logical("long", "timestamp-millis"), _long(MICROS // 1000), "2026-01-05T00:00:00.123000+00:00"),
        (_logical("long", "timestamp-micros"), _long(MICROS), "2026-01-05T00:00:00.123456+00:00"),
        (_logical("long", "timestamp-micros"), _long(-1), "1969-12-31T23:59:59.999999+00:00"),
        (_logical("long", "timestamp-millis"), _long(2**62), str(2**62)),
        (
            _logical("long", "timestamp-nanos"),
            _long(MICROS * 1000 + 7),
            "2026-01-05T00:00:00.123456007+00:00",
        ),
        (_logical("long", "local-timestamp-micros"), _long(MICROS), "2026-01-05T00:00:00.123456"),
        (_logical("string", "uuid"), b"\x06not", "not"),
        ("bytes", b"\x04\x00\xff", "AP8="),
        (FIXED, bytes(16), "AAAAAAAAAAAAAAAAAAAAAA=="),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x02", "B"),
        (["null", "string"], b"\x00", None),
        (["null", "string"], b"\x02\x02x", "x"),
        ("boolean", b"\x01", "true"),
        ("long", _long(2**63 - 1), str(2**63 - 1)),
        ("double", bytes.fromhex("000000000000f87f"), "NaN"),
        ("double", bytes.fromhex("9a9999999999b93f"), "0.1"),
        ({"type": "array", "items": "string"}, b"\x04\x02a\x04\xc3\xa9\x00", '["a","é"]'),
        ({"type": "map", "values": DECIMAL}, b"\x02\x02k\x04\x00\x96\x00", '{"k":"1.50"}'),
    ],
)
def test_a_field_is_its_exact_text(registry: Registry, kind: Any, body: bytes, text: str | None) -> None:
    assert field(registry, kind, body) == text


@pytest.mark.broker
def test_types_of_other_subjects_are_known(registry: Registry) -> None:
    money = {"type": "record", "name": "shop.Money", "fields": [{"name": "cents", "type": "long"}]}
    price = {"type": "record", "name": "shop.Price", "fields": [{"name": "of", "type": "shop.Money"}]}
    both = [{"name": "price", "type": "shop.Price"}, {"name": "tip", "type": ["null", "shop.Money"]}]
    registry.register("a money/1".replace(" ", "%20").replace("/", "%2F"), money)
    to_money = {"name": "shop.Money", "subject": "a money/1", "version": 1}
    registry.register("price", price, references=[to_money])
    to_price = {"name": "shop.Price", "subject": "price", "version": 1}
    order = {"type": "record", "name": "shop.Order", "fields": both}
    number = registry.register("order", order, references=[to_price, to_money])
    row = parsed(registry, framed(number, _long(150) + b"\x02" + _long(20))).row(0, named=True)
    assert (row["price"], row["tip"]) == ('{"of":{"cents":150}}', '{"cents":20}')


SAME: dict[str, Any] = {
    "type": "record",
    "name": "Same",
    "fields": [
        {"name": "s", "type": "string"},
        {"name": "l", "type": "long"},
        {"name": "d", "type": "double"},
        {"name": "u", "type": ["null", "boolean", "string", {"type": "array", "items": "long"}]},
        {"name": "m", "type": {"type": "map", "values": ["null", "string"]}},
        {"name": "_row", "type": ["null", "string"]},
    ],
}
TEXT = st.text(max_size=6)
RECORDS = st.fixed_dictionaries(
    {
        "s": TEXT,
        "l": st.integers(-(2**63), 2**63 - 1),
        "d": st.floats(allow_nan=False, allow_infinity=False),
        "u": st.none() | st.booleans() | TEXT | st.lists(st.integers(-9, 9), max_size=3),
        "m": st.dictionaries(TEXT, st.none() | TEXT, max_size=3),
        "_row": st.none() | TEXT,
    }
)


@pytest.mark.broker
@given(records=st.lists(RECORDS, min_size=1, max_size=4))
def test_a_record_is_what_it_would_be_as_json(registry: Registry, records: list[dict[str, Any]]) -> None:
    number = registry.register("same", SAME)
    found = parsed(registry, *(message(number, SAME, r) for r in records))
    ordered = [{f["name"]: r[f["name"]] for f in SAME["fields"]} for r in records]
    as_json = [json.dumps(r, ensure_ascii=False, separators=(",", ":")).encode() for r in ordered]
    assert found.equals(JsonLines().parse(as_json))


@pytest.mark.broker
@given(data=st.data())
def test_any_bytes_are_a_record_or_are_kept_as_they_came(registry: Registry, data: st.DataObject) -> None:
    number = registry.register("same", SAME)
    good = message(number, SAME, data.draw(RECORDS))
    bad = bytearray(good)
    for place, byte in data.draw(st.dictionaries(st.integers(0, len(good) - 1), st.integers(0, 255))).items():
        bad[place] = byte
    torn = bytes(bad[: data.draw(st.integers(0, len(bad)))]) + data.draw(st.binary(max_size=2))
    found = parsed(registry, good, torn, good)
    assert found["_malformed"][0] is found["_malformed"][2] is None
    assert found["_payload"][0] == found["_payload"][2]
    if found["_malformed"][1] is None:
        assert json.loads(found["_payload"][1])["s"] == found["s"][1]
    else:
        assert found["_malformed"][1].startswith("not valid Avro: ")
        assert (found["_payload"][1], found["_payload_bytes"][1]) == (None, torn)


@pytest.mark.broker
def test_a_record_within_records_without_end_is_kept_as_it_came(registry: Registry) -> None:
    fields = [{"name": "next", "type": ["null", "Nested"]}]
    number = registry.register("nested", {"type": "record", "name": "Nested", "fields": fields})
    few, many = framed(number, b"\x02" * 3 + b"\0"), framed(number, b"\x02" * 200_000 + b"\0")
    found = parsed(registry, few, many)
    assert found["next"][0] == '{"next":{"next":{"next":null}}}'
    assert found["_malformed"].to_list() == [
        None,
        f"not valid Avro: it is no record of schema {number} (RecursionError)",
    ]
    assert found["_payload_bytes"][1] == many


# topics --------------------------------------------------------------------------------------------


@pytest.mark.broker
@ENGINES
def test_every_kind_of_message_is_where_it_belongs(
    broker: Broker, registry: Registry, topic: str, lake: Lake, engine: Engine
) -> None:
    broker.create(topic)
    source = of(broker, registry, topic, engine=engine)
    first = registry.register(f"{topic}-value", CLICK)
    text = registry.register(f"{topic}-text", "string")
    other = registry.register(f"{topic}-json", {"$schema": DRAFT, "type": "object"}, "JSON")
    second = registry.register(f"{topic}-value", COLORED)
    good = message(first, CLICK, click("a", amount=1.5))
    bad = {
        b"": "it does not begin with a zero byte and the id of a schema",
        b'{"event_id": "x"}': "it does not begin with a zero byte and the id of a schema",
        b"\0\0\0\0": "it does not begin with a zero byte and the id of a schema",
        framed(0, good[5:]): "the registry has no schemas/ids/0",
        framed(2**31 - 1, good[5:]): "the registry has no schemas/ids/2147483647",
        framed(2**32 - 1, good[5:]): "it does not begin with a zero byte and the id of a schema",
        good[:-1]: f"it ends within its record of schema {first}",
        good + b"xy": f"2 bytes are left over behind its record of schema {first}",
        framed(first, b"\x02\xff" + good[7:]): f"it is no record of schema {first} (UnicodeDecodeError)",
        framed(text, b"\x02x"): f"schema {text} is not of records",
        framed(other, b"\x02x"): f"schema {other} is JSON",
    }
    broker.send(topic, [good, None, *bad, message(second, COLORED, click("b", color="red"))])
    broker.send(topic, [message(first, CLICK, click("c", amount=-1.0)), message(first, CLICK, click("d"))])
    taken = take(source, lake)
    assert (taken.counts.read, taken.counts.written, taken.counts.dead_lettered) == (16, 3, 13)
    assert rows(lake).select("event_id", "event_timestamp", "amount", "color").rows() == [
        ("a", AT, 1.5, None),
        ("b", AT, None, "red"),
        ("d", AT, None, None),
    ]
    dead = letters(lake)
    negative = b'{"event_id":"c","event_timestamp":"2026-01-05T00:00:00+00:00","amount":-1.0}'
    assert dead["payload"].to_list() == [None, *bad, negative]
    told = dead["violations"].list.first().to_list()
    assert told[0] == "record: no value: a tombstone"
    assert told[1:-1] == [f"record: not valid Avro: {why}" for why in bad.values()]
    assert waits(source, lake) == []
    conserved(lake)


@pytest.mark.broker
def test_stored_records_and_dead_letters_are_validated_again(
    broker: Broker, registry: Registry, topic: str, lake: Lake
) -> None:
    broker.create(topic)
    source = of(broker, registry, topic)
    ours, later = {**CLICK, "doc": topic}, {**COLORED, "doc": topic}
    number = registry.register(f"{topic}-value", ours)
    early = message(number + 1, later, click("early", color="red"))
    broker.send(topic, [message(number, CLICK, click("a", amount=-1.0)), message(number, CLICK, click("b"))])
    broker.send(topic, [early, b"{}"])
    take(source, lake)
    assert ids(lake) == ["b"]
    lax = replace(source, contract=replace(KEYLESS, expectations=KEYLESS.expectations[:0]))
    assert registry.register(f"{topic}-value", later) == number + 1
    assert replay(lax, lake, RUN).counts.written == 2
    assert ids(lake) == ["a", "b", "early"]
    assert rows(lake).filter(event_id="early")["color"].to_list() == ["red"]
    assert letters(lake)["payload"].to_list() == [b"{}"]
    before = rows(lake)
    parse_table_again(lax, lake, RUN)
    assert rows(lake).drop("_ingested_at").equals(before.drop("_ingested_at"))
    parse_table_again(source, lake, RUN)
    assert ids(lake) == ["b", "early"]


# the registry --------------------------------------------------------------------------------------


@pytest.mark.broker
def test_a_schema_is_asked_for_once(registry: Registry, gateway: Gateway) -> None:
    number = registry.register("click", CLICK)
    known, unknown = message(number, CLICK, click("a")), framed(10**9, b"")
    for _ in range(3):
        parsed(gateway, *[known, unknown] * 50)
    # one that is not there may come
    assert gateway.asked == {f"/schemas/ids/{number}": 1, "/schemas/ids/1000000000": 3}


@pytest.mark.broker
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param(
            (503, b""), "answers 503, and was asked for 1 s", marks=pytest.mark.failure("transient")
        ),
        pytest.param(
            (404, b"<html>no such service</html>"),
            "answers 404 Not Found",
            marks=pytest.mark.failure("permanent"),
        ),
        ((404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'), "answers 404 Not Found"),
        ((200, b"<html>log in</html>"), "does not return a schema"),
        pytest.param((403, b""), "answers 403 Forbidden", marks=pytest.mark.failure("auth")),
    ],
)
@ENGINES
def test_nothing_is_taken_in_while_the_registry_gives_no_schema(
    broker: Broker,
    registry: Registry,
    gateway: Gateway,
    topic: str,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[int, bytes],
    told: str,
    engine: Engine,
) -> None:
    monkeypatch.setattr(avro, "PATIENCE", 1.0)
    broker.create(topic)
    source = of(broker, gateway, topic, engine=engine)
    number = registry.register(f"{topic}-value", CLICK)
    broker.send(topic, [message(number, CLICK, click(key)) for key in "ab"] + [b"{"])
    gateway.instead = answer
    told = told if engine == "polars" else told.replace(" 1 s", " 15 s")  # executors have their own patience
    with pytest.raises(Unavailable) as caught:
        take(source, lake)
    address = f"{gateway.url}/schemas/ids/{number}"
    assert str(caught.value) == (
        f"source clicks: schema {number} of its messages cannot be read: {address} {told}; what was taken in "
        "is safe, the next intake continues from there"
    )
    assert not lake.positions(source.table)(f"clicks/{topic}/0")
    assert letters(lake).is_empty()
    gateway.instead = None
    take(source, lake)
    assert ids(lake) == ["a", "b"]
    assert letters(lake)["payload"].to_list() == [b"{"]
    conserved(lake)


@pytest.mark.broker
def test_a_worker_waits_for_the_registry(
    broker: Broker, registry: Registry, gateway: Gateway, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avro, "PATIENCE", 1.0)
    broker.create(topic)
    number = registry.register(f"{topic}-value", CLICK)
    broker.send(topic, [message(number, CLICK, click(key)) for key in "ab"])
    gateway.instead = (503, b"")
    follower = TopicFollower(of(broker, gateway, topic), f"group-{topic}", lambda: lambda log: None)
    found: list[str] = []
    refused = 0
    try:
        for _ in range(60):
            try:
                polled = follower.poll(100, 10**6, 0.5)
            except Unavailable:
                refused += 1
                gateway.instead = None
                follower.begin_anew()
                continue
            if polled:
                found += polled.batch.frame.get_column("event_id", default=pl.Series([])).to_list()
            if found:
                break
    finally:
        follower.close()
    assert (refused, found) == (1, ["a", "b"])


@pytest.mark.broker
@pytest.mark.failure("auth")
def test_a_user_is_let_in_and_never_shown(
    broker: Broker,
    registry: Registry,
    gateway: Gateway,
    topic: str,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway.user = "lake:hunter2"
    broker.create(topic)
    form = Avro(gateway.url, EnvironmentUser("REGISTRY_USER"))
    source = source_of(broker, topic, format=form)
    number = registry.register(f"{topic}-value", CLICK)
    broker.send(topic, [message(number, CLICK, click("a")), b"{"])
    said = []
    for user in (None, "lake:wrong"):
        if user:
            monkeypatch.setenv("REGISTRY_USER", user)
        with pytest.raises(Unavailable) as caught:
            take(source, lake)
        said.append(str(caught.value))
    assert "the environment has no REGISTRY_USER" in said[0]
    assert "refuses the credentials" in said[1]
    monkeypatch.setenv("REGISTRY_USER", gateway.user)
    take(source, lake)
    assert ids(lake) == ["a"]
    kept = [p.read_bytes() for p in lake.root.rglob("*") if p.is_file()]
    shown = "".join((*said, repr(source), str(letters(lake)["violations"].to_list()))).encode()
    for secret in (b"hunter2", gateway.user.encode(), b"bGFrZTpodW50ZXIy"):
        assert not any(secret in text for text in (shown, *kept))
