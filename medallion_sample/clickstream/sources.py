"""Where clickstream rows come from: files that land, or topics where the installation has Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Literal

from medallion_platform import Debezium, FileSource, JsonLines, KafkaSource, Source
from medallion_sample.clickstream.contracts import (
    BronzeEvents,
    BronzeRegions,
    BronzeUsers,
)

EVENTS = FileSource(
    name="clickstream.events",
    table="bronze.events",
    contract=BronzeEvents.contract,
    claims=("clickstream/events/**",),
    format=JsonLines(),
    domain="clickstream",
    first_day=date(2026, 1, 1),
)

USERS = FileSource(
    name="clickstream.users",
    table="bronze.users",
    contract=BronzeUsers.contract,
    claims=("clickstream/users/**",),
    format=Debezium(key=("user_id",)),
    domain="clickstream",
)

REGIONS = FileSource(
    name="clickstream.regions",
    table="bronze.regions",
    contract=BronzeRegions.contract,
    claims=("clickstream/regions/**",),
    format=Debezium(key=("region_code",)),
    domain="clickstream",
)

TOPICS = {
    # Debezium names the topic of a table `<topic.prefix>.<schema>.<table>`.
    "clickstream.events": EVENTS,
    "clickstream.public.users": USERS,
    "clickstream.public.regions": REGIONS,
}


def sources(kafka: Mapping[str, str], engine: Literal["polars", "spark"] = "polars") -> tuple[Source, ...]:
    """Events, users and regions; kafka: settings of the client, empty where files land."""
    if not kafka:
        return tuple(TOPICS.values())
    return tuple(
        KafkaSource.of(source, topics=(topic,), settings=kafka, engine=engine)
        for topic, source in TOPICS.items()
    )
