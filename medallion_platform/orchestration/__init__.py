"""Turns sources and tables into Dagster assets, checks, jobs, sensors and schedules.

The only package that knows Dagster. It decides nothing about rows: an asset calls one function of `pipeline`
and reports the commit record.
"""
