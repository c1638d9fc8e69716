"""The sample as a cluster gets it: clickstream by topics, files of staff in a landing zone."""

from __future__ import annotations

import zlib
from pathlib import Path

from medallion_platform import storage
from medallion_platform_tests.kafka.broker import Broker
from medallion_sample.clickstream.sources import TOPICS
from medallion_sample.hr import sample as hr
from medallion_sample.sample import sample_files

EVENTS = "clickstream.events"
_PARTITIONS = 4


def produce(broker: Broker) -> int:
    """Send the clickstream sample to its topics, changes in their order; returns the number of messages."""
    folders = {folder: topic for topic, folder in zip(TOPICS, ("events", "users", "regions"), strict=True)}
    for topic in TOPICS:
        broker.create(topic, _PARTITIONS if topic == EVENTS else 1)
    sent = 0
    for number, file in enumerate(sample_files({})):
        domain, folder, *_ = Path(file.path).parts
        if domain != "clickstream" or folder not in folders:
            continue
        content = file.content
        if file.path.endswith(".gz"):  # also what there is of one that was cut
            content = zlib.decompressobj(wbits=31).decompress(content)
        lines = content.splitlines()
        topic = folders[folder]
        broker.send(topic, list(lines), number % _PARTITIONS if topic == EVENTS else 0)
        sent += len(lines)
    return sent


def land(landing: str) -> int:
    """Write the files of staff into a folder or a bucket; returns their number."""
    files = list(hr.files({}, 2026))
    for file in files:
        storage.create_file(landing, file.path, file.content)
    return len(files)
