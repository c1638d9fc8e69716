"""Topics into bronze: against bare Spark, what exactly-once costs, and how soon a message can be read.

Against Spark each side is a process of its own that takes in a small topic first (imports, JVM and
compilers get warm), then measures the CPU seconds of the big one, its children's included. The polars
side checks a contract of ten columns with 14 expectations, two of them regular expressions, keeps
payload, key, headers and provenance, drops duplicates within the watermark and commits with counts
and positions; Spark casts to the same types and appends.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import polars as pl
import pyspark.sql.types as T
from confluent_kafka import Producer

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse.lake import Lake, follow
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.formats.avro import Avro
from medallion_platform.sources.formats.format import Format
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform_tests.benchmarks.figure import Figure, cpu_seconds
from medallion_platform_tests.command import MEDALLION, streaming
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.registry import Registry, message

ROWS, WARM_ROWS, PARTITIONS = 500_000, 20_000, 3
RATES = (1_000, 10_000)
_POLL = 0.02
_STORE = "spark.sql.streaming.stateStore"
_ROCKSDB = {
    f"{_STORE}.providerClass": "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
    f"{_STORE}.rocksdb.changelogCheckpointing.enabled": "true",
}
_PATIENCE = 300.0
_JSON = JsonLines()
_TEXT = ["null", "string"]
_AVRO: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        *({"name": name, "type": "string"} for name in ("event_id", "user_id", "event_type")),
        {"name": "event_timestamp", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "page", "type": _TEXT},
        {"name": "amount", "type": ["null", "double"]},
        *({"name": name, "type": _TEXT} for name in ("currency", "session_id", "region_code", "email")),
    ],
}


class Events(ContractModel):
    """Events of a shop, 326 bytes each."""

    event_id: T.StringType = Field(str_matches=r"^evt-\d+-[0-9a-f]+$")
    user_id: T.StringType = Field(str_length={"min_value": 1, "max_value": 40})
    event_type: T.StringType = Field(isin=["page_view", "click", "search", "add_to_cart", "purchase"])
    event_timestamp: T.TimestampType = Field()
    page: T.StringType = Field(nullable=True)
    amount: T.DoubleType = Field(ge=0, nullable=True)
    currency: T.StringType = Field(str_length={"min_value": 3, "max_value": 3}, nullable=True)
    session_id: T.StringType = Field(nullable=True)
    region_code: T.StringType = Field(nullable=True)
    email: T.StringType = Field(str_matches=r"^[^@]+@[^@]+\.[a-z]+$", nullable=True, pii="email")

    class Config:
        metadata = {  # noqa: RUF012
            "key": ["event_id"],
            "event_time": "event_timestamp",
            "watermark": timedelta(minutes=10),
            "partitioned_by": ["event_date"],
        }


def event(number: int, at: datetime, chance: random.Random) -> bytes:
    """One message."""
    user = chance.randrange(50_000)
    return json.dumps(
        {
            "event_id": f"evt-{number:09}-{chance.getrandbits(48):012x}",
            "user_id": f"u{user:06}",
            "event_type": chance.choice(["page_view", "click", "search", "add_to_cart", "purchase"]),
            "event_timestamp": at.isoformat(),
            "page": f"/products/{chance.randrange(5_000):04}?campaign=spring&placement=hero",
            "amount": chance.randrange(10_000, 100_000) / 100,
            "currency": "USD",
            "session_id": f"session-{user:06}-{at.day:02}",
            "region_code": chance.choice(["EU-W", "NA-E", "AP-S"]),
            "email": f"user{user:05}@example.com",
        }
    ).encode()


def measure(rounds: int, rows: int = ROWS) -> list[Figure]:
    """Lean against Spark, and against itself without the bookkeeping."""
    with _broker() as (broker, folder):
        _fill(broker, "warm", WARM_ROWS)
        size = _fill(broker, "events", rows)
        seconds: dict[str, list[float]] = {"polars": [], "bare": [], "spark": [], "plain": [], "booked": []}
        memory: list[float] = []
        for n in range(rounds):
            for engine in ("polars", "bare", "spark"):
                spent, used = _in_own_process(engine, broker, folder / f"{engine}-{n}")
                seconds[engine].append(spent)
                memory += [used] if engine == "polars" else []
            for engine in ("plain", "booked"):
                spent, _ = _in_own_process(engine, broker, folder / f"{engine}-{n}")
                seconds[engine].append(spent)
    ours, bare, spark = seconds["polars"], seconds["bare"], seconds["spark"]
    return [
        Figure(
            "Kafka to bronze, checks included, messages per CPU-second of bare Spark",
            [s / n for s, n in zip(bare, ours, strict=True)],
            f"{rows / median(ours):,.0f} messages of {size:.0f} bytes per CPU-second "
            f"({rows / max(ours):,.0f} to {rows / min(ours):,.0f}) against {rows / median(bare):,.0f}; "
            f"{max(memory):,.0f} MB at most",
            "at least 3, and 100,000",
        ),
        Figure(
            "The same by the Spark engine",
            [s / n for s, n in zip(bare, spark, strict=True)],
            f"{rows / median(spark):,.0f} messages per CPU-second "
            f"({rows / max(spark):,.0f} to {rows / min(spark):,.0f}) against {rows / median(bare):,.0f}",
            "at least 0.95",
        ),
        Figure(
            "Kafka to bronze with positions, counts and dead letters, CPU seconds of the same without",
            [b / p for b, p in zip(seconds["booked"], seconds["plain"], strict=True)],
            f"{median(seconds['booked']):.2f} s against {median(seconds['plain']):.2f} s",
            "at most 1.05",
        ),
    ]


def of_duplicates(rounds: int, rows: int = ROWS) -> list[Figure]:
    """What dropping duplicates within ten minutes costs each engine, and Spark with a state of its own."""
    pairs = {
        "polars": ("polars", "booked", "by hashes of the table's keys, the polars engine"),
        "spark": ("spark", "spark_keyless", "by hashes of the table's keys, the Spark engine"),
        "state": ("state", "bare", "bare Spark, dropDuplicatesWithinWatermark in RocksDB"),
    }
    seconds: dict[str, list[float]] = {
        side: [] for keyed, keyless, _ in pairs.values() for side in (keyed, keyless)
    }
    with _broker() as (broker, folder):
        _fill(broker, "warm", WARM_ROWS)
        _fill(broker, "events", rows)
        for n in range(rounds):
            for side, spent in seconds.items():
                spent.append(_in_own_process(side, broker, folder / f"{side}-{n}")[0])
    return [
        Figure(
            f"Duplicates dropped {how}, CPU seconds of the same without",
            [k / p for k, p in zip(seconds[keyed], seconds[keyless], strict=True)],
            f"{median(seconds[keyed]):.2f} s against {median(seconds[keyless]):.2f} s for {rows:,} messages",
        )
        for keyed, keyless, how in pairs.values()
    ]


def of_avro(rounds: int, rows: int = ROWS) -> list[Figure]:
    """Avro against JSON of the same content."""
    registry = Registry.start()
    try:
        with _broker() as (broker, folder):
            number = registry.register("events", _AVRO)
            sizes: dict[str, float] = {}
            for form in ("json", "avro"):
                _fill(broker, f"warm_{form}", WARM_ROWS, number if form == "avro" else None)
                sizes[form] = _fill(broker, f"events_{form}", rows, number if form == "avro" else None)
            seconds: dict[str, list[float]] = {"json": [], "avro": []}
            for n in range(rounds):
                for form in seconds:
                    lake = folder / f"{form}-{n}"
                    spent, _ = _in_own_process(form, broker, lake, registry.url)
                    seconds[form].append(spent)
    finally:
        registry.stop()
    json_, avro = seconds["json"], seconds["avro"]
    return [
        Figure(
            "Avro from Kafka to bronze, messages per CPU-second of JSON of the same content",
            [j / a for j, a in zip(json_, avro, strict=True)],
            f"{rows / median(avro):,.0f} messages of {sizes['avro']:.0f} bytes per CPU-second against "
            f"{rows / median(json_):,.0f} of {sizes['json']:.0f} bytes",
        )
    ]


def freshness(rates: Sequence[int], seconds: int) -> list[dict[str, str]]:
    """From a producer's acknowledgement to a row that can be read, by `medallion stream --refresh`."""
    with _broker() as (broker, folder):
        return [row for rate in rates for row in _fresh(broker, folder / str(rate), rate, seconds)]


