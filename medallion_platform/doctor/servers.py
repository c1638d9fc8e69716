"""Checks of what is read and written: lake, landing zone, topics, the storages of Dagster and Feast."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from medallion_platform import storage
from medallion_platform.certificates import tls_context
from medallion_platform.doctor.configuration import postgres_url, read_yaml, redis_nodes, runs_at_once
from medallion_platform.doctor.finding import Checks, Finding, failure
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.extras import require_extra
from medallion_platform.lakehouse.lake_format import FORMAT, open_to_look

if TYPE_CHECKING:
    import httpx

    from medallion_platform.installation.settings import Settings
    from medallion_platform.sources.connectors.kafka.source import KafkaSource

MOST_SKEW = 5.0
"""Seconds that two clocks may differ: ages of data are wrong by as much, S3 refuses from 15 minutes on."""
CONNECTIONS_OF_A_RUN, OTHER_CONNECTIONS = 2, 20
"""Connections to Postgres at a time: of a run; of web server, daemon, code location and workers together."""
_SECONDS = 5.0
"""For a server's first answer."""
_FOLDER = "_medallion/doctor"
"""Where something is written into a bucket, and deleted again."""


class NoAnswer(MedallionError):
    """A server gives no answer; the text says which one and why."""

    kind = Kind.NETWORK


def lake(settings: Settings) -> Iterator[Finding]:
    """Tables can be written: of two writers of a file one succeeds; files can be listed, read, deleted."""
    root, place = str(settings.lake), Path(settings.lake)
    if storage.in_bucket(root):
        if not (yield from _bucket(root, writes=True)):
            return
        safe = _creates_once(root, f"{_FOLDER}/{uuid4().hex}")
    else:
        above = next(p for p in (place, *place.parents) if p.exists())
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=above) as probe:
            safe = _creates_once(probe, "commit")
    yield _one_writer(root, safe=safe)
    if storage.in_bucket(root) or place.exists():
        open_to_look(root)
        yield Finding(True, f"{root} is empty, or has the format that this version knows ({FORMAT})")


def _creates_once(root: str, key: str) -> bool:
    """Whether a file is created only where there is none; it is deleted again."""
    created = [storage.create_file(root, key, b"") for _ in range(2)]
    storage.store(root).delete(key)
    return created == [True, False]


def landing_zone(settings: Settings) -> Iterator[Finding]:
    """What has landed can be listed."""
    root = str(settings.landing)
    if storage.in_bucket(root):
        yield from _bucket(root, writes=False)
    elif Path(root).is_dir():
        yield Finding(True, f"{root} can be listed: {sum(1 for _ in os.scandir(root))} files and folders")
    else:
        yield Finding(None, f"{root} does not exist yet")


def _bucket(root: str, *, writes: bool) -> Generator[Finding, None, bool]:
    """What a key may do below a root; returns whether it may do everything."""
    files = storage.store(root)
    ask(storage.endpoint())
    key = f"{_FOLDER}/{uuid4().hex}"
    refused = {"s3:ListBucket": _refusal(lambda: next(iter(files.list()), None))}
    if writes:
        refused["s3:PutObject"] = _refusal(lambda: files.put(key, b"doctor"))
        if not refused["s3:PutObject"]:
            refused["s3:GetObject"] = _refusal(lambda: files.get(key).bytes())
            refused["s3:DeleteObject"] = _refusal(lambda: files.delete(key))
    for reason in dict.fromkeys(filter(None, refused.values())):
        rights = " and ".join(right for right, found in refused.items() if found == reason)
        remedy = f"see that the key is right, and that its policy allows {rights} on {root}"
        left = f"; {key} is left there" if "s3:DeleteObject" in rights else ""
        yield Finding(False, f"{root} refuses {rights}: {reason}{left}", remedy)
    if any(refused.values()):
        return False
    yield Finding(True, f"{root}: its key may do {', '.join(refused)}")
    return True


def _refusal(work: Callable[[], object]) -> str:
    """Why a server refuses something, "" if it does not."""
    from obstore.exceptions import BaseError

    try:
        work()
    except (BaseError, OSError) as error:
        return storage.client_reason(error)
    return ""


def _one_writer(root: str, *, safe: bool) -> Finding:
    if safe:
        return Finding(True, f"{root}: of two writers of the same commit, one succeeds")
    remedy = "use a server that honours If-None-Match (Amazon S3, MinIO, Ceph from Squid on, versitygw)"
    if not storage.in_bucket(root):
        remedy = "use a file system that creates a file only where there is none"
    return Finding(False, f"{root} takes the same commit twice, so writers would lose commits", remedy)


def clock(settings: Settings) -> Iterator[Finding]:
    """This machine's clock is that of the bucket's server."""
    if storage.in_bucket(settings.lake) or storage.in_bucket(settings.landing):
        sent = time.time()
        date = ask(storage.endpoint()).headers.get("Date")
        yield clock_finding(storage.endpoint(), date, (sent + time.time()) / 2)


def clock_finding(server: str, date: str | None, now: float) -> Finding:
    """Whether a server's time (the header `Date` of its answer) is that of this machine, in seconds. Pure."""
    if not date:
        return Finding(None, f"{server} does not tell its time")
    ahead = now - parsedate_to_datetime(date).timestamp() - 0.5  # the header has whole seconds
    differs = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"
    told = f"this machine's clock is {differs} that of {server}"
    if abs(ahead) > MOST_SKEW:
        return Finding(False, told, "have both follow the same time server (chrony, systemd-timesyncd)")
    return Finding(True, told)


