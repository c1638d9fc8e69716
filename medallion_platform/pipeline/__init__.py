"""What happens to rows: `intake`, `refresh` and `publish`, and the operations that repair.

Belongs here: the order of the steps of an operation, and the pure decisions (`plan`, `triage`, `duplicates`,
`undeclared`); also replay of dead letters, rollback, and what is out of date. Does not belong here: how rows
are read (`sources`), validated (`contracts`) or stored (`lakehouse`), and when anything runs
(`orchestration`).
"""
