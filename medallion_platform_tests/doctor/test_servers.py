"""What the doctor finds of servers, and what it finds where one of them is not as it should be."""

from __future__ import annotations

import json
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import time
from typing import Any

import pytest

from medallion_platform import storage
from medallion_platform.doctor import servers
from medallion_platform.doctor.configuration import (
    WrongConfiguration,
    postgres_url,
    read_yaml,
    redis_nodes,
    runs_at_once,
)
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse.lake_format import FORMAT, write_format
from medallion_platform_tests.debezium.stack import Postgres, running_postgres
from medallion_platform_tests.doctor.looking import look, only
from medallion_platform_tests.kafka.broker import free_ports


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_a_lake_in_a_folder(settings: Settings, tmp_path: Path) -> None:
    assert only(servers.lake, settings).ok
    assert list(tmp_path.iterdir()) == [], "something was made, or left"
    write_format(str(settings.lake), FORMAT)
    assert [f.ok for f in look(servers.lake, settings)] == [True, True]
    write_format(str(settings.lake), FORMAT + 1)
    _, newer = look(servers.lake, settings)
    assert newer.ok is False and f"has format {FORMAT + 1}" in newer.found
    assert "install the version that wrote it" in newer.remedy


def test_a_folder_in_which_writers_lose_commits(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(root: str, key: str, content: bytes) -> bool:
        return Path(root, key).write_bytes(content) == len(content)

    monkeypatch.setattr(storage, "create_file", overwrite)
    found = only(servers.lake, settings)
    assert found.ok is False and "takes the same commit twice" in found.found and found.remedy


def test_a_landing_zone_in_a_folder(settings: Settings) -> None:
    missing = only(servers.landing_zone, settings)
    assert missing.ok is None and "does not exist yet" in missing.found
    (Path(settings.landing) / "events").mkdir(parents=True)
    assert only(servers.landing_zone, settings).ok


@contextmanager
def telling_time(date: str) -> Iterator[str]:
    """A server of HTTP, and what it says that time is."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            if date:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.parametrize(
    ("ahead", "ok", "text"), [(0, True, "clock is "), (100, False, "behind"), (-100, False, "ahead of")]
)
def test_clocks_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, ok: bool, text: str
) -> None:
    in_bucket = Settings(home=tmp_path, lake="s3://bucket/lake")
    with telling_time(formatdate(time() + ahead, usegmt=True)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        found = only(servers.clock, in_bucket)
    assert (found.ok, text in found.found) == (ok, True)
    assert bool(found.remedy) is not ok
    assert look(servers.clock, Settings(home=tmp_path)) == [], "there is no other clock"


def test_a_server_that_does_not_tell_its_time_or_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_bucket = Settings(home=tmp_path, lake="s3://bucket/lake")
    with telling_time("") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert only(servers.clock, in_bucket).ok is None
    for check in (servers.clock, servers.lake):
        found = only(check, in_bucket)
        assert found.ok is False and "Connection refused" in found.found and "runs" in found.remedy


# --- Postgres -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    yield from running_postgres()


def named(settings: Settings, **dagster: Any) -> Settings:
    """The settings with a `dagster.yaml`."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    (settings.dagster_home / "dagster.yaml").write_text(json.dumps(dagster))
    return settings


def in_postgres(port: int, user: str = "postgres", database: str = "postgres", **more: Any) -> dict[str, Any]:
    password = {"env": "PASSWORD_OF_THE_TEST"}
    told = {
        "hostname": "127.0.0.1",
        "port": port,
        "db_name": database,
        "username": user,
        "password": password,
    }
    return {"storage": {"postgres": {"postgres_db": told}}, **more}


def test_without_postgres_there_is_nothing_to_look_at(settings: Settings) -> None:
    assert look(servers.dagster_storage, settings) == []
    assert look(servers.dagster_storage, named(settings, telemetry={"enabled": False})) == []


@pytest.mark.postgres
def test_postgres_is_there_or_gone(
    settings: Settings, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    unset = only(servers.dagster_storage, named(settings, **in_postgres(postgres.port)))
    assert unset.ok is False and unset.remedy == "set PASSWORD_OF_THE_TEST"
    monkeypatch.setenv("PASSWORD_OF_THE_TEST", "secret")
    found = only(servers.dagster_storage, settings)
    assert found.ok and "Postgres 15" in found.found
    url = f"postgresql://postgres:secret@127.0.0.1:{postgres.port}/postgres"
    by_url = named(settings, storage={"postgres": {"postgres_url": url}})
    assert only(servers.dagster_storage, by_url).found == found.found
    (port,) = free_ports(1)
    for wrong, text in (
        (in_postgres(port), "Connection refused"),
        (in_postgres(postgres.port, database="nowhere"), 'database "nowhere" does not exist'),
        (in_postgres(postgres.port, user="nobody"), 'role "nobody" does not exist'),
    ):
        found = only(servers.dagster_storage, named(settings, **wrong))
        assert found.ok is False and text in found.found and "dagster.yaml" in found.remedy
        assert "secret" not in found.found + found.remedy and "\n" not in found.found


@pytest.mark.postgres
def test_postgres_without_rights_or_room(
    settings: Settings, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD_OF_THE_TEST", "")
    postgres.sql("postgres", 'create role "a reader" login connection limit 21')
    _, right, room = look(servers.dagster_storage, named(settings, **in_postgres(postgres.port, "a reader")))
    assert right.ok is False and "may not create" in right.found
    assert room.ok is False and "21 connections, and 10 runs at a time may need 40" in room.found
    grant = right.remedy.partition(": ")[2]
    postgres.sql("postgres", grant)
    few = named(
        settings, **in_postgres(postgres.port, "a reader", concurrency={"runs": {"max_concurrent_runs": 0}})
    )
    assert only(servers.dagster_storage, few).ok
    postgres.sql("postgres", 'alter role "a reader" set default_transaction_read_only = on')
    _, read_only = look(servers.dagster_storage, few)
    assert read_only.ok is False and "read-only" in read_only.found


@pytest.mark.failure("permanent")
def test_postgres_is_read_from_the_settings_as_dagster_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster_postgres.utils import pg_url_from_config

    told = {
        "hostname": "db",
        "db_name": "dagster",
        "username": "a user",
        "password": "p@ss:word/",
        "params": {"sslmode": "verify-full", "sslrootcert": "/etc/ca.crt"},
    }
    found = postgres_url({"storage": {"postgres": {"postgres_db": told}}})
    assert found is not None
    assert (found.password, found.port, found.query["sslmode"]) == ("p@ss:word/", 5432, "verify-full")
    again = postgres_url(
        {"storage": {"postgres": {"postgres_url": pg_url_from_config({"postgres_db": told})}}}
    )
    assert again == found
    with pytest.raises(WrongConfiguration) as wrong:
        postgres_url({"storage": {"postgres": {"postgres_url": "secret"}}})
    assert "secret" not in str(wrong.value)


def test_how_many_runs_may_work_at_a_time() -> None:
    by_runs, by_coordinator = {"runs": {"max_concurrent_runs": 7}}, {"config": {"max_concurrent_runs": 8}}
    assert runs_at_once({}) == 10
    assert runs_at_once({"run_coordinator": by_coordinator}) == 8
    assert runs_at_once({"run_coordinator": by_coordinator, "concurrency": by_runs}) == 7
    assert runs_at_once({"concurrency": {"runs": {"max_concurrent_runs": -1}}}) is None


@pytest.mark.parametrize("text", ["a: [secret", "- secret", "secret", "a: \0"])
@pytest.mark.failure("permanent")
def test_settings_that_cannot_be_read_are_told_without_their_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "dagster.yaml"
    assert read_yaml(file) == {}
    file.write_text("")
    assert read_yaml(file) == {}
    file.write_text(text)
    with pytest.raises(WrongConfiguration) as wrong:
        read_yaml(file)
    assert str(file) in str(wrong.value) and "secret" not in str(wrong.value)


# --- Redis ----------------------------------------------------------------------------------------


def in_redis(settings: Settings, text: str) -> Settings:
    settings.feature_repo.mkdir(parents=True, exist_ok=True)
    told = {"online_store": {"type": "redis", "connection_string": text}}
    (settings.feature_repo / "feature_store.yaml").write_text(json.dumps(told))
    return settings


@contextmanager
def redis(password: str = "") -> Iterator[int]:
    """What a Redis answers to a client that logs in and asks whether it is there; a real one is not here."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            let_in = not password
            while line := self.rfile.readline():
                words = [
                    (self.rfile.readline(), self.rfile.readline())[1].strip() for _ in range(int(line[1:]))
                ]
                if words[0] == b"AUTH":
                    let_in = words[-1] == password.encode()
                    self.wfile.write(
                        b"+OK\r\n" if let_in else b"-WRONGPASS invalid username-password pair\r\n"
                    )
                elif not let_in:
                    self.wfile.write(b"-NOAUTH Authentication required.\r\n")
                elif words[0] == b"HELLO":
                    self.wfile.write(b"-ERR unknown command 'HELLO'\r\n")
                else:
                    self.wfile.write(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_address[1]
        listening.shutdown()


def test_redis_is_there_gone_or_lets_nobody_in(settings: Settings) -> None:
    assert look(servers.online_store, settings) == [], "Feast's default is a file"
    with redis("secret") as port:
        assert only(servers.online_store, in_redis(settings, f"127.0.0.1:{port},password=secret")).ok
        for given in ("", ",password=another-secret"):
            found = only(servers.online_store, in_redis(settings, f"127.0.0.1:{port}{given}"))
            assert found.ok is False and "feature_store.yaml" in found.remedy
            assert "secret" not in found.found
    found = only(servers.online_store, in_redis(settings, f"127.0.0.1:{port},password=secret"))
    assert found.ok is False and "refused" in found.found


def test_redis_is_read_from_the_settings_as_feast_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore

    monkeypatch.setenv("PASSWORD_OF_THE_TEST", "p=1")
    text = "one:6379,two:6380,db=3,ssl=true,password=p=1"
    found = redis_nodes({"online_store": {"type": "redis", "connection_string": text}})
    nodes, options = RedisOnlineStore._parse_connection_string(text)
    assert found == [{**node, "port": int(node["port"]), **options} for node in nodes]
    by_variable = text.replace("p=1", "$PASSWORD_OF_THE_TEST")
    assert redis_nodes({"online_store": {"type": "redis", "connection_string": by_variable}}) == found
    assert redis_nodes({"online_store": {"type": "sqlite"}}) == redis_nodes({}) == []


def test_what_the_environment_lacks_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medallion_platform.extras.is_installed", lambda _: False)
    found = only(servers.online_store, in_redis(settings, "127.0.0.1:1"))
    assert found.ok is False and 'pip install "medallion-platform[feast]"' in found.remedy
