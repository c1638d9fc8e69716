"""The names of tables in Dagster."""

import dagster as dg


def key_of(table: str) -> dg.AssetKey:
    """`silver.events` -> `silver_events`: the graph labels a node by the last part of its key alone."""
    return dg.AssetKey(table.replace(".", "_"))


def pool_of(table: str) -> str:
    """One pool a table with one slot: two runs never write one table at once."""
    return table.replace(".", "_")


def serving_of(view: str) -> str:
    """What the online copy of a gold table is called, like a table: `serving.user_features`."""
    return f"serving.{view}"
