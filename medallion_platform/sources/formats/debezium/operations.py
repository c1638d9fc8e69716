"""What a change event says was done to its row (`op`), in the letters of Debezium."""

READ = "r"
"""By a snapshot."""
UPSERTS = ("c", READ, "u")
"""Created, read, updated: the row is there afterwards."""
DELETE = "d"
TRUNCATE = "t"
"""Of the whole table: such an event has no row."""
MESSAGE = "m"
"""Written into the database's log by somebody; it is about no row."""
OPERATIONS = (*UPSERTS, DELETE, TRUNCATE, MESSAGE)
