from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.debezium.events import add_message_key
from medallion_platform.sources.formats.debezium.source_position import source_position
from medallion_platform.sources.formats.debezium.values import UNTOLD
from medallion_platform_tests.sources.reading import frame_of, is_text, same

POSTGRES = {
    "version": "3.7.0.Final",
    "connector": "postgresql",
    "name": "s",
    "ts_ms": 1_700_000_000_123,
    "snapshot": "false",
    "db": "d",
    "sequence": '["90","100"]',
    "schema": "public",
    "table": "t",
    "txId": 1,
    "lsn": 100,
}


def event(op: str, after: Any = None, before: Any = None, **source: Any) -> dict[str, Any]:
    where = {**POSTGRES, **source}
    return {"before": before, "after": after, "source": where, "op": op, "ts_ms": 1_700_000_000_999}


def frame(events: list[Any]) -> pl.DataFrame:
    lines = [e if isinstance(e, str) else json.dumps(e, separators=(",", ":")) for e in events]
    return frame_of("\n".join(lines).encode(), Debezium())


ROW = {"id": 1, "name": "x"}


@pytest.mark.parametrize("copies", [1, 10])
@pytest.mark.parametrize(
    ("given", "op", "fields"),
    [
        (event("c", ROW), "c", ("1", "x")),
        (event("r", ROW, snapshot="incremental"), "r", ("1", "x")),
        (event("u", ROW, {"id": 1, "name": "old"}), "u", ("1", "x")),
        (event("u", ROW), "u", ("1", "x")),
        (event("d", None, ROW), "d", ("1", "x")),
        (event("t"), "t", (None, None)),
        ({**event("m"), "message": {"prefix": "p", "content": "eA=="}}, "m", (None, None)),
        ("null", "tombstone", (None, None)),
        ("", "tombstone", (None, None)),
        ({"schema": None, "payload": None}, "tombstone", (None, None)),
    ],
)
def test_every_operation(given: Any, op: str, fields: tuple[Any, ...], copies: int):
    got = frame([event("c", ROW), *[given] * copies, event("c", ROW)])[1:-1]
    assert got["_malformed"].null_count() == copies
    assert got["_op"].to_list() == [op] * copies
    assert got.select("id", "name").rows() == [fields] * copies
    if op != "tombstone":
        assert got["_changed_at"].to_list() == ["2023-11-14T22:13:20.123Z"] * copies
        assert set(got["_snapshot"]) == {"true" if op == "r" else "false"}
    else:
        assert got["_sequence"].null_count() == copies


@pytest.mark.parametrize("copies", [1, 10])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"id":1}', "not a change event"),
        (event("x", ROW), "not a change event"),
        (event("c"), "a change event without its row"),
        (event("d", ROW), "a change event without its row"),
        ({**event("c", ROW), "source": None}, "a change event without its source"),
        (event("c", ROW, connector="\ud800"), "a change event without its source"),
        ({**event("c", ROW), "after": "text"}, "its row is not JSON"),
    ],
)
def test_what_is_no_change_event_is_kept(given: Any, why: str, copies: int):
    got = frame([event("c", ROW), *[given] * copies])
    assert got["_malformed"].to_list() == [None, *[why] * copies]
    assert got["_op"].to_list() == ["c", *[None] * copies]
    assert got["id"].to_list() == ["1", *[None] * copies]


def test_a_bad_escape_anywhere_in_an_event_is_refused_among_good_ones():
    good = json.dumps(event("u", ROW, {"name": "old"}))
    bad = [good.replace(f'"{text}"', rf'"{text}\q"') for text in ("old", "postgresql", "public", "x")]
    got = frame([good] * 10 + bad)
    assert got["_malformed"].to_list() == [None] * 10 + ["not JSON"] * 4


def test_columns_named_like_ours_keep_their_values():
    got = frame([event("c", {"_op": "mine", "_row": 5})] * 10)
    assert got.select("_op", "_op_", "_row_").unique().rows() == [("c", "mine", "5")]


