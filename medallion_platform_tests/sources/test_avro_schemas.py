"""How logical types of Avro are read; others who read Avro in the same process are left alone."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import fastavro
import pytest
from fastavro.read import LOGICAL_READERS

from medallion_platform.sources.formats.avro import _Names

FIELDS: dict[str, Any] = {
    "at": {"type": "long", "logicalType": "timestamp-millis"},
    "day": ["null", {"type": "int", "logicalType": "date"}],
    "days": {"type": "array", "items": {"type": "int", "logicalType": "date"}},
    "price": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
    "total": {"type": "fixed", "name": "Total", "size": 2, "logicalType": "decimal", "precision": 4},
    "again": "Total",
    "by": {"type": "map", "values": ["null", "string"]},
}
SCHEMA = {"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in FIELDS.items()]}
ROW = {
    "at": datetime(2026, 1, 5, tzinfo=UTC),
    "day": date(2026, 1, 5),
    "days": [date(2026, 1, 6)],
    "price": Decimal("1.50"),
    "total": Decimal(7),
    "again": Decimal(8),
    "by": {"x": "plain"},
}


def test_the_readers_of_others_stay_as_they_were() -> None:
    body = BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(SCHEMA), ROW)

    def read(schema: Any) -> Any:
        body.seek(0)
        return fastavro.schemaless_reader(body, schema, None)

    before, theirs = dict(LOGICAL_READERS), read(fastavro.parse_schema(SCHEMA))
    assert read(_Names().parse(json.dumps(SCHEMA))) == {
        "at": "2026-01-05T00:00:00+00:00",
        "day": "2026-01-05",
        "days": ["2026-01-06"],
        "price": "1.50",
        "total": "7",
        "again": "8",
        "by": {"x": "plain"},
    }
    assert read(fastavro.parse_schema(SCHEMA)) == theirs == ROW
    assert {kind: LOGICAL_READERS[kind] for kind in before} == before


def test_what_is_no_schema_is_still_refused() -> None:
    wrong = {**FIELDS["price"], "scale": 9}
    with pytest.raises(fastavro.schema.SchemaParseException):
        _Names().parse(json.dumps({**SCHEMA, "fields": [{"name": "f", "type": wrong}]}))
