"""What this installation runs: one package a domain, declared with the vocabulary of the library.

A domain is declarations only: contracts (what a good row is), sources (which files become which
bronze table), tables (a pure function of data frames and its contract), and a seeded sample of
dirty data to try them with. `catalog` gathers them all; `history` holds the two functions over
change histories that any domain needs.

Does not belong here: reading, writing, scheduling, retries. A transform knows no clock, no path
and no random number. This file imports nothing, so that the sample can be written without Spark.
"""