def test_the_time_of_the_event_stands_in_for_the_source():
    for ms in (None, 0):
        got = frame([event("c", ROW, ts_ms=ms)] * 10)
        assert got["_changed_at"].unique().to_list() == ["2023-11-14T22:13:20.999Z"]


SCHEMA = {
    "type": "struct",
    "fields": [
        {
            "type": "struct",
            "field": side,
            "fields": [
                {"type": "int32", "field": "id"},
                {"type": "int32", "name": "io.debezium.time.Date", "field": "day"},
                {"type": "int64", "name": "io.debezium.time.MicroTimestamp", "field": "at"},
                {"type": "int64", "name": "io.debezium.time.Timestamp", "field": "ms"},
                {"type": "int64", "name": "io.debezium.time.NanoTimestamp", "field": "ns"},
                {"type": "int64", "name": "io.debezium.time.MicroTime", "field": "clock"},
                {"type": "string", "name": "io.debezium.time.ZonedTimestamp", "field": "zoned"},
                {
                    "type": "bytes",
                    "name": "org.apache.kafka.connect.data.Decimal",
                    "parameters": {"scale": "2"},
                    "field": "price",
                },
                {
                    "type": "struct",
                    "name": "io.debezium.data.VariableScaleDecimal",
                    "field": "free",
                },
            ],
        }
        for side in ("before", "after")
    ],
}
TYPED = {
    "id": 7,
    "day": 20_000,
    "at": 1_700_000_000_123_456,
    "ms": -1,
    "ns": 1_700_000_000_123_456_789,
    "clock": 45_296_000_001,
    "zoned": "2026-01-02T03:04:05Z",
    "price": b64encode((-12345).to_bytes(4, "big", signed=True)).decode(),
    "free": {"scale": 3, "value": b64encode((1500).to_bytes(2, "big")).decode()},
}
PLAIN = (
    *("7", "2024-10-04", "2023-11-14T22:13:20.123456", "1969-12-31T23:59:59.999"),
    *("2023-11-14T22:13:20.123456", "12:34:56.000001", "2026-01-02T03:04:05Z", "-123.45", "1.500"),
)


@pytest.mark.parametrize("copies", [1, 20])
def test_values_with_a_schema_become_plain_text(copies: int):
    wrapped = {"schema": SCHEMA, "payload": event("c", TYPED)}
    removed = {"schema": SCHEMA, "payload": event("d", None, TYPED)}
    bare = event("c", {**TYPED, "free": None})
    got = frame([wrapped, removed, bare] * copies)
    assert got["_malformed"].null_count() == 3 * copies
    rows = got.select(list(TYPED)).rows()
    assert set(rows[0::3]) == set(rows[1::3]) == {PLAIN}
    assert set(rows[2::3]) == {(*(str(v) for v in list(TYPED.values())[:-1]), None)}
    assert got["_op"].to_list() == ["c", "d", "c"] * copies


def test_a_value_out_of_range_stays_as_it_is():
    odd = {**TYPED, "day": 10**12, "at": 2**63 - 1, "price": "?", "clock": -5}
    got = frame([{"schema": SCHEMA, "payload": event("c", odd)}] * 9)
    assert got.select("day", "at", "price", "clock").unique().rows() == [
        ("1000000000000", str(2**63 - 1), "?", "-5")
    ]


@settings(deadline=None, max_examples=50)
@given(st.integers(-(10**30), 10**30), st.integers(-3, 12))
def test_decimals(unscaled: int, scale: int):
    raw = unscaled.to_bytes(16, "big", signed=True)
    field = {
        "field": "x",
        "name": "org.apache.kafka.connect.data.Decimal",
        "parameters": {"scale": str(scale)},
    }
    schema = {"fields": [{"field": "after", "fields": [field]}]}
    got = frame([{"schema": schema, "payload": event("c", {"x": b64encode(raw).decode()})}])
    assert Decimal(got["x"][0]) == Decimal(f"{unscaled}e{-scale}")
    assert "E" not in got["x"][0]