# --- one side in a process of its own -------------------------------------------------------------


def _in_own_process(engine: str, broker: Broker, lake: Path, *more: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, engine, broker.address, str(lake), *more],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    spent, used = done.stdout.splitlines()[-1].split()
    return float(spent), float(used)


def _source(topic: str, address: str, format: Format = _JSON) -> KafkaSource:
    return KafkaSource(
        topic,
        f"bronze.{topic}",
        Events.contract,
        format,
        "x",
        topics=(topic,),
        settings={"bootstrap.servers": address},
    )


def _lean(
    address: str,
    lake: Path,
    topics: Sequence[str] = ("warm", "events"),
    format: Format = _JSON,
) -> float:
    from medallion_platform.pipeline.intake.polars_engine import intake
    from medallion_platform.pipeline.run import Run
    from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics

    for topic in topics:
        before = cpu_seconds()
        taken = intake(look_at_topics(_source(topic, address, format)), Lake(lake), Run.now())
        spent = cpu_seconds() - before
    assert taken.counts.missing == 0, taken
    assert taken.counts.written == taken.counts.read > WARM_ROWS, taken
    return spent


def _json(address: str, lake: Path, registry: str) -> float:
    return _lean(address, lake, ("warm_json", "events_json"))


def _avro(address: str, lake: Path, registry: str) -> float:
    return _lean(address, lake, ("warm_avro", "events_avro"), Avro(registry))


