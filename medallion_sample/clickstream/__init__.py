"""Clickstream: events of a web shop, enriched from its users and regions.

`contracts` says what good rows are, `sources` where they land, `silver` and `gold` how tables are
made of them, `sample` writes a week of dirty files. This file imports nothing.
"""
