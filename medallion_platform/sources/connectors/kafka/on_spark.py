"""Topics read by Spark: the same settings, offsets and records as those of the polars engine's client."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.sources.connectors.kafka.client import TIMEOUT
from medallion_platform.sources.connectors.kafka.messages import (
    LAST_TIMESTAMP,
    MESSAGE,
    headers_column,
    parse_messages,
)
from medallion_platform.sources.connectors.kafka.offsets import EPOCH, PartitionCursor
from medallion_platform.sources.connectors.kafka.source import KafkaSource

if TYPE_CHECKING:
    import pyarrow as pa

    from medallion_platform.sources.connectors.kafka.settings import ClientSetting

_MILLISECONDS = int(TIMEOUT * 1000)
_NO_TIMESTAMP = -1
_LOGINS = {"PLAIN": "plain.Plain", "SCRAM-SHA-256": "scram.Scram", "SCRAM-SHA-512": "scram.Scram"}
_SAME = {
    *("security.protocol", "ssl.endpoint.identification.algorithm", "ssl.key.password"),
    "sasl.kerberos.service.name",
}
"""Settings of security that have one name for both clients."""


class NotForSpark(MedallionError):
    """A setting of the polars engine's client that has no counterpart in the Java client."""

    kind = Kind.PERMANENT


def java_settings(settings: Mapping[str, ClientSetting]) -> dict[str, str]:
    """A client's settings under the names of the Java client ("Consumer Configs" in Kafka's documentation).

    Raises:
        NotForSpark: one concerns security and has no counterpart, or a file cannot be read.
    """
    given = {name: str(value) for name, value in settings.items()}
    mechanism = given.pop("sasl.mechanism", given.pop("sasl.mechanisms", ""))
    java: dict[str, str] = {}
    if mechanism:
        java["sasl.mechanism"] = mechanism
        user, password = given.pop("sasl.username", ""), given.pop("sasl.password", "")
        if mechanism not in _LOGINS:
            raise NotForSpark(f"sasl.mechanism {mechanism} is not known to the Spark engine")
        java["sasl.jaas.config"] = (
            f"org.apache.kafka.common.security.{_LOGINS[mechanism]}LoginModule required "
            f"username={_quote_jaas(user)} password={_quote_jaas(password)};"
        )
    if authority := given.pop("ssl.ca.location", ""):
        java |= {
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": _read_key_file("ssl.ca.location", authority),
        }
    if certificate := given.pop("ssl.certificate.location", ""):
        java |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": _read_key_file("ssl.certificate.location", certificate),
            "ssl.keystore.key": _read_key_file("ssl.key.location", given.pop("ssl.key.location", "")),
        }
    if given.get("ssl.endpoint.identification.algorithm") == "none":
        given["ssl.endpoint.identification.algorithm"] = ""
    for name in given:
        if name.startswith(("ssl.", "sasl.", "enable.ssl", "enable.sasl")) and name not in _SAME:
            raise NotForSpark(f"{name} has no counterpart in the spark engine: take the polars one")
    return {**given, **java}


def spark_reader_options(
    source: KafkaSource, readings: Iterable[PartitionCursor], most: int
) -> dict[str, str]:
    """The options of Spark's Kafka reader: the start of each partition, and the size limit of a batch.

    Raises:
        NotForSpark: a setting has no counterpart.
    """
    begin: dict[str, dict[str, int]] = {}
    for reading in readings:
        begin.setdefault(reading.place[0], {})[str(reading.place[1])] = reading.next
    return {
        **{f"kafka.{name}": value for name, value in java_settings(source.settings).items()},
        "kafka.isolation.level": "read_committed",
        "kafka.default.api.timeout.ms": str(_MILLISECONDS),
        "kafka.request.timeout.ms": str(_MILLISECONDS),
        "kafkaConsumer.pollTimeoutMs": str(_MILLISECONDS),
        "subscribePattern" if source.pattern else "subscribe": source.pattern or ",".join(source.topics),
        "startingOffsets": json.dumps(begin),
        "maxOffsetsPerTrigger": str(most),
        "includeHeaders": "true",
        # What a broker deleted meanwhile is told with its exact range, by whoever begins anew.
        "failOnDataLoss": "true",
    }


def partition_provenance(readings: Iterable[PartitionCursor]) -> pl.DataFrame:
    """The provenance of each partition's messages: topic, partition, _source, _file, epoch, next."""
    return pl.DataFrame(
        [(*r.place, r.log, r.partition.name, r.epoch * EPOCH, r.next) for r in readings],
        schema={
            **{"topic": pl.String, "partition": pl.Int32, "_source": pl.String, "_file": pl.String},
            **{"epoch": pl.Int64, "next": pl.Int64},
        },
        orient="row",
    )


def records_from_spark(source: KafkaSource, messages: pa.Table, known: pl.DataFrame) -> pl.DataFrame:
    """Messages in the form of the polars engine's client; known: their `partition_provenance`.

    messages: Spark's columns topic, partition, offset, timestamp, timestampType, key, value, and its
    headers as JSON text (null where there are none).
    """
    came: Any = pl.from_arrow(messages)
    came = came.join(known, on=["topic", "partition"], how="left", maintain_order="left")
    came = came.filter(pl.col("offset") >= pl.col("next"))
    if came.is_empty():
        return pl.DataFrame()
    since = pl.col("timestamp").dt.timestamp("us")
    provenance = came.select(
        "_source",
        "_file",
        (pl.col("offset") + 1).alias("_row"),
        (pl.col("offset") + pl.col("epoch")).alias("_offset"),
        pl.col("key").cast(pl.Binary).alias("_key"),
        pl.when((pl.col("timestampType") != _NO_TIMESTAMP) & since.is_between(0, LAST_TIMESTAMP * 1000 - 1))
        .then(since)
        .cast(MESSAGE["_timestamp"])
        .alias("_timestamp"),
    )
    headers = headers_column([_decode_headers(text) for text in came["headers"].to_list()])
    return parse_messages(source, came["value"].to_list(), {**provenance.to_dict(), "_headers": headers})


def _decode_headers(headers: str | None) -> list[tuple[str, bytes | None]]:
    if headers is None:
        return []
    pairs = json.loads(headers)
    return [(h["key"], b64decode(h["value"]) if "value" in h else None) for h in pairs]


def _quote_jaas(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _read_key_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        refused = NotForSpark(f"the file that {name} names: {error.strerror}")
    raise refused  # out here: the path may be a password in the wrong place
