"""Turns sources and tables into what Dagster shows: assets, checks, jobs, sensors, schedules.

The only room that knows Dagster. It decides nothing about rows: an asset's body calls one verb of
`pipeline` and reports what the commit's record says.
"""
