"""The same faults for Dagster alone and for Spark alone: what their users get."""
