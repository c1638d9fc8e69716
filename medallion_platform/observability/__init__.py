"""Metrics and health of a running process.

Does not belong here: the state of tables, which is in their commits and in Dagster.
"""
