"""Change events on their way into bronze: what is asked of values not told, and what a key tells."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pyspark.sql.types as T

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.pipeline.intake.triage import validate
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.connectors.kafka.messages import parse_messages
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.debezium.values import UNTOLD
from medallion_platform_tests.pipeline.toy import RUN


class Paper(ContractModel):
    """A table with what Postgres keeps apart."""

    id: T.StringType = Field()
    kind: T.StringType = Field(isin=["a", "b"])
    body: T.StringType = Field(str_length={"max_value": 5})
    day: T.DateType = Field(nullable=True)


SOURCE = KafkaSource(
    "papers",
    "bronze.papers",
    Paper.contract,
    Debezium(),
    "toy",
    topics=("papers",),
    settings={"bootstrap.servers": "127.0.0.1:1"},
)


def validated(*messages: tuple[Any, Any]) -> Any:
    """What becomes of messages, (key, value) each."""
    values = [json.dumps(value).encode() for _, value in messages]
    told = {
        "_source": pl.Series(["papers/papers/0"] * len(values)),
        "_file": pl.Series(["papers/0"] * len(values)),
        "_row": pl.Series(range(1, len(values) + 1), dtype=pl.Int64),
        "_offset": pl.Series(range(len(values)), dtype=pl.Int64),
        "_key": pl.Series([json.dumps(key).encode() for key, _ in messages], dtype=pl.Binary),
    }
    return validate(SOURCE, parse_messages(SOURCE, values, told), RUN.at)


def event(op: str, **row: Any) -> dict[str, Any]:
    source = {"connector": "postgresql", "lsn": 5, "ts_ms": 1_767_571_200_000}
    return {"before": None, "after": row or None, "source": source, "op": op, "ts_ms": 1}


def test_what_a_contract_expects_is_asked_of_told_values_alone() -> None:
    found = validated(
        (1, event("u", id="1", kind=UNTOLD, body="short")),
        (2, event("u", id="2", kind="a", body=[UNTOLD])),
        (3, event("u", id="3", kind=UNTOLD, body={UNTOLD: UNTOLD})),
        (4, event("u", id="4", kind="c", body=UNTOLD)),
        (5, event("u", id="5", kind=UNTOLD, body="too long")),
        (6, event("u", id="6", kind="a", body="b", day=UNTOLD)),
    )
    assert found.good.select("id", "kind", "body").rows() == [
        ("1", UNTOLD, "short"),
        ("2", "a", UNTOLD),
        ("3", UNTOLD, UNTOLD),
    ]
    broken = dict(found.bad.sort("_offset").select("id", "_violations").rows())
    assert sorted(broken) == ["4", "5", "6"]
    assert broken["6"] == ["day: is a date"]


def test_a_delete_goes_by_the_key_of_its_message_where_it_tells_no_row() -> None:
    mongo = {
        "before": None,
        "after": None,
        "op": "d",
        "source": {"connector": "mongodb", "ts_ms": 7, "ord": 1},
    }
    found = validated(({"id": '{"$oid": "65bc"}'}, mongo), ({"id": "9"}, event("d")), (None, event("d")))
    assert found.good.select("_op", "id").rows() == [("d", "65bc"), ("d", "9")]
    assert found.bad["_malformed"].to_list() == ["a change event without its row"]


def test_an_event_that_does_not_say_where_it_stood_stands_where_it_came() -> None:
    lost = event("u", id="1", kind="a", body="b") | {"source": {"connector": "mysql", "file": "", "pos": 0}}
    places = validated((1, lost), (1, lost), (1, lost)).good["_sequence"].to_list()
    assert places == sorted(set(places))
    assert len(places) == 3
