"""What happens to rows: the verbs `intake`, `refresh`, `publish`, and those that fix.

Belongs here: the order of the steps of a verb, and the pure decisions behind it (`plan`, `triage`,
`duplicates`, `undeclared`). Replaying dead letters and taking back a run are here too. Does not belong here:
how rows are read (`sources`), validated (`contracts`) or stored (`lakehouse`), and when anything
runs (`orchestration`).
"""
