"""Failures that a real Redis and a real Postgres tell, and those of databases within the process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir

import duckdb
import psycopg2
import pytest
import redis
import sqlalchemy
from redis.backoff import NoBackoff
from redis.lock import Lock
from redis.retry import Retry

from medallion_platform_tests.corpus.causes import PASSWORD, ROW, causes, fails
from medallion_platform_tests.debezium.stack import Postgres, running_postgres
from medallion_platform_tests.kafka.broker import free_ports
from medallion_platform_tests.test_errors import full
from medallion_platform_tests.waiting import until

__all__ = ["full"]

# Redis ----------------------------------------------------------------------------------------------


@contextmanager
def redis_with(folder: Path, *options: str) -> Generator[redis.Redis]:
    """A client of a server of its own."""
    if not (program := shutil.which("redis-server")):
        pytest.skip("there is no redis-server (Debian's package redis-server)")
    (port,) = free_ports(1)
    told = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes"]
    process = subprocess.Popen([program, *told, *options], cwd=folder, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, retry=Retry(NoBackoff(), 0), socket_timeout=5)

    def answers() -> bool:
        with suppress(redis.ConnectionError, redis.TimeoutError):
            return bool(client.ping())
        return False

    try:
        until(answers, 30, pause=0.02)
        yield client
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with redis_with(tmp_path_factory.mktemp("redis")) as client:
        client.acl_setuser("few", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+get"], keys=["*"])
        client.acl_setuser("secret", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+@all"])
        yield client


def another(of: redis.Redis, **more: object) -> redis.Redis:
    """Another client of the same server, which tries once."""
    port = of.connection_pool.connection_kwargs["port"]
    return redis.Redis(port=port, retry=Retry(NoBackoff(), 0), **more)  # type: ignore[arg-type]


def no_memory(server: redis.Redis) -> object:
    server.config_set("maxmemory", 1)
    try:
        return server.set(ROW, ROW)
    finally:
        server.config_set("maxmemory", 0)


def as_replica(server: redis.Redis, work: Callable[[], object], stale: str) -> object:
    """As a replica of a server that is gone."""
    server.config_set("replica-serve-stale-data", stale)
    server.execute_command("REPLICAOF", "127.0.0.1", *free_ports(1))
    try:
        return work()
    finally:
        server.execute_command("REPLICAOF", "NO", "ONE")


def no_more_clients(server: redis.Redis) -> object:
    server.config_set("maxclients", 1)
    try:
        return another(server).ping()
    finally:
        server.config_set("maxclients", 1000)


def busy(server: redis.Redis) -> object:
    """While a script of somebody else does not end."""
    server.config_set("busy-reply-threshold", 1)
    with suppress(redis.TimeoutError):
        another(server, socket_timeout=0.1).eval("while true do end", 0)
    try:
        return another(server).get("x")
    finally:
        server.script_kill()


def loading(server: redis.Redis) -> object:
    """While it reads what it has kept."""
    for n in range(50):
        server.set(f"k{n}", os.urandom(5000))
    server.save()
    server.config_set("key-load-delay", 20_000)
    server.config_set("loading-process-events-interval-bytes", 1024)
    with suppress(redis.TimeoutError):
        another(server, socket_timeout=0.1).execute_command("DEBUG", "RELOAD", "NOSAVE")
    try:
        return another(server).get("x")
    finally:
        until(lambda: not server.info("persistence")["loading"], 30)
        server.config_set("key-load-delay", 0)


def watched(server: redis.Redis) -> object:
    with server.pipeline() as pipe:
        pipe.watch("w")
        another(server).set("w", ROW)
        pipe.multi()
        pipe.set("w", "2")
        return pipe.execute()


def lock_of_another(server: redis.Redis) -> object:
    lock = Lock(server, "lock", timeout=10)
    lock.acquire()
    server.set("lock", "another's")
    return lock.release()


def held_lock(server: redis.Redis) -> object:
    server.set("held", "another's")
    with server.lock("held", blocking_timeout=0.01):
        return None


def wrong_type(server: redis.Redis) -> object:
    server.set("text", ROW)
    return server.lpush("text", ROW)


def damaged_dump(server: redis.Redis) -> object:
    server.set("dumped", "x" * 100)
    dump = server.dump("dumped")
    assert dump
    return server.restore("again", 0, dump[:20] + b"damage" + dump[26:])


def no_number(server: redis.Redis) -> object:
    server.set("number", ROW)
    return server.incr("number")


def too_many_connections(server: redis.Redis) -> object:
    pool = redis.ConnectionPool(port=server.connection_pool.connection_kwargs["port"], max_connections=1)
    held = pool.get_connection()
    try:
        return redis.Redis(connection_pool=pool).ping()
    finally:
        pool.release(held)


OF_REDIS = {
    # doubtful: memory, but the server's; more for the run does not help
    "resource": {
        "no memory": no_memory,
        "clients": no_more_clients,
        "connections": too_many_connections,
    },
    "transient": {
        # doubtful: it passes if another one becomes the primary
        "read only": lambda server: as_replica(server, lambda: server.set("x", "1"), "yes"),
        "primary gone": lambda server: as_replica(server, lambda: server.get("x"), "no"),
        "busy": busy,
        "loading": loading,
    },
    "auth": {
        "wrong password": lambda s: another(s, username="secret", password="x").ping(),
        "no rights": lambda s: another(s, username="few", password=PASSWORD).set("x", "1"),
        "no keys": lambda s: another(s, username="secret", password=PASSWORD).set("x", "1"),
    },
    "conflict": {"watched": watched, "lock of another": lock_of_another, "held lock": held_lock},
    "permanent": {
        "wrong type": wrong_type,
        "no such command": lambda server: server.execute_command("NONSENSE"),
        "no script": lambda server: server.evalsha("0" * 40, 0),
    },
    "corrupt": {"dump": damaged_dump},
    "data": {"no number": no_number},
}


@pytest.mark.failure(of="kind", work="publish")
@causes(OF_REDIS)
def test_what_redis_tells(server: redis.Redis, kind: str, cause: Callable[[redis.Redis], object]) -> None:
    fails(cause, server)


@pytest.mark.failure("auth", work="publish")
def test_a_redis_that_wants_a_password(tmp_path: Path) -> None:
    with redis_with(tmp_path) as server:
        server.config_set("requirepass", PASSWORD)
        fails(lambda: another(server).ping())


@pytest.mark.failure("network", work="publish")
def test_a_redis_that_is_stopped(tmp_path: Path) -> None:
    with redis_with(tmp_path) as server:
        os.kill(server.info("server")["process_id"], signal.SIGSTOP)
        fails(lambda: another(server, socket_timeout=0.1).ping())


@pytest.mark.failure("transient", work="publish")
def test_a_cluster_of_redis_of_which_parts_are_gone(tmp_path: Path) -> None:
    with redis_with(tmp_path, "--cluster-enabled", "yes") as server:
        fails(lambda: server.get("x"))


@pytest.mark.failure("disk", work="publish")
def test_a_redis_whose_disk_is_full(tmp_path: Path, full: Path) -> None:
    with redis_with(full, "--save", "3600", "1") as server:
        with suppress(OSError):
            (full / "ballast").write_bytes(bytes(1 << 20))
        server.set("x", "x" * 1000)
        server.bgsave()
        until(lambda: server.info("persistence")["rdb_last_bgsave_status"] != "ok", 30, pause=0.02)
        fails(lambda: server.set("x", "1"))


# Postgres -------------------------------------------------------------------------------------------

Connection = psycopg2.extensions.connection


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    for started in running_postgres():
        rules = started.folder / "data" / "pg_hba.conf"
        rules.write_text(
            "host all secret all scram-sha-256\nhost all nobody all reject\n" + rules.read_text()
        )
        for said in (
            f"create role secret login password '{PASSWORD}'",
            "create role few login connection limit 0",
            "create role other login",
            "create table t (id int primary key, n smallint not null check (n < 9))",
            "insert into t values (1, 1), (2, 2)",
            "alter system set max_slot_wal_keep_size = '1MB'",
            "select pg_reload_conf()",
        ):
            started.sql("postgres", said)
        yield started


def connected(to: Postgres, user: str = "postgres", **more: object) -> Connection:
    told = {"dbname": "postgres", "host": "127.0.0.1", "port": to.port, **more}
    return psycopg2.connect(user=user, **told)  # type: ignore[arg-type, call-overload]


def run(connection: Connection, *statements: str) -> object:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    return None


def sql(*statements: str) -> Callable[[Postgres], object]:
    """Statements of one transaction."""

    def work(server: Postgres) -> object:
        with closing(connected(server)) as connection:
            return run(connection, *statements)

    return work


def alone(*statements: str) -> Callable[[Postgres], object]:
    """Statements, each in a transaction of its own."""

    def work(server: Postgres) -> object:
        with closing(connected(server)) as connection:
            connection.autocommit = True
            return run(connection, *statements)

    return work


def deadlock(server: Postgres) -> object:
    update = "update t set n = 3 where id = {}".format
    with closing(connected(server)) as one, closing(connected(server)) as other:
        for connection in (one, other):
            run(connection, "set deadlock_timeout = 50")
        run(one, update(1))
        run(other, update(2))
        failed = list[BaseException]()

        def cross() -> None:
            try:
                run(one, update(2))
            except psycopg2.Error as error:
                failed.append(error)
                one.rollback()

        waiting = threading.Thread(target=cross)
        waiting.start()
        try:
            run(other, update(1))
        finally:
            other.rollback()
            waiting.join()
        raise failed[0]


def not_serial(server: Postgres) -> object:
    with closing(connected(server)) as one, closing(connected(server)) as other:
        for connection in (one, other):
            connection.set_session(isolation_level="SERIALIZABLE")
            run(connection, "select sum(n) from t")
        for n, connection in enumerate((one, other)):
            run(connection, f"insert into t values ({10 + n}, 1)")
        one.commit()
        return other.commit()


def locked(server: Postgres) -> object:
    with closing(connected(server)) as one, closing(connected(server)) as other:
        run(one, "lock table t")
        return run(other, "set lock_timeout = 20", "select * from t")


def ended_by_another(server: Postgres) -> object:
    with closing(connected(server)) as one:
        server.sql("postgres", f"select pg_terminate_backend({one.info.backend_pid}, 5000)")
        return run(one, "select 1")


def slot_without_log(server: Postgres) -> object:
    """What a slot needs was removed, for it was left behind for too long."""
    server.sql("postgres", "select pg_create_logical_replication_slot('slow', 'pgoutput')")
    for n in range(4):
        server.sql("postgres", f"insert into t values ({100 + n}, 1); select pg_switch_wal(); checkpoint")
    read = "select pg_logical_slot_get_binary_changes('slow', null, null, 'proto_version', '1', {})"
    return alone(read.format("'publication_names', 'p'"))(server)


def as_user(user: str, *statements: str, **more: object) -> Callable[[Postgres], object]:
    def work(server: Postgres) -> object:
        with closing(connected(server, user, **more)) as connection:
            return run(connection, *statements)

    return work


OF_POSTGRES = {
    "conflict": {"deadlock": deadlock, "not serial": not_serial, "locked": locked},
    "hung": {
        "statement": sql("set statement_timeout = 20", "select pg_sleep(9)"),
    },
    "auth": {
        "wrong password": as_user("secret", password="x"),
        "no password": as_user("secret"),
        "no rule": as_user("nobody"),
        "no rights": as_user("other", "select * from t"),
    },
    "permanent": {
        "no database": as_user("postgres", dbname="none"),
        "no table": sql("select * from none"),
        "no schema": sql("create table none.t (a int)"),
        # doubtful: a replica that may become the primary
        "read only": sql("set transaction read only", "delete from t"),
    },
    "resource": {
        "connections": as_user("few"),
        # Postgres' own advice is to raise a limit of the server.
        "locks": sql("do $$ begin for n in 1..20000 loop perform pg_advisory_xact_lock(n); end loop; end $$"),
        # doubtful: a limit on what a statement may write to the disk
        "temporary files": sql(
            "set temp_file_limit = 100",
            "set work_mem = 64",
            "select * from generate_series(1, 99999) order by 1",
        ),
    },
    "data": {
        "unique": sql("insert into t values (1, 1)"),
        "range": sql("insert into t values (3, 99999)"),
        "check": sql("insert into t values (3, 10)"),
        "null": sql("insert into t values (3, null)"),
        "text": sql(f"select '{ROW}'::int"),
        "zero": sql("select 1 / (n - n) from t"),
        "json": sql(f"select '{ROW}'::json"),
    },
    "transient": {"ended": ended_by_another},
    "position_lost": {"slot": slot_without_log},
    "network": {
        "no such host": lambda _: psycopg2.connect(host="no-such-host.invalid", dbname="x"),
        "no socket": lambda _: psycopg2.connect(host="/nowhere", dbname="x"),
    },
}


@pytest.mark.postgres
@pytest.mark.failure(of="kind")
@causes(OF_POSTGRES)
def test_what_postgres_tells(postgres: Postgres, kind: str, cause: Callable[[Postgres], object]) -> None:
    fails(cause, postgres)


@pytest.mark.postgres
@pytest.mark.failure("disk")
def test_a_postgres_whose_disk_is_full(postgres: Postgres, full: Path) -> None:
    ours = (folder for folder in full.parents if Path(gettempdir()) in folder.parents)
    for folder in (full, *ours):  # in which another user is to write
        folder.chmod(0o755)
    if postgres.user:
        shutil.chown(full, postgres.user["user"], postgres.user["group"])
    postgres.sql("postgres", f"create tablespace small location '{full}'")
    postgres.sql("postgres", "create table small (a text) tablespace small")
    fails(sql("insert into small select repeat('x', 1000) from generate_series(1, 1000)"), postgres)
    postgres.sql("postgres", "drop table small")
    postgres.sql("postgres", "drop tablespace small")


@pytest.mark.postgres
@pytest.mark.failure("corrupt")
def test_a_page_of_postgres_that_is_damaged(postgres: Postgres) -> None:
    postgres.sql("postgres", "create table damaged as select generate_series(1, 1000) a")
    place = postgres.sql("postgres", "select pg_relation_filepath('damaged')")
    postgres.interrupt()
    with (postgres.folder / "data" / place).open("r+b") as file:
        file.write(b"\xaa" * 4096)
    postgres.again()
    fails(sql("select sum(a) from damaged"), postgres)


@pytest.mark.postgres
@pytest.mark.failure("transient")
def test_a_postgres_that_is_shutting_down(postgres: Postgres) -> None:
    with closing(connected(postgres)):
        postgres.process.send_signal(signal.SIGTERM)

        def closes() -> bool:
            with suppress(psycopg2.OperationalError):
                connected(postgres).close()
                return False
            return True

        until(closes, 30, pause=0.02)
        fails(connected, postgres)
    postgres.process.wait(30)
    postgres.again()


@pytest.mark.postgres
@pytest.mark.failure("transient")
def test_a_postgres_of_which_another_process_crashed(postgres: Postgres) -> None:
    with closing(connected(postgres)) as one, closing(connected(postgres)) as other:
        os.kill(other.info.backend_pid, signal.SIGKILL)
        with pytest.raises(psycopg2.Error):
            until(lambda: run(one, "select 1"), 30, pause=0.05)
    until(lambda: _answers(postgres), 30)


def _answers(server: Postgres) -> bool:
    with suppress(psycopg2.OperationalError):
        connected(server).close()
        return True
    return False


# within the process ---------------------------------------------------------------------------------


def pool_used_up() -> object:
    engine = sqlalchemy.create_engine(
        "sqlite://", poolclass=sqlalchemy.QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    with engine.connect():
        return engine.connect()


def in_duckdb(*statements: str) -> Callable[[Path], object]:
    def work(folder: Path) -> object:
        with closing(duckdb.connect(":memory:")) as store:
            store.execute(f"set threads = 1; set temp_directory = '{folder}'")
            for statement in statements:
                store.execute(statement.format(folder=folder)).fetchall()
        return None

    return work


def two_change_a_row(_: Path) -> object:
    with closing(duckdb.connect(":memory:")) as one:
        one.execute("create table t as select 1 a")
        other = one.cursor()
        one.execute("begin; update t set a = 2")
        other.execute("begin")
        return other.execute("update t set a = 3")


def damaged_database(folder: Path) -> object:
    place = folder / "a.db"
    with closing(duckdb.connect(str(place))) as store:
        store.execute("create table t as select range a from range(100000)")
    content = bytearray(place.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    place.write_bytes(content)
    return duckdb.connect(str(place))


def no_database(folder: Path) -> object:
    (folder / "a.db").write_bytes(b"nothing of the kind" * 500)
    return duckdb.connect(str(folder / "a.db"))


def cut_parquet(folder: Path) -> object:
    file = folder / "a.parquet"
    in_duckdb("copy (select range a from range(9999)) to '{folder}/a.parquet'")(folder)
    file.write_bytes(file.read_bytes()[:-50])
    return in_duckdb("select sum(a) from '{folder}/a.parquet'")(folder)


MUCH = "select list(range::varchar || repeat('x', 100)) from range(200000)"
OF_PROCESS = {
    "oom": {"duckdb": in_duckdb("set temp_directory = ''", "set memory_limit = '10MB'", MUCH)},
    # doubtful: the limit of what it may write to the disk
    "disk": {
        "duckdb": in_duckdb(
            "set memory_limit = '20MB'",
            "set max_temp_directory_size = '1MB'",
            "create table t as select range a, repeat('x', 200) b from range(200000) order by b, a desc",
        )
    },
    "conflict": {"duckdb": two_change_a_row},
    "corrupt": {
        "duckdb": damaged_database,
        "duckdb of another": no_database,
        "duckdb, parquet": cut_parquet,
    },
    "data": {
        "duckdb cast": in_duckdb(f"select '{ROW}'::int"),
        "duckdb range": in_duckdb("select 300::tinyint"),
        "duckdb check": in_duckdb("create table t (a int check (a > 0))", "insert into t values (-1)"),
        "duckdb json": in_duckdb("select json_extract('{{', '$.a')"),
    },
    "permanent": {
        "duckdb table": in_duckdb("select * from none"),
        "duckdb column": in_duckdb("select none from range(1)"),
        "duckdb syntax": in_duckdb("selec 1"),
        "sqlalchemy": lambda _: sqlalchemy.create_engine("nonsense://x"),
        "sqlalchemy table": lambda _: (
            sqlalchemy.create_engine("sqlite://").connect().execute(sqlalchemy.text("select * from none"))
        ),
    },
    "resource": {"sqlalchemy": lambda _: pool_used_up()},
}


@pytest.mark.failure(of="kind", work="refresh")
@causes(OF_PROCESS)
def test_a_database_within_the_process(tmp_path: Path, kind: str, cause: Callable[[Path], object]) -> None:
    fails(cause, tmp_path)


@pytest.mark.failure("conflict")
def test_a_database_that_another_process_has_open(tmp_path: Path) -> None:
    place = str(tmp_path / "a.db")
    code = f"import duckdb, time; held = duckdb.connect({place!r}); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holds:
        assert holds.stdout
        holds.stdout.readline()
        try:
            fails(lambda: duckdb.connect(place))
        finally:
            holds.kill()
