"""The names of tables and jobs in Dagster."""

import dagster as dg

CATCH_UP = "catch_up"
BRING_UP = "bring_up"
"""The one op of the job `catch_up`."""
CATCH_UP_SENSOR = "catch_up_sensor"
INTAKE = "intake"
MAINTENANCE = "maintenance"
"""The job, and the asset that tells of it."""
BACK_UP = "back_up"
BACKUP = "backup"
"""The asset of the newest backup, which the job `back_up` makes."""
DRILL = "drill"
DRILLS = "drills"
"""The asset of what drills have shown, which the job `drill` runs."""
INCIDENTS = dg.AssetKey("incidents")
"""The asset of all incidents."""
OPS = "ops"
"""The group of what tells how the platform itself is doing."""


def asset_key(table: str) -> dg.AssetKey:
    """`silver.events` -> `silver_events`: the graph labels a node only with the last part of its key."""
    return dg.AssetKey(table.replace(".", "_"))


def pool_name(table: str) -> str:
    """The pool of a table, with one slot: two runs never write a table at the same time."""
    return table.replace(".", "_")


def table_of(pool: str) -> str:
    """The table of a pool: a layer has no `_` in its name."""
    return pool.replace("_", ".", 1)


def serving_name(view: str) -> str:
    """What the online copy of a gold table is called, like a table: `serving.user_features`."""
    return f"serving.{view}"