def test_positions_sort_as_the_source_does():
    def in_order(*sources: tuple[str, Mapping[str, Any]]) -> None:
        places = [source_position({k: str(v) for k, v in s.items()}, op) for op, s in sources]
        assert places == sorted(places)
        assert len(set(places)) == len(places)

    pg = {"connector": "postgresql"}
    in_order(
        ("u", {**pg, "lsn": 99}),
        ("r", {**pg, "lsn": 100, "snapshot": "last"}),
        ("u", {**pg, "lsn": 100}),
        ("c", {**pg, "lsn": 101, "sequence": '["90","101"]'}),
        ("c", {**pg, "lsn": 95, "sequence": '["1000","95"]'}),
        ("c", {**pg, "sequence": '["1000","1001"]'}),
        ("r", {**pg, "lsn": 5000, "snapshot": "incremental"}),
        ("u", {**pg, "lsn": 20000}),
    )
    my = {"connector": "mysql"}
    in_order(
        ("u", {**my, "file": "bin.000009", "pos": 5000, "row": 0}),
        ("r", {**my, "file": "bin.000010", "pos": 4, "row": 0, "snapshot": "true"}),
        ("u", {**my, "file": "bin.000010", "pos": 4, "row": 0}),
        ("u", {**my, "file": "bin.000010", "pos": 4, "row": 1}),
        ("u", {**my, "file": "bin.000010", "pos": 4, "row": 10}),
        ("u", {**my, "file": "bin.000010", "pos": 30, "row": 0}),
        ("u", {**my, "file": "bin.1000000", "pos": 1, "row": 0}),
    )
    ms = {"connector": "sqlserver"}
    in_order(
        ("r", {**ms, "commit_lsn": "00000027:00000758:0005", "snapshot": "true"}),
        (
            "u",
            {**ms, "commit_lsn": "00000027:00000758:0005", "change_lsn": "00000027:00000757:0002"},
        ),
        (
            "d",
            {
                **ms,
                "commit_lsn": "00000027:00000ABC:0005",
                "change_lsn": "00000027:00000757:0003",
                "event_serial_no": 1,
            },
        ),
        (
            "c",
            {
                **ms,
                "commit_lsn": "00000027:00000abc:0005",
                "change_lsn": "00000027:00000757:0003",
                "event_serial_no": 2,
            },
        ),
    )
    oracle = {"connector": "oracle"}
    in_order(
        ("r", {**oracle, "scn": "500", "snapshot": "true"}),
        ("u", {**oracle, "scn": "450", "commit_scn": "501"}),
        ("u", {**oracle, "scn": "502", "commit_scn": "1503"}),
    )
    in_order(("c", {"ts_ms": 5, "ord": 1}), ("c", {"ts_ms": 5, "ord": 2}), ("c", {"ts_us": 5001}))


MESSY = (
    st.lists(
        st.sampled_from(
            [
                json.dumps(event("c", ROW)),
                json.dumps(event("u", {"id": 2, "name": 'q"é'})),
                json.dumps(event("d", None, ROW)),
                json.dumps({"schema": SCHEMA, "payload": event("r", TYPED)}),
                json.dumps({"schema": SCHEMA, "payload": event("r", TYPED)})[:-1] + ',"x":1}',
                json.dumps({"schema": SCHEMA, "payload": event("r", TYPED)})[:-1] + "x}",
                json.dumps({"schema": SCHEMA, "payload": None}),
                json.dumps({"payload": event("r", TYPED), "schema": SCHEMA}),
                json.dumps(event("t")),
                "null",
                "",
                "{",
            ]
        ),
        max_size=30,
    )
    .map("\n".join)
    .map(str.encode)
    | st.binary(max_size=60)
).filter(is_text)


@settings(deadline=None, max_examples=50)
@given(MESSY, st.sampled_from([1, 100, 1000]), st.integers(1, 6))
def test_blocks_and_resuming_never_change_the_records(content: bytes, block: int, first_row: int):
    one = frame_of(content, Debezium())
    assert same(frame_of(content, Debezium(), block), one)
    resumed = frame_of(content, Debezium(), block, first_row)
    assert same(resumed, one.filter(pl.col("_row") >= first_row))
    for row in range(min(len(one), 8)):
        payload = one["_payload"][row : row + 1]
        if payload[0] is not None:
            again = Debezium().parse_again(payload)
            assert same(again.drop("_row"), one[row : row + 1].drop("_row"))


