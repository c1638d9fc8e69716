"""The faults of some drills against Dagster and Spark alone, with what these have to heal them.

`python -m medallion_platform_tests.bare FILE` adds what became of each to the figures of docs/recovery.md.
"""
