"""What a table is called in Dagster."""

import dagster as dg


def key_of(table: str) -> dg.AssetKey:
    """`silver.events` -> `silver/events`."""
    return dg.AssetKey(table.split("."))


def pool_of(table: str) -> str:
    """One pool a table with one slot: two runs never write one table at once."""
    return table.replace(".", "_")
