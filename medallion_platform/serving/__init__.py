"""Consumers of gold tables: features for models, later a warehouse, an API and dashboards.

Belongs here: consumers of `pipeline.publish`, each with its own store. Does not belong here: how a table is
made (`pipeline`), when anything is published (`orchestration`).
"""
