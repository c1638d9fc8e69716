"""What people and programs ask of an installation, answered with types: nothing here writes, formats or knows
Dagster.

The command line, what Dagster shows and whoever comes next give these answers a form.
"""