def _keyless(topic: str, address: str) -> KafkaSource:
    """The source without a key: no duplicates are looked for."""
    source = _source(topic, address)
    return replace(source, contract=replace(source.contract, key=(), watermark=None))


def _booked(address: str, lake: Path) -> float:
    from medallion_platform.pipeline.intake.polars_engine import intake
    from medallion_platform.pipeline.run import Run
    from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics

    for topic in ("warm", "events"):
        source = _keyless(topic, address)
        before = cpu_seconds()
        intake(look_at_topics(source), Lake(lake), Run.now())
        spent = cpu_seconds() - before
    return spent


def _plain(address: str, lake: Path) -> float:
    """The same reading, validating and writing; nothing counted, no position, no look at dead letters."""
    from medallion_platform.lakehouse.commit import add_actions
    from medallion_platform.lakehouse.polars_writer import split_by_partition, write_partition_file
    from medallion_platform.pipeline.intake.polars_engine import BATCH_BYTES, BATCH_ROWS
    from medallion_platform.pipeline.intake.triage import bronze_schema, finish_bronze_rows, validate
    from medallion_platform.pipeline.run import Run
    from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics

    for topic in ("warm", "events"):
        source = _keyless(topic, address)
        before = cpu_seconds()
        run = Run.now()
        table = Lake(lake).ensure(source.table, bronze_schema(source), source.contract.partitioned_by)
        known = pl.scan_delta(table).collect_schema()
        for batch in look_at_topics(source).batches(lambda _: None, BATCH_ROWS, BATCH_BYTES):
            rows = finish_bronze_rows(source, run, validate(source, batch.frame, run.at).good, known)
            by = source.contract.partitioned_by
            root = str(lake / "bronze" / topic)
            added = add_actions(
                [
                    write_partition_file(root, path, part, values)
                    for path, values, part in split_by_partition(rows, by)
                ]
            )
            table.create_write_transaction(added, "append", table.schema(), list(by))
        spent = cpu_seconds() - before
    return spent


def _spark(address: str, lake: Path, source_of: Callable[[str, str], KafkaSource] | None = None) -> float:
    from medallion_platform.installation.local_spark import local_spark
    from medallion_platform.pipeline.intake.spark_engine import intake
    from medallion_platform.pipeline.run import Run
    from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics

    spark = local_spark(topics=True).session(quick=False)
    for n, topic in enumerate(("warm", "warm", "events")):
        before = cpu_seconds()
        topics = look_at_topics((source_of or _source)(topic, address))
        taken = intake(topics, Lake(lake / str(n)), spark, Run.now())
        spent = cpu_seconds() - before
    assert taken.counts.missing == 0, taken
    assert taken.counts.written == taken.counts.read > WARM_ROWS, taken
    return spent


def _spark_keyless(address: str, lake: Path) -> float:
    return _spark(address, lake, _keyless)


def _state(address: str, lake: Path) -> float:
    return _bare(address, lake, state=True)


