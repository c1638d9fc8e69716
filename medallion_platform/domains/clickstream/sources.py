"""Where clickstream rows land."""

from __future__ import annotations

from datetime import date

from medallion_platform.domains.clickstream.contracts import (
    BronzeEvents,
    BronzeRegions,
    BronzeUsers,
)
from medallion_platform.sources.source import Debezium, FileSource, JsonLines

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

SOURCES = (EVENTS, USERS, REGIONS)