@pytest.mark.parametrize("placeholder", ["__debezium_unavailable_value", "n/a é"])
@pytest.mark.parametrize("copies", [1, 10])
def test_a_value_that_was_not_told_is_known_in_every_spelling(placeholder: str, copies: int):
    raw = placeholder.encode()
    spelled = {
        "text": placeholder,
        "bytes": b64encode(raw).decode(),
        "hex": raw.hex(),
        "texts": [placeholder],
        "blobs": [b64encode(raw).decode()],
        "numbers": list(raw),
        "hstore": {placeholder: placeholder},
        "hstore as text": json.dumps({placeholder: placeholder}, ensure_ascii=False),
    }
    told = {"other": ["x", placeholder], "part": f"{placeholder}!", "none": None}
    lines = [
        json.dumps(event("u", {**spelled, **told}), ensure_ascii=False, separators=s)
        for s in ((",", ":"), (", ", ": "))
        for _ in range(copies)
    ]
    got = frame_of("\n".join(lines).encode(), Debezium(unavailable_value_placeholder=placeholder))
    assert set(got.select(list(spelled)).unpivot()["value"]) == {"__debezium_unavailable_value"}
    assert got["part"].unique().to_list() == [f"{placeholder}!"]
    assert got["none"].null_count() == 2 * copies
    assert all(json.loads(v) == ["x", placeholder] for v in got["other"])


# as other connectors write them ---------------------------------------------------------------------

MONGO = {"connector": "mongodb", "ts_ms": 1_706_968_217_000, "snapshot": "false", "rs": "rs0", "ord": 2}


def test_a_value_that_was_not_told_is_known_without_a_column_too():
    wide = {f"c{n}": n for n in range(2_100)} | {"tags": ["__debezium_unavailable_value"], "text": "x"}
    (got,) = frame([event("u", wide)])["_further"]
    assert (json.loads(got)["tags"], json.loads(got)["text"]) == (UNTOLD, "x")


DEEP = "[" * 100_000
LONG = "9" * 5_000


@pytest.mark.parametrize("copies", [1, 10])
@pytest.mark.parametrize(
    "source",
    [
        {"sequence": DEEP, "lsn": 7},
        {"sequence": DEEP, "lsn": None},
        {"sequence": "7", "lsn": 7},
        {"sequence": "[[1], {}]", "lsn": 7},
        {"sequence": f"[{LONG}, 1]", "lsn": None},
        {"connector": "other", "sequence": None, "lsn": None, "ts_ms": 1, "ts_ns": LONG},
        {
            "connector": "mysql",
            "sequence": None,
            "lsn": None,
            "file": "bin.1",
            "pos": LONG,
            "gtid": f"u:{LONG}",
        },
        {"connector": "oracle", "sequence": None, "lsn": None, "scn": LONG},
    ],
)
def test_a_place_that_nobody_can_read_stops_no_other_event(source: dict[str, Any], copies: int):
    got = frame([event("c", ROW), *[event("c", ROW, **source)] * copies, event("c", ROW)])
    assert got.height == copies + 2
    assert got["_malformed"].null_count() == copies + 2
    assert got["_sequence"].null_count() == 0


