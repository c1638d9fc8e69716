"""Lookups by keys of several columns, one of them personal: found, not found, and found otherwise later."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyspark.sql.types as T
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.errors import DeclarationError
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import Lookup, Table, daily, table
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.transforms import as_of

from .shop import assert_same, bring_all, rebuilt
from .toy import MONDAY, Zone


class RawMembers(ContractModel):
    """Where members of a club live, as they told it."""

    club: T.LongType = Field()
    email: T.StringType = Field(pii="email", protect="tokenize")
    position: T.LongType = Field()
    moved_at: T.TimestampType = Field()
    city: T.StringType = Field(nullable=True)


class Members(ContractModel):
    """Every place where a member lived."""

    club: T.LongType = Field()
    email: T.StringType = Field(pii="email", protect="tokenize")
    city: T.StringType = Field(nullable=True)
    effective_from: T.TimestampType = Field()
    source_position: T.LongType = Field()

    class Config:
        metadata = {"key": ["club", "email", "source_position"]}  # noqa: RUF012


OF_VISITS = {"key": ["visit"], "event_time": "came_at", "partitioned_by": ["event_date"]}


class Visits(ContractModel):
    """Visits of a club by somebody."""

    visit: T.StringType = Field()
    event_date: T.DateType = Field()
    came_at: T.TimestampType = Field()
    club_id: T.LongType = Field(nullable=True)
    visitor: T.StringType = Field(nullable=True, pii="email", protect="tokenize")

    class Config:
        metadata = OF_VISITS


class VisitsWithCity(Visits):
    """Visits with the city in which the visitor lived then."""

    city: T.StringType = Field(isin=["Bonn", "Linz", "Ulm"], nullable=True)
    is_member: T.BooleanType = Field()

    class Config:
        metadata = OF_VISITS


class RawVisits(ContractModel):
    """Visits as the clubs tell them."""

    visit: T.StringType = Field()
    came_at: T.TimestampType = Field()
    club_id: T.LongType = Field(nullable=True)
    visitor: T.StringType = Field(nullable=True, pii="email", protect="tokenize")

    class Config:
        metadata = OF_VISITS


MOVES = FileSource("moves", "bronze.moves", RawMembers.contract, JsonLines(), "club", claims=("moves/**",))
VISITS = FileSource("visits", "bronze.visits", RawVisits.contract, JsonLines(), "club", claims=("visits/**",))
BY = Lookup("silver.members", key=["club", "email"], by=["club_id", "visitor"])


@table(
    "silver.members",
    contract=Members.contract,
    inputs={"moves": "bronze.moves"},
    incremental="merge_by_key",
    recompute_key=("club", "email"),
)
def members(moves: DataFrame) -> DataFrame:
    """Each move begins a version."""
    return moves.select(
        "club",
        "email",
        "city",
        F.col("moved_at").alias("effective_from"),
        F.col("position").alias("source_position"),
    )


@table(
    "silver.visits",
    contract=Visits.contract,
    inputs={"visits": "bronze.visits"},
    incremental="append",
    partition=daily("event_date"),
)
def visits(visits: DataFrame) -> DataFrame:
    """Visits, behind bronze."""
    return visits.drop("_payload")


@table(
    "gold.visits",
    contract=VisitsWithCity.contract,
    inputs={"visits": "silver.visits", "members": BY},
    incremental="append",
    partition=daily("event_date"),
)
def visits_with_city(visits: DataFrame, members: DataFrame) -> DataFrame:
    """Visits with the city of the visitor at that time."""
    return as_of(
        visits,
        members,
        key=("club", "email"),
        by=("club_id", "visitor"),
        at="came_at",
        take={"city": "city"},
        known="is_member",
    )


CLUB = Catalog((MOVES, VISITS), (members, visits, visits_with_city))


def move(club: int, who: str, position: int, day: int, city: str) -> dict[str, Any]:
    at = (MONDAY + timedelta(days=day)).isoformat()
    return {"club": club, "email": f"{who}@example.com", "position": position, "moved_at": at, "city": city}


def visit(name: str, day: int, club: int | None, who: str | None) -> dict[str, Any]:
    at = (MONDAY + timedelta(days=day, hours=12)).isoformat()
    return {"visit": name, "came_at": at, "club_id": club, "visitor": who and f"{who}@example.com"}


def take(zone: Zone, source: FileSource, name: str, *told: dict[str, Any]) -> None:
    zone.put(f"{source.name}/{name}.json", "".join(json.dumps(t) + "\n" for t in told).encode())
    assert zone.take(source).counts.dead_lettered == 0


def cities(lake: Lake) -> dict[str, tuple[str | None, bool]]:
    found = pl.read_delta(lake.path("gold.visits"))
    assert found["visitor"].drop_nulls().str.contains(r"^[0-9a-f]{64}$").all(), "tokens, not addresses"
    return {row["visit"]: (row["city"], row["is_member"]) for row in found.to_dicts()}


def files_of(lake: Lake, day: int) -> set[str]:
    opened = lake.open("gold.visits")
    assert opened is not None
    return {f for f in opened.file_uris() if f"event_date={MONDAY + timedelta(days=day):%F}" in f}


def test_a_history_is_looked_up_by_several_columns_and_again_once_it_changes(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_TOKEN_KEY", "sixteen letters!")
    zone = Zone(tmp_path)
    take(
        zone, MOVES, "1", move(1, "ada", 1, 0, "Ulm"), move(2, "ada", 2, 0, "Bonn"), move(1, "bo", 3, 0, "?")
    )
    take(
        zone,
        VISITS,
        "1",
        visit("first club", 1, 1, "ada"),
        visit("second club", 2, 2, "ada"),
        visit("no club", 2, None, "ada"),
        visit("nobody", 2, 1, None),
        visit("rejected", 3, 1, "bo"),
        visit("not here", 4, 2, "bo"),
    )
    bring_all(zone.lake, spark, CLUB)
    assert cities(zone.lake) == {
        "first club": ("Ulm", True),
        "second club": ("Bonn", True),
        "no club": (None, False),
        "nobody": (None, False),
        "not here": (None, False),
    }
    assert dead_letters.read(zone.lake, "gold.visits").height == 1
    kept = files_of(zone.lake, 2)

    # A move that was told late, one that mends what was rejected, and a member who was not known.
    take(
        zone, MOVES, "2", move(1, "ada", 4, 1, "Linz"), move(1, "bo", 5, 2, "Ulm"), move(2, "bo", 6, 0, "Ulm")
    )
    bring_all(zone.lake, spark, CLUB)
    found = cities(zone.lake)
    assert found["first club"] == ("Linz", True)
    assert found["rejected"] == found["not here"] == ("Ulm", True)
    assert dead_letters.read(zone.lake, "gold.visits").is_empty()
    assert files_of(zone.lake, 2) == kept, "no partition is computed again for half a key"
    assert_same(zone.lake, rebuilt(zone.lake, spark, tmp_path / "again", CLUB), CLUB.tables)


def test_what_comes_in_clear_is_not_looked_up_among_tokens() -> None:
    def from_bronze(visits: DataFrame, members: DataFrame) -> DataFrame:
        return visits

    declared: Table = table(
        "gold.visits",
        contract=VisitsWithCity.contract,
        inputs={"visits": "bronze.visits", "members": BY},
        incremental="append",
        partition=daily("event_date"),
    )(from_bronze)
    with pytest.raises(
        DeclarationError, match=r"'email' of silver.members holds tokens, and 'visitor' comes in"
    ):
        Catalog((MOVES, VISITS), (members, declared))


@pytest.mark.parametrize(("key", "by"), [(("a", "b"), "a"), ("a", ("a", "b")), ((), ()), ("", "")])
def test_a_lookup_s_key_has_as_many_columns_as_point_to_it(key: Any, by: Any) -> None:
    with pytest.raises(DeclarationError, match="have to name as many columns"):
        Lookup("silver.members", key=key, by=by)
