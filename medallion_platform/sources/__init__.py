"""Where rows come from.

Belongs here: the declaration of a source and its format (`source`), what a source gives an intake
(`arrivals`), where records come from (`connectors`: a landing zone, topics of Kafka, resources of REST
APIs) and how they stand there (`formats`, a module for each).

Does not belong here: whether a row is good (contracts), where it is written (lakehouse), and what
was taken already (pipeline). This room reads and decides; it never writes. It imports contracts
only, and no engine with a JVM.
"""