@pytest.mark.parametrize(
    "value",
    [
        DEEP,
        f'{{"scale":{"9" * 30},"value":"AQ=="}}',
        f'{{"scale":{LONG},"value":"AQ=="}}',
        '{"scale":1}',
        "7",
    ],
)
def test_a_number_of_any_scale_that_cannot_be_read_stays_as_it_is(value: str):
    kind = {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "field": "n"}
    schema = {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": [kind]}]}
    given = [
        {"schema": schema, "payload": event("c", {"n": v})} for v in (value, {"scale": 1, "value": "Cg=="})
    ]
    assert frame(given)["n"].to_list() == [value, "1.0"]


def mongo(op: str, after: Any = None) -> dict[str, Any]:
    told = None if after is None else json.dumps(after)
    return {"before": None, "after": told, "updateDescription": None, "source": MONGO, "op": op, "ts_ms": 1}


@pytest.mark.parametrize("copies", [1, 10])
def test_documents_of_mongodb(copies: int):
    document = {
        "_id": {"$oid": "65bc9fb6c485f419a7a877fe"},
        "n": {"$numberLong": "1004"},
        "price": {"$numberDecimal": "1.50"},
        "at": {"$date": 1_706_968_217_123},
        "until": {"$date": {"$numberLong": "-1"}},
        "tags": ["a", {"$oid": "b"}],
        "name": None,
    }
    events = [mongo("c", document), mongo("r", document), mongo("u", document), mongo("u"), mongo("d")]
    got = frame(events * copies)
    columns = ["id", "n", "price", "at", "until", "name"]
    assert got[:3].select(columns).unique().rows() == [
        (
            "65bc9fb6c485f419a7a877fe",
            "1004",
            "1.50",
            "2024-02-03T13:50:17.123Z",
            "1969-12-31T23:59:59.999Z",
            None,
        )
    ]
    assert json.loads(got["tags"][0]) == document["tags"]
    why = "an update without its document: set capture.mode=change_streams_update_full"
    assert got["_malformed"].to_list() == [None, None, None, why, "a change event without its row"] * copies


@pytest.mark.parametrize("connector", ["cassandra", "spanner"])
@pytest.mark.parametrize("copies", [1, 10])
def test_a_connector_that_is_not_supported_is_refused_by_its_name(connector: str, copies: int):
    got = frame([event(op, ROW, connector=connector) for op in "ciu"] * copies)
    assert set(got["_malformed"]) == {f"events of the {connector} connector are not supported"}


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_delete_that_tells_no_row_has_that_of_its_key(wrapped: bool):
    def text(told: Any) -> bytes:
        return json.dumps({"schema": None, "payload": told} if wrapped else told).encode()

    document = text(mongo("d"))
    row = Debezium().parse([add_message_key(document, text({"id": '{"$oid": "65bc"}'}))]).row(0, named=True)
    assert (row["_malformed"], row["_op"], row["id"]) == (None, "d", "65bc")
    number = Debezium().parse([add_message_key(document, text({"id": "7"}))]).row(0, named=True)
    assert number["id"] == "7"
    table = (
        Debezium().parse([add_message_key(text(event("d")), text({"id": 5, "part": "x"}))]).row(0, named=True)
    )
    assert (table["_malformed"], table["id"], table["part"]) == (None, "5", "x")
    # The payload alone says it again.
    again = Debezium().parse_again(pl.Series([table["_payload"]])).row(0, named=True)
    assert again == table
    for value, key in (
        (text(event("d", None, ROW)), text({"id": 5})),
        (text(event("u", ROW)), text({"id": 5})),
        (document, None),
        (document, b"plain"),
        (document, text({"id": "{"})),
        (b'{"d', text({"id": 5})),
        (b'"d"', text({"id": 5})),
    ):
        assert add_message_key(value, key) == value


def test_a_real_capture(real_data: Any):
    (got,) = Debezium().read(real_data / "debezium" / "postgres-products.jsonl")
    assert len(got) == 16
    assert got["_malformed"].null_count() == 16
    assert got["_op"].value_counts().sort("_op").rows() == [("c", 2), ("d", 1), ("r", 9), ("u", 4)]
    final: dict[str, dict[str, Any]] = {}
    for row in got.sort("_sequence").iter_rows(named=True):
        final.pop(row["id"], None)
        if row["_op"] != "d":
            final[row["id"]] = row
    assert sorted(final) == [str(i) for i in range(101, 111)]
    assert final["106"]["description"] == "18oz carpenter hammer"
    assert final["107"]["weight"] == "5.1"
    assert final["110"]["description"] == "new water resistent white wind breaker"
    assert final["110"]["weight"] == "0.5"
