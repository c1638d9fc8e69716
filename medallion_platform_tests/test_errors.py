"""`classify` on errors that were raised for real: by sockets, disks, servers, delta-rs, Kafka and the JVM."""

from __future__ import annotations

import errno
import gzip
import http.server
import io
import json
import os
import resource
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import polars as pl
import pytest
from dagster._grpc.client import DagsterGrpcClient
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from obstore.store import LocalStore, S3Store

from medallion_platform.errors import (
    EXECUTOR_EVICTED,
    EXECUTOR_KILLED,
    Failure,
    Kind,
    MedallionError,
    classify,
)
from medallion_platform.sources.http import HttpClient, RequestError
from medallion_platform_tests.kafka import certificates

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def failure(work: Callable[[], object]) -> Failure:
    """What is told of the error that some work ends in."""
    with pytest.raises(BaseException) as caught:
        work()
    return classify(caught.value)


@pytest.fixture(scope="module")
def closed() -> str:
    """The address of a port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def answering(status: int, body: bytes = b"") -> Generator[str]:
    """A server whose every answer is this one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return S3Store.from_url("s3://b/p", client_options={"allow_http": True}, retry_config={"max_retries": 0})


@pytest.mark.failure("network")
def test_nobody_listens(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = closed.split(":")
    refused = Failure(Kind.NETWORK, "ECONNREFUSED")
    assert failure(lambda: socket.create_connection((host, int(port)))) == refused
    assert failure(lambda: httpx.get(f"http://{closed}")).kind is Kind.NETWORK
    assert failure(lambda: bucket(f"http://{closed}", monkeypatch).get("x")).kind is Kind.NETWORK
    assert failure(lambda: DeltaTable("s3://b/p", storage_options={"allow_http": "true"})).transient


@pytest.mark.failure("network")
def test_no_such_host() -> None:
    assert failure(lambda: socket.getaddrinfo("no-such-host.invalid", 80)).kind is Kind.NETWORK
    assert failure(lambda: httpx.get("http://no-such-host.invalid")).kind is Kind.NETWORK


def test_a_file_that_a_bucket_has_not_is_no_failure_of_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(404) as url:
        store = bucket(url, monkeypatch)
        assert failure(lambda: store.head("x")) == Failure(Kind.UNKNOWN)
        assert failure(lambda: store.get("x")).of_content


@pytest.mark.failure("network")
def test_an_answer_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def cut() -> None:
            for _ in range(2):
                told = server.accept()[0]
                told.recv(10_000)
                told.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
                told.close()

        threading.Thread(target=cut, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert failure(lambda: httpx.get(url)).kind is Kind.NETWORK
        assert failure(lambda: bucket(url, monkeypatch).list("x").collect()).kind is Kind.NETWORK


@pytest.mark.failure("network")
def test_nobody_answers_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert failure(lambda: httpx.get(f"http://127.0.0.1:{port}", timeout=0.05)).kind is Kind.NETWORK
        plain = socket.create_connection(("127.0.0.1", port), timeout=0.05)
        assert failure(lambda: plain.recv(1)).kind is Kind.NETWORK
        plain.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Kind.AUTH),
        (403, Kind.AUTH),
        (404, Kind.PERMANENT),
        (408, Kind.NETWORK),
        (412, Kind.CONFLICT),
        (418, Kind.PERMANENT),
        (425, Kind.TRANSIENT),
        (429, Kind.RATE_LIMIT),
        (500, Kind.TRANSIENT),
        (501, Kind.PERMANENT),
        (503, Kind.TRANSIENT),
        (507, Kind.DISK),
    ],
)
@pytest.mark.failure(of="kind")
def test_an_answer_by_its_status(status: int, kind: Kind) -> None:
    with answering(status) as url:
        assert failure(lambda: httpx.get(url).raise_for_status()) == Failure(kind, str(status))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((204, Kind.PERMANENT), (400, Kind.PERMANENT), (403, Kind.AUTH), (407, Kind.AUTH)),
        *((408, Kind.NETWORK), (409, Kind.CONFLICT), (425, Kind.TRANSIENT), (429, Kind.RATE_LIMIT)),
        *((500, Kind.TRANSIENT), (501, Kind.PERMANENT), (502, Kind.TRANSIENT), (503, Kind.TRANSIENT)),
        (507, Kind.TRANSIENT),  # a disk of the server's
    ],
)
@pytest.mark.failure(of="kind", work="intake")
def test_a_source_is_asked_again_where_its_status_says_that_it_passes(status: int, kind: Kind) -> None:
    with answering(status) as url, HttpClient(url, patience=0) as http, pytest.raises(RequestError) as told:
        http.get(url)
    assert told.value.kind is kind
    assert ("was asked for 0 s" in str(told.value)) == kind.transient


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "SlowDown", Kind.RATE_LIMIT),
        (503, "ServiceUnavailable", Kind.TRANSIENT),
        (403, "AccessDenied", Kind.AUTH),
        (400, "ExpiredToken", Kind.AUTH),
        (404, "NoSuchBucket", Kind.PERMANENT),
        (404, "NoSuchKey", Kind.UNKNOWN),
        (507, "XMinioStorageFull", Kind.DISK),
    ],
)
@pytest.mark.failure(of="kind")
def test_an_answer_of_s3_by_its_code(
    status: int, code: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"<Error><Code>{code}</Code><Message>said</Message></Error>".encode()
    with answering(status, body) as url:
        told = failure(lambda: bucket(url, monkeypatch).get("x").bytes())
    assert told.kind is kind
    assert told.code in (code, "")


def test_a_head_request_that_s3_refuses_has_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(400) as url:
        assert failure(lambda: bucket(url, monkeypatch).head("x")).kind is Kind.AUTH
        assert failure(lambda: bucket(url, monkeypatch).get("x")).kind is Kind.PERMANENT


@pytest.mark.parametrize(("talks", "kind"), [(True, Kind.AUTH), (False, Kind.NETWORK)])
@pytest.mark.failure(of="kind")
def test_a_server_that_is_not_trusted_and_one_that_hangs_up(tmp_path: Path, talks: bool, kind: Kind) -> None:
    certificates.make(tmp_path / "authority.pem", tmp_path / "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")

    def serve() -> None:
        peer, _ = listening.accept()
        with peer, suppress(OSError):
            if talks:
                context.wrap_socket(peer, server_side=True)
            else:
                peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        told = failure(lambda: httpx.get(f"https://127.0.0.1:{listening.getsockname()[1]}"))
        thread.join(10)
    assert told.kind is kind


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system without space."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = shutil.which("mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts no small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.failure("disk")
def test_the_disk_is_full(full: Path) -> None:
    much = pl.DataFrame({"a": range(100_000)})

    def by_hand() -> None:
        with (full / "a").open("wb") as file:
            file.write(b"x" * 500_000)

    disk = Failure(Kind.DISK, "ENOSPC")
    assert failure(by_hand) == disk
    assert failure(lambda: much.write_parquet(full / "b")) == disk
    assert failure(lambda: LocalStore(str(full)).put("c", b"x" * 500_000)) == disk
    assert failure(lambda: write_deltalake(full / "d", much)) == disk


@pytest.mark.failure("resource")
def test_too_many_files_are_open() -> None:
    was = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []

    def open_all() -> None:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, was[0]), was[1]))
    try:
        told = failure(open_all)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, was)
        for descriptor in held:
            os.close(descriptor)
    assert told == Failure(Kind.RESOURCE, "EMFILE")


