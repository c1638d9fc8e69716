"""Delta tables: where they are, what a commit says about itself, how rows get in and out.

Belongs here: paths, the Delta log, positions, staging and committing files, dead letters as a table, schema
evolution, maintenance, the format of a lake and the migration of an older one. Does not belong here: where
rows come from (`sources`), what a good row is (`contracts`), when anything runs (`pipeline`,
`orchestration`).

Every write has two steps that meet only in `commit`: an engine (Spark, Polars) stages Parquet files, then one
Delta commit makes them visible together with the position that they were made from, their counts, and a
transaction identifier that fences off a second writer.
"""
