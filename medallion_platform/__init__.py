"""A self-healing medallion lakehouse on Dagster, Spark and Delta Lake.

One row's way through the rooms: `sources` read it, `contracts` validate it, `lakehouse` keeps it,
`pipeline` moves it (intake, refresh, publish), `orchestration` shows and schedules that in Dagster.
"""