@pytest.mark.failure("auth")
def test_access_is_denied_by_the_system(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    user = os.geteuid()
    if user == 0:  # to whom nothing is denied
        os.seteuid(65_534)
    try:
        told = failure(lambda: (tmp_path / "shut/x").read_bytes())
    finally:
        os.seteuid(user)
    assert told == Failure(Kind.AUTH, "EACCES")


@pytest.mark.failure("oom")
def test_no_memory() -> None:
    assert failure(lambda: bytearray(sys.maxsize)).kind is Kind.OOM


@pytest.mark.failure("conflict")
def test_another_writer_of_a_delta_table(tmp_path: Path) -> None:
    write_deltalake(tmp_path, pl.DataFrame({"a": [1]}))
    one, other = DeltaTable(tmp_path), DeltaTable(tmp_path)

    def write(table: DeltaTable) -> None:
        told = CommitProperties(app_transactions=[Transaction("writer", 1)], max_commit_retries=0)
        write_deltalake(table, pl.DataFrame({"a": [2]}), mode="append", commit_properties=told)

    write(one)
    assert failure(lambda: write(other)) == Failure(Kind.CONFLICT, "CommitFailedError")


def test_what_is_there_already(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put("x", b"", mode="create")
    assert failure(lambda: store.put("x", b"", mode="create")).kind is Kind.CONFLICT
    assert failure(lambda: store.get("y")).kind is Kind.UNKNOWN


def test_a_database_in_a_file_by_its_code(tmp_path: Path, full: Path) -> None:
    def write(place: Path) -> None:
        with closing(sqlite3.connect(place, timeout=0)) as store:
            store.execute("CREATE TABLE t (a)")
            store.execute("INSERT INTO t VALUES (zeroblob(500000))")
            store.commit()

    (tmp_path / "other").write_bytes(b"nothing of the kind" * 500)
    with closing(sqlite3.connect(tmp_path / "busy")) as held:
        held.execute("BEGIN EXCLUSIVE")
        assert failure(lambda: write(tmp_path / "busy")) == Failure(Kind.CONFLICT, "SQLITE_BUSY")
    assert failure(lambda: write(tmp_path / "other")) == Failure(Kind.CORRUPT, "SQLITE_NOTADB")
    assert failure(lambda: write(full / "full")) == Failure(Kind.DISK, "SQLITE_FULL")


def test_the_code_of_a_project_that_is_not_reached(closed: str) -> None:
    client = DagsterGrpcClient(port=int(closed.split(":")[1]))
    assert failure(lambda: client.ping("x")) == Failure(Kind.NETWORK, "UNAVAILABLE")


def test_a_code_of_postgres() -> None:
    class OfPostgres(Exception):  # as psycopg2's, which only a server can fill
        pgcode = "53300"

    assert classify(OfPostgres()) == Failure(Kind.RESOURCE, "53300")


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda: gzip.decompress(b"nothing of the kind"), Failure(Kind.CORRUPT, "BadGzipFile")),
        (lambda: zipfile.ZipFile(io.BytesIO(b"nothing")), Failure(Kind.CORRUPT, "BadZipFile")),
        (lambda: json.loads("[" * 100_000), Failure(Kind.POISON, "RecursionError")),
        (lambda: subprocess.run(["sleep", "9"], timeout=0.05), Failure(Kind.HUNG, "TimeoutExpired")),
        (lambda: pl.DataFrame({"a": []}).select("b"), Failure(Kind.PERMANENT, "ColumnNotFoundError")),
    ],
    ids=["gzip", "zip", "nested", "hung", "column"],
)
def test_what_is_told_by_the_type_alone(work: Callable[[], object], told: Failure) -> None:
    assert failure(work) == told


