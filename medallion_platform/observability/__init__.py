"""What a running process tells of itself to those who watch it: metrics and health.

Not here: what is told of tables, which stands in their commits and in Dagster.
"""
