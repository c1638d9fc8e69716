"""Intake: bring what has arrived at a source into its bronze table, every record once.

There are two engines, `polars_engine` and `spark_engine`; both triage and commit in the same way. `replay`
validates stored records again.
"""
