"""Where records come from.

Belongs here: the declaration of a source (`source`), what a source gives an intake (`arrivals`), where
records come from (`connectors`: a landing zone, Kafka topics, REST APIs) and how to read them (`formats`, a
module for each).

Does not belong here: whether a row is good (contracts), where it is written (lakehouse), and which records
were taken in already (pipeline). This package only reads; it never writes. It imports contracts, and no
engine with a JVM.
"""