def _bare(address: str, lake: Path, *, state: bool = False) -> float:
    """Spark alone; state: duplicates are dropped by Spark's own state, in RocksDB with changelogs."""
    from pyspark.sql import functions as F

    from medallion_platform.contracts.spark_engine import spark_schema
    from medallion_platform.installation.local_spark import local_spark

    spark = local_spark(topics=True).session(quick=False)
    schema = spark_schema(Events.contract)
    for name, value in _ROCKSDB.items():
        spark.conf.set(name, value)
    for n, topic in enumerate(("warm", "warm", "events")):
        before = cpu_seconds()
        messages = spark.readStream.format("kafka").option("kafka.bootstrap.servers", address)
        messages = messages.option("subscribe", topic).option("startingOffsets", "earliest").load()
        rows = messages.select(
            F.from_json(F.col("value").cast("string"), schema).alias("r"),
            F.col("value").cast("string").alias("_payload"),
            *("topic", "partition", "offset", "timestamp"),
        ).select("r.*", F.to_date("r.event_timestamp").alias("event_date"), "_payload", "topic", "offset")
        if state:
            rows = rows.withWatermark("event_timestamp", "10 minutes")
            rows = rows.dropDuplicatesWithinWatermark(["event_id"])
        query = (
            rows.writeStream.format("delta")
            .partitionBy("event_date")
            .option("checkpointLocation", str(lake / f"checkpoint-{n}"))
            .trigger(availableNow=True)
            .start(str(lake / topic))
        )
        query.awaitTermination()
        spent = cpu_seconds() - before
    return spent


# --- freshness --------------------------------------------------------------------------------------


def _fresh(broker: Broker, home: Path, rate: int, seconds: int) -> list[dict[str, str]]:
    """Of a worker that has just begun, whose code Java still compiles, and of the same a little later."""
    topics = ("clickstream.events", "clickstream.public.users", "clickstream.public.regions")
    for topic in topics:
        if topic in broker.admin.list_topics(timeout=10).topics:
            broker.delete(topic)
        broker.create(topic, PARTITIONS if topic == topics[0] else 1)
    _lookups(broker)
    settings = json.dumps({"bootstrap.servers": broker.address})
    environment = {**os.environ, "MEDALLION_KAFKA": settings, "MEDALLION_HOME": str(home)}
    subprocess.run([*MEDALLION, "run", "--json"], env=environment, check=True, capture_output=True)
    home.mkdir(exist_ok=True)
    lake = Lake(home / "lake")
    watch = _Watch(lake)
    with streaming("clickstream.events", environment, home / "said.log") as worker:
        watch.warm(broker)
        acknowledged = _produce(broker, rate, 2 * seconds, watch)
        watch.until(acknowledged)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, (home / "said.log").read_text()
    table = lake.open("bronze.events")
    assert table
    half = min(then for _, _, then in acknowledged) + seconds
    phases = {
        "at first": [a for a in acknowledged if a[2] <= half],
        "then": [a for a in acknowledged if a[2] > half],
    }
    return [
        {
            "messages a second": f"{rate:,}",
            "": f"{when}, {seconds} s",
            "bronze p50": f"{_share(bronze, 50):.2f} s",
            "bronze p99": f"{_share(bronze, 99):.2f} s",
            "silver p50": f"{_share(silver, 50):.2f} s",
            "silver p99": f"{_share(silver, 99):.2f} s",
            "commits": str(table.version()),
            "files": str(len(table.file_uris())),
        }
        for when, some in phases.items()
        for bronze, silver in (watch.waits(some),)
    ]


def _share(waits: list[float], percent: int) -> float:
    return quantiles(waits, n=100)[percent - 1]


def _lookups(broker: Broker) -> None:
    told = {"source": {"ts_ms": 1767225600000}, "ts_ms": 1767225600000}
    regions = [{"region_code": c, "name": c, "country": "X", "timezone": "UTC"} for c in ("EU-W", "NA-E")]
    users = [{"user_id": f"u{n:06}", "signed_up_at": "2026-01-01T00:00:00Z"} for n in range(1000)]
    for topic, images in (("regions", regions), ("users", users)):
        changes = [{"before": None, "after": image, "op": "c", **told} for image in images]
        broker.send(f"clickstream.public.{topic}", [json.dumps(c).encode() for c in changes])


def _produce(broker: Broker, rate: int, seconds: int, watch: _Watch) -> list[tuple[int, int, float]]:
    """(partition, offset, when it was acknowledged) of every message; looks at the tables meanwhile."""
    acknowledged: list[tuple[int, int, float]] = []
    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 5, "acks": "all"})

    def heard(error: Any, message: Any) -> None:
        assert error is None, error
        acknowledged.append((message.partition(), message.offset(), time.monotonic()))

    # Made beforehand, and not searched for cycles: two cores have enough to do.
    chance, now = random.Random(11), datetime.now(UTC)
    messages = [event(n, now + timedelta(seconds=n / rate), chance) for n in range(rate * seconds)]
    gc.disable()
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate)
        for n in range(sent, due):
            producer.produce("clickstream.events", messages[n], partition=n % PARTITIONS, on_delivery=heard)
        sent = due
        producer.poll(0)
        watch.look()
        time.sleep(_POLL)
    assert producer.flush(60) == 0
    gc.enable()
    return acknowledged


