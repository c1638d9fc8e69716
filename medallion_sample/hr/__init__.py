"""Human resources: departments, jobs and hired employees, from CSV snapshots without a header.

`contracts` says what good rows are, `sources` where they land, `silver` and `gold` how tables are
made of them, `sample` writes a few dirty files. This file imports nothing.
"""
