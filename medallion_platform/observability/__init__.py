"""Metrics and health of a running process.

Not here: what is known about tables, which is in their commits and in Dagster.
"""