def test_a_table_that_is_another_s(tmp_path: Path) -> None:
    """delta-rs tells of the system in other words than of a disk."""
    (tmp_path / "shut").mkdir(mode=0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        assert failure(lambda: DeltaTable(tmp_path / "shut/t")) == Failure(Kind.AUTH, "EACCES")
    finally:
        os.seteuid(user)


@pytest.mark.failure("network")
def test_no_broker(closed: str) -> None:
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": closed, "group.id": "g", "log_level": 0})
    told = failure(lambda: consumer.list_topics(timeout=0.2))
    consumer.close()
    assert told.kind is Kind.NETWORK
    assert told.code.startswith("_")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("TOPIC_AUTHORIZATION_FAILED", Kind.AUTH),
        ("SASL_AUTHENTICATION_FAILED", Kind.AUTH),
        ("OFFSET_OUT_OF_RANGE", Kind.POSITION_LOST),
        ("THROTTLING_QUOTA_EXCEEDED", Kind.RATE_LIMIT),
        ("LEADER_NOT_AVAILABLE", Kind.TRANSIENT),
        ("UNSUPPORTED_VERSION", Kind.PERMANENT),
        ("_SSL", Kind.AUTH),
        ("INVALID_REQUIRED_ACKS", Kind.UNKNOWN),
        ("_ALL_BROKERS_DOWN", Kind.NETWORK),
    ],
)
def test_a_code_of_kafka(number: str, kind: Kind) -> None:
    from confluent_kafka import KafkaError, KafkaException

    from medallion_platform.sources.connectors.kafka import client

    error = KafkaError(getattr(KafkaError, number))
    assert classify(KafkaException(error)).kind is kind
    # A worker waits for what nobody knows, and says what that is; whatever is known means the same to both.
    assert client._complaint(error).kind is (Kind.NETWORK if kind is Kind.UNKNOWN else kind)
    told_to_pass = KafkaError(getattr(KafkaError, number), "", False, True)
    known = kind is not Kind.UNKNOWN
    assert client._kind_of(told_to_pass) is (kind if known else Kind.TRANSIENT)


