"""What people and programs ask about an installation, as typed answers: nothing here writes, formats or knows
Dagster.

The command line and Dagster format these answers. What the platform needs for its own decisions (which tables
are out of date, how fresh they are) is in `pipeline`.
"""
