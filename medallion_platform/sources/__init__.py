"""Where rows come from.

Belongs here: the declaration of a source and its format (`source`), what a source gives an intake
(`arrivals`), looking at a landing zone (`landing`), reading a file, or stored payloads again, into
records (`files`, with one module per format, on `blocks` for bytes and `slices` for columns of text),
the topics of Kafka (`kafka`), and the resources of REST APIs (`rest`, which asks by `http`).

Does not belong here: whether a row is good (contracts), where it is written (lakehouse), and what
was taken already (pipeline). This room reads and decides; it never writes. It imports contracts
only, and no engine with a JVM.

    from medallion_platform.sources.source import Csv, FileSource
    from medallion_platform.sources.landing import look
    from medallion_platform.sources.files import UnreadableFile, read, reparse
"""