def test_a_code_that_kafka_says_passes() -> None:
    from confluent_kafka import KafkaError, KafkaException

    passing = KafkaError(KafkaError.INVALID_REQUIRED_ACKS, "", False, True)
    assert classify(KafkaException(passing)) == Failure(Kind.TRANSIENT, "INVALID_REQUIRED_ACKS")


class Torn(MedallionError):
    kind = Kind.CORRUPT


def test_an_error_of_the_platform_says_it_itself(closed: str) -> None:
    def tell() -> None:
        try:
            httpx.get(f"http://{closed}")
        except httpx.HTTPError as error:
            raise Torn("torn", table="bronze.x", remedy="fix it") from error

    assert failure(tell) == Failure(Kind.CORRUPT, "", "bronze.x", "fix it")


def test_one_that_does_not_say_it_is_what_caused_it() -> None:
    def tell(kind: Kind | None) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise MedallionError("nothing was written", kind=kind, table="silver.x") from error

    assert failure(lambda: tell(None)) == Failure(Kind.DISK, "ENOSPC", "silver.x")
    assert failure(lambda: tell(Kind.DISK)).code == "ENOSPC"


def test_what_was_being_handled_counts_unless_it_was_taken_back() -> None:
    def tell(*, hidden: bool) -> None:
        try:
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        except OSError:
            if hidden:
                raise LookupError from None
            {}["while it was handled"]

    assert failure(lambda: tell(hidden=False)).kind is Kind.NETWORK
    assert failure(lambda: tell(hidden=True)) == Failure(Kind.UNKNOWN)


def test_several_at_once() -> None:
    group = BaseExceptionGroup("both", [ValueError("x"), MemoryError()])
    assert classify(group).kind is Kind.OOM


@pytest.mark.parametrize(
    "text", ["connection refused", "disk is full", "503", "timed out", "OutOfMemoryError"]
)
def test_no_sentence_decides(text: str) -> None:
    assert classify(RuntimeError(text)) == Failure(Kind.UNKNOWN)
    assert not classify(RuntimeError(text)).transient


_STAGE = (
    "Job aborted due to stage failure: Task 3 in stage 2.0 failed 4 times, most recent failure: "
    "Lost task 3.3 in stage 2.0 (TID 41) (10.244.1.7 executor 5): "
)
_LOST = f"{_STAGE}ExecutorLostFailure (executor 5 exited {{}}) Reason: {{}}"
_BY_TASK, _NOT_BY_TASK = "caused by one of the running tasks", "unrelated to the running tasks"
_POD = (
    "\nThe executor with id 5 exited with exit code {}.\n{}\n\n\n"
    "The API gave the following container statuses:\n"
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (_LOST.format(_BY_TASK, _POD.format("137(SIGKILL, possible container OOM)", "")), EXECUTOR_KILLED),
        (_LOST.format(_BY_TASK, _POD.format("52(JVM OOM)", "")), EXECUTOR_KILLED),
        (_LOST.format(_BY_TASK, "Command exited with code 52"), EXECUTOR_KILLED),
        (f"{_STAGE}java.lang.OutOfMemoryError: Java heap space", EXECUTOR_KILLED),
        (
            _LOST.format(
                _BY_TASK,
                _POD.format(
                    "137(SIGKILL, possible container OOM)",
                    "The API gave the following brief reason: Evicted",
                ),
            ),
            EXECUTOR_EVICTED,
        ),
        (_LOST.format(_BY_TASK, _POD.format("50(Uncaught exception)", "")), ""),
        (_LOST.format(_BY_TASK, _POD.format("1370(unexpected)", "")), ""),
        (
            _LOST.format(_NOT_BY_TASK, "The executor with id 5 was deleted by a user or the framework."),
            "",
        ),
        (f"{_STAGE}java.lang.IllegalStateException: exited with exit code 137", ""),
        ("The executor with id 5 exited with exit code 137(SIGKILL, possible container OOM).", ""),
        (
            _STAGE.replace("executor 5", "executor driver") + "java.lang.OutOfMemoryError: Java heap space",
            "",
        ),
    ],
)
def test_an_executor_that_was_lost_by_its_exit_code(text: str, told: str) -> None:
    """As Spark 4.2 writes it: `TaskSetManager`, `ExecutorLostFailure`, `ExecutorPodsLifecycleManager`."""
    kinds = {EXECUTOR_KILLED: Kind.OOM, EXECUTOR_EVICTED: Kind.EVICTED, "": Kind.UNKNOWN}
    assert classify(RuntimeError(text)) == Failure(kinds[told], told)


