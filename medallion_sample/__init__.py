"""The sample that `medallion demo` runs: two domains, and a landing zone of dirty files for them.

Read it to see how a project is written: one package a domain, declared with `medallion_platform`'s public
names alone. A domain is declarations only: contracts (what a good row is), sources (which files become which
bronze table), tables (a pure function of data frames and its contract). `catalog` gathers them all; `sample`
writes the files, without Spark.
"""
