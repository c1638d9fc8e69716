"""Jars are fetched once, verified always; a folder or a server of our own stands for Maven Central."""

from __future__ import annotations

import hashlib
import http.server
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from medallion_platform.errors import Kind
from medallion_platform.installation.local_spark import jars_here
from medallion_platform.spark.jars import DigestMismatch, Jar, JarsUnavailable, fetch_jars
from medallion_platform_tests.kafka import certificates

CONTENT = b"a jar as good as any"


def a_jar(name: str, content: bytes = CONTENT) -> Jar:
    return Jar("org.example", name, "1.0", hashlib.sha256(content).hexdigest())


@pytest.fixture
def repository(tmp_path: Path) -> str:
    root = tmp_path / "repository"
    for name in ("one", "two"):
        place = root / "org" / "example" / name / "1.0" / f"{name}-1.0.jar"
        place.parent.mkdir(parents=True)
        place.write_bytes(CONTENT)
    return str(root)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A company's authority, which only this machine's certificates name."""
    certificates.make(tmp_path / "authority.pem", tmp_path / "server.pem")
    return tmp_path / "authority.pem"


@pytest.fixture
def server(repository: str, authority: Path) -> Iterator[str]:
    """The repository by HTTPS."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=repository)
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.with_name("server.pem"))
    serving.socket = context.wrap_socket(serving.socket, server_side=True)
    thread = Thread(target=serving.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_what_is_missing_is_fetched_and_the_rest_is_not(repository: str, tmp_path: Path) -> None:
    cache, wanted = tmp_path / "cache", [a_jar("one"), a_jar("two")]
    (one,) = fetch_jars(wanted[:1], cache, repository)
    before = one.stat().st_mtime_ns
    found = fetch_jars(wanted, cache, repository)
    assert [p.name for p in found] == ["one-1.0.jar", "two-1.0.jar"]
    assert [p.read_bytes() for p in found] == [CONTENT, CONTENT]
    assert one.stat().st_mtime_ns == before
    assert sorted(p.name for p in (cache / "jars").iterdir()) == ["one-1.0.jar", "two-1.0.jar"]
    # From here on no repository is needed.
    assert fetch_jars(wanted, cache, str(tmp_path / "gone")) == found


def test_a_damaged_jar_is_fetched_again(repository: str, tmp_path: Path) -> None:
    (path,) = fetch_jars([a_jar("one")], tmp_path, repository)
    path.write_bytes(CONTENT[:5])
    assert fetch_jars([a_jar("one")], tmp_path, repository) == [path]
    assert path.read_bytes() == CONTENT


@pytest.mark.failure("corrupt")
def test_another_file_than_the_pinned_one_never_enters_the_cache(repository: str, tmp_path: Path) -> None:
    with pytest.raises(
        DigestMismatch, match=r"one-1\.0\.jar .* the repository serves another file"
    ) as failed:
        fetch_jars([a_jar("one", b"the real one")], tmp_path / "cache", repository)
    assert failed.value.kind is Kind.CORRUPT
    assert list((tmp_path / "cache" / "jars").iterdir()) == []


def test_a_company_s_authority_is_trusted_as_the_machine_says(
    server: str, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JarsUnavailable, match=r"one-1\.0\.jar could not be fetched \(.*certificate"):
        fetch_jars([a_jar("one")], tmp_path / "cache", server)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    (path,) = fetch_jars([a_jar("one")], tmp_path / "cache", server)
    assert path.read_bytes() == CONTENT
    with pytest.raises(JarsUnavailable, match="the repository answers 404"):
        fetch_jars([a_jar("none")], tmp_path / "cache", server)


def test_the_environment_names_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None:
            pass

    proxy = http.server.HTTPServer(("127.0.0.1", 0), Proxy)
    thread = Thread(target=proxy.serve_forever)
    thread.start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    try:
        (path,) = fetch_jars([a_jar("one")], tmp_path, "http://maven.invalid/m2")
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
    assert asked == ["http://maven.invalid/m2/org/example/one/1.0/one-1.0.jar"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["{folder}", "http://me:hunter2@127.0.0.1:9", "ftp://me:hunter2@x"])
def test_what_cannot_be_fetched_is_one_sentence(repository: str, tmp_path: Path, place: str) -> None:
    with pytest.raises(JarsUnavailable, match=r"none-1\.0\.jar could not be fetched") as failed:
        fetch_jars([a_jar("none")], tmp_path / "cache", place.format(folder=repository))
    assert "\n" not in str(failed.value)
    assert "hunter2" not in str(failed.value)


def test_a_cache_without_a_place(repository: str) -> None:
    with pytest.raises(JarsUnavailable, match="cannot be kept in /proc/nowhere"):
        fetch_jars([a_jar("one")], Path("/proc/nowhere"), repository)


def test_two_at_once_both_get_them(repository: str, tmp_path: Path) -> None:
    wanted = [a_jar("one"), a_jar("two")]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fetch_jars(wanted, tmp_path / "c", repository), range(2))
    assert first == second
    assert {p.read_bytes() for p in first} == {CONTENT}


def test_the_environment_names_cache_and_repository(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("MEDALLION_MAVEN", repository)
    assert jars_here([a_jar("one")]) == [tmp_path / "mine" / "jars" / "one-1.0.jar"]
