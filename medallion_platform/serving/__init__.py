"""What outsiders read: features for models, and later warehouse, API and dashboards.

Belongs here: consumers of `pipeline.publish`, each with the store that it keeps. Does not belong
here: how a table is made (`pipeline`), when anything is published (`orchestration`).
"""