class _Watch:
    """When which position could be read: of bronze by its commits, of silver by what it was made from."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.bronze: list[tuple[float, int, dict[int, int]]] = []
        self.silver: list[tuple[float, int]] = []
        self._tables: dict[str, Any] = {}

    def look(self) -> None:
        """Note what is new."""
        for name, note in (("bronze.events", self._bronze), ("silver.events", self._silver)):
            table = self._tables.get(name)
            if table is None:
                self._tables[name] = table = self.lake.open(name)
                if table is None:
                    continue
            else:
                before = table.version()
                follow(table)
                if table.version() == before:
                    continue
            note(table)

    def _bronze(self, table: Any) -> None:
        logs = {n: f"clickstream.events/clickstream.events/{n}" for n in range(PARTITIONS)}
        reached = {n: table.transaction_version(log) or 0 for n, log in logs.items()}
        self.bronze.append((time.monotonic(), table.version(), reached))

    def _silver(self, table: Any) -> None:
        record = self.lake.last_record("silver.events", ("refresh",))
        if record:
            self.silver.append((time.monotonic(), max(record.position["bronze.events"].values())))

    def warm(self, broker: Broker) -> None:
        """Send some and wait until they are in silver: the worker is up and its session warm."""
        chance, end = random.Random(1), time.monotonic() + _PATIENCE
        number = 10**8
        while len(self.silver) < 5:
            broker.send("clickstream.events", [event(number, datetime.now(UTC), chance)])
            number += 1
            assert time.monotonic() < end, "the worker does not begin"
            self.look()
            time.sleep(0.5)

    def until(self, acknowledged: list[tuple[int, int, float]]) -> None:
        """Look until everything acknowledged is in silver."""
        last = {p: max(o for q, o, _ in acknowledged if q == p) for p in {a[0] for a in acknowledged}}
        end = time.monotonic() + _PATIENCE
        while True:
            self.look()
            there = [v for _, v, reached in self.bronze if all(reached[p] > o for p, o in last.items())]
            if there and self.silver and self.silver[-1][1] >= min(there):
                return
            assert time.monotonic() < end, "not everything arrives in silver"
            time.sleep(_POLL)

    def waits(self, acknowledged: list[tuple[int, int, float]]) -> tuple[list[float], list[float]]:
        """Seconds from each acknowledgement until bronze and until silver had the row."""
        bronze: list[float] = []
        silver: list[float] = []
        for partition in range(PARTITIONS):
            steps = iter(self.bronze)
            at, version, reached = next(steps)
            refreshes = iter(self.silver)
            made_at, inputs = next(refreshes)
            for _, offset, then in sorted(a for a in acknowledged if a[0] == partition):
                while reached[partition] <= offset:
                    at, version, reached = next(steps)
                while inputs < version:
                    made_at, inputs = next(refreshes)
                bronze.append(max(at - then, 0.0))
                silver.append(max(made_at - then, 0.0))
        return bronze, silver


# --- shared -----------------------------------------------------------------------------------------


@contextmanager
def _broker() -> Iterator[tuple[Broker, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "broker"
        where.mkdir()
        broker = Broker.start(where)
        try:
            yield broker, Path(folder)
        finally:
            broker.stop()


def _fill(broker: Broker, topic: str, rows: int, schema: int | None = None) -> float:
    """Fill a topic with a week of events, in Avro where a schema is given; gives a message's mean size."""
    broker.create(topic, PARTITIONS)
    producer = Producer(
        {"bootstrap.servers": broker.address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
    )
    chance, size = random.Random(7), 0
    monday = datetime(2026, 1, 5, tzinfo=UTC)
    for n in range(rows):
        at = monday + timedelta(seconds=n * 7 * 86_400 // rows)
        value = event(n, at, chance)
        if schema is not None:
            value = message(schema, _AVRO, {**json.loads(value), "event_timestamp": at})
        size += len(value)
        producer.produce(topic, value, partition=n % PARTITIONS)
        if n % 1000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0
    return size / rows


if __name__ == "__main__":
    import resource

    side, address, lake, *more = sys.argv[1:]
    engines = {"polars": _lean, "spark": _spark, "bare": _bare, "plain": _plain, "booked": _booked}
    forms = {"json": _json, "avro": _avro}
    sides: dict[str, Any] = {**engines, **forms, "state": _state, "spark_keyless": _spark_keyless}
    spent = sides[side](address, Path(lake), *more)
    print(spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
