"""Who connects to whom, and on which port; everything else is refused.

The chart's NetworkPolicies say the same, which a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Flow:
    """Connections from one component to another, or to a place outside of the chart.

    port: of the usual installation; the chart's values may name others for places outside.
    """

    source: str
    target: str
    port: int


CODE, UI, HISTORY, METRICS = 4000, 3000, 18080, 9108
DRIVER, BLOCKS = 7078, 7079
"""Where Spark's executors register with their driver, and where each of them hands out blocks of data."""
POSTGRES, S3, KAFKA, REDIS = 5432, 443, 9093, 6379
CHANNELS = (443, 587)
"""By which people are told of incidents: HTTPS, and mail."""
DNS = 53
API_SERVER = (443, 6443)
"""Its service's port, and the one behind it: some networks look at a packet before it is translated."""


def _flows() -> Iterator[Flow]:
    for source in ("web", "daemon"):
        yield Flow(source, "code", CODE)
    for source in ("web", "daemon", "run", "stream", "supervise"):
        for port in API_SERVER:
            yield Flow(source, "kubernetes", port)
    for source in ("web", "daemon", "code", "run", "stream"):
        yield Flow(source, "postgres", POSTGRES)
    for source in ("web", "daemon", "code", "run", "executor", "stream", "supervise", "history"):
        yield Flow(source, "dns", DNS)
    for source in ("code", "run", "executor", "stream"):
        yield Flow(source, "s3", S3)
        yield Flow(source, "kafka", KAFKA)
    yield Flow("history", "s3", S3)
    yield Flow("run", "redis", REDIS)
    for port in CHANNELS:
        yield Flow("code", "channels", port)
    yield Flow("executor", "run", DRIVER)
    for source, target in (("executor", "run"), ("run", "executor"), ("executor", "executor")):
        yield Flow(source, target, BLOCKS)
    for source in ("supervise", "prometheus"):
        yield Flow(source, "stream", METRICS)
    yield Flow("prometheus", "supervise", METRICS)
    yield Flow("ui", "web", UI)
    yield Flow("ui", "history", HISTORY)


FLOWS = frozenset(_flows())
"""`ui`: whom one lets reach the two web servers, at first nobody; a `kubectl port-forward` needs no flow."""