def ask(address: str) -> httpx.Response:
    """Any answer of a server of HTTP, also one that refuses.

    Raises:
        NoAnswer: there is none.
    """
    import httpx

    try:
        with httpx.Client(verify=tls_context(), timeout=_SECONDS) as client:
            return client.head(address)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or f"nothing within {_SECONDS:g} s"
        raise NoAnswer(f"{address} does not answer: {why}") from error


def topics(settings: Settings) -> Iterator[Finding]:
    """The brokers of each source of topics answer, let the client in and have its topics."""
    silent: set[str] = set()
    for source in sources_of_topics():
        if source.brokers in silent:
            continue
        try:
            yield _topics_of(source, str(settings.lake))
        except MedallionError as error:
            if error.kind in (Kind.NETWORK, Kind.AUTH):
                silent.add(source.brokers)
            yield failure(error)


def sources_of_topics() -> list[KafkaSource]:
    """The project's sources of topics; none where it does not load, which another check tells."""
    try:
        from medallion_platform.installation.catalog import catalog
    except MedallionError:
        return []
    from medallion_platform.sources.connectors.kafka.source import KafkaSource

    return [source for source in catalog.sources if isinstance(source, KafkaSource)]


def _topics_of(source: KafkaSource, lake: str) -> Finding:
    from medallion_platform.sources.connectors.kafka.client import KafkaClient, count_group_members

    client = KafkaClient(source)
    try:
        partitions = client.partitions()
    finally:
        client.close()
    workers = count_group_members(source, source.group(lake))
    there = f"{len(partitions)} partitions of {len({p.topic for p in partitions})} topics"
    return Finding(True, f"source {source.name}: {source.brokers} has {there}; {workers} continuous workers")


def dagster_storage(settings: Settings) -> Iterator[Finding]:
    """The Postgres that `dagster.yaml` names lets Dagster in, make tables, and has enough connections."""
    file = settings.dagster_home / "dagster.yaml"
    dagster = read_yaml(file)
    if (url := postgres_url(dagster)) is None:
        return
    require_extra("k8s", "Dagster's storage in Postgres")
    import sqlalchemy
    from sqlalchemy.exc import DBAPIError

    where = f"{url.host}:{url.port or 5432}/{url.database}"
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": int(_SECONDS)}
    )
    try:
        with engine.connect() as connection:
            told = dict(connection.execute(sqlalchemy.text(_ABOUT_POSTGRES)).mappings().one())
    except DBAPIError as error:
        said = str(error.orig).strip().partition("\n")[0]
        remedy = f"see that the server runs, and that {file} names it, its database, user and password"
        yield Finding(False, f"{where}: {said}", remedy)
        return
    yield from postgres_findings(where, told, runs_at_once(dagster))


_ABOUT_POSTGRES = """
select current_setting('server_version') as version, current_user as user,
    coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) as may_create,
    pg_is_in_recovery() or current_setting('default_transaction_read_only')::bool as read_only,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int as most,
    (select rolconnlimit from pg_roles where rolname = current_user) as most_of_user
"""


def postgres_findings(where: str, told: dict[str, Any], runs: int | None) -> Iterator[Finding]:
    """What a Postgres lacks, from what it says of itself; runs: that Dagster lets work at a time. Pure."""
    yield Finding(True, f"{where} answers: Postgres {told['version']}, user {told['user']}")
    if told["read_only"]:
        yield Finding(False, f"{where} is read-only", "name the primary server, not a replica of it")
    if not told["may_create"]:
        remedy = f'grant it: GRANT CREATE ON SCHEMA public TO "{told["user"]}"'
        yield Finding(False, f"{where}: user {told['user']} may not create Dagster's tables", remedy)
    limits = [limit for limit in (told["most"], told["most_of_user"]) if limit >= 0]
    needed = CONNECTIONS_OF_A_RUN * runs + OTHER_CONNECTIONS if runs is not None else 0
    if min(limits) < needed:
        yield Finding(
            False,
            f"{where} allows {min(limits)} connections, and {runs} runs at a time may need {needed}",
            "raise max_connections (and the user's limit), or lower max_concurrent_runs in dagster.yaml",
        )


def online_store(settings: Settings) -> Iterator[Finding]:
    """The Redis that `feature_store.yaml` names answers and lets Feast in."""
    nodes = redis_nodes(read_yaml(settings.feature_repo / "feature_store.yaml"))
    if not nodes:
        return
    require_extra("feast", "the online store in Redis")
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)
    for node in nodes:
        where = f"{node['host']}:{node['port']}"
        try:
            with redis.Redis(
                **node, socket_connect_timeout=_SECONDS, socket_timeout=_SECONDS, retry=once
            ) as client:
                client.ping()
        except (redis.RedisError, TypeError, ValueError) as error:
            remedy = "see that the server runs, and that feature_store.yaml names it, its password and `ssl`"
            yield Finding(False, f"{where}: {str(error).partition(chr(10))[0]}", remedy)
        else:
            yield Finding(True, f"{where} answers")


CHECKS: Checks = {
    "lake": lake,
    "landing zone": landing_zone,
    "clock": clock,
    "topics": topics,
    "Dagster's storage": dagster_storage,
    "online store": online_store,
}
