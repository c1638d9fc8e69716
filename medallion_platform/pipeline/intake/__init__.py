"""Intake: bring what arrived at a source into its bronze table, every record once.

Two engines do it, `polars_engine` and `spark_engine`; both triage rows alike and commit alike.
What is stored already is validated again by `replay`.
"""
