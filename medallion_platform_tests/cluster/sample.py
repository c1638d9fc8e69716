"""The sample as a cluster gets it: clickstream by topics, files of staff in a landing zone."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
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
    for file in sample_files({}):
        domain, folder, *_ = Path(file.path).parts
        if domain != "clickstream" or folder not in folders:
            continue
        content = file.content
        if file.path.endswith(".gz"):  # also what there is of one that was cut
            content = zlib.decompressobj(wbits=31).decompress(content)
        lines = content.splitlines()
        topic = folders[folder]
        for partition, values in _by_partition(lines, _PARTITIONS if topic == EVENTS else 1).items():
            broker.send(topic, list(values), partition)
        sent += len(lines)
    return sent


def _by_partition(lines: list[bytes], partitions: int) -> dict[int, list[bytes]]:
    """An event that comes twice comes twice in one partition, as from a producer that has keys.

    Between partitions it would depend on the batches of a worker which of the two is taken in.
    """
    found: dict[int, list[bytes]] = defaultdict(list)
    for line in lines:
        try:
            key = str(json.loads(line)["event_id"]).encode()
        except (ValueError, TypeError, KeyError):
            key = line
        found[zlib.crc32(key) % partitions].append(line)
    return found


def land(landing: str) -> int:
    """Write the files of staff into a folder or a bucket; returns their number."""
    files = list(hr.files({}, 2026))
    for file in files:
        storage.create_file(landing, file.path, file.content)
    return len(files)