def test_nothing_heavy_is_loaded() -> None:
    code = "import sys; from medallion_platform import errors; errors.classify(OSError(28, 'x'));"
    code += "print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"pyspark", "py4j", "httpx", "obstore", "deltalake", "polars", "dagster"} & set(loaded.split())


def test_errors_of_spark(spark: SparkSession, tmp_path: Path) -> None:
    from pyspark.sql import functions as F

    def divided() -> None:
        spark.sql("SELECT 1 / id FROM range(2)").collect()

    def cast() -> None:
        spark.range(3).select(F.lit("secret-value").cast("int")).collect()

    def damaged() -> None:
        spark.range(10).repartition(1).write.parquet(f"{tmp_path}/p")
        (file,) = (tmp_path / "p").glob("*.parquet")
        file.write_bytes(b"PAR1 no parquet PAR1")
        spark.read.schema("id long").parquet(f"{tmp_path}/p").collect()

    assert failure(divided) == Failure(Kind.DATA, "DIVIDE_BY_ZERO")
    assert failure(cast) == Failure(Kind.DATA, "CAST_INVALID_INPUT")
    assert failure(lambda: spark.table("no_such_table").collect()).kind is Kind.PERMANENT
    assert failure(lambda: spark.range(1).select("no_such")).code.startswith("UNRESOLVED_COLUMN")
    assert failure(damaged).kind is Kind.CORRUPT


def test_what_the_jvm_throws_by_its_causes(spark: SparkSession, closed: str, full: Path) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    host, port = closed.split(":")
    assert failure(lambda: jvm.java.net.Socket(host, int(port))).kind is Kind.NETWORK
    assert failure(
        lambda: jvm.java.net.URI("http://no-such-host.invalid").toURL().openStream().read()
    ).kind is (Kind.NETWORK)
    assert failure(lambda: spark.range(1_000_000).write.parquet(f"{full}/p")) == Failure(Kind.DISK, "ENOSPC")


def test_spark_still_writes_of_lost_executors_what_is_looked_for(spark: SparkSession) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    manager = jvm.org.apache.spark.scheduler.cluster.k8s.ExecutorPodsLifecycleManager
    for code in (52, 137):
        why = f"The executor with id 5 exited with exit code {manager.describeExitCode(code)}."
        lost = jvm.org.apache.spark.ExecutorLostFailure("5", True, jvm.scala.Option.apply(why))
        text = f"{_STAGE}{lost.toErrorString()}"
        assert classify(RuntimeError(text)) == Failure(Kind.OOM, EXECUTOR_KILLED)


@pytest.mark.failure("conflict")
def test_two_writers_of_a_delta_table_in_spark(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    spark.range(10).write.format("delta").save(path)
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path)
    begun = log.startTransaction()
    begun.readWholeTable()
    spark.sql(f"DELETE FROM delta.`{path}` WHERE id = 1")
    nothing = getattr(getattr(jvm.scala.collection.immutable, "Nil$"), "MODULE$")
    operation = getattr(jvm.org.apache.spark.sql.delta, "DeltaOperations$ManualUpdate$")
    told = failure(lambda: begun.commit(nothing, getattr(operation, "MODULE$")))
    assert told.kind is Kind.CONFLICT
