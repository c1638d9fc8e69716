"""What the doctor finds of a bucket, and what it finds where its server or its key is not as it should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from medallion_platform import storage
from medallion_platform.doctor import finding, servers
from medallion_platform.doctor.finding import Finding
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse.lake_format import FORMAT, write_format
from medallion_platform_tests.doctor.looking import look, only
from medallion_platform_tests.kafka.broker import free_ports

from .server import SKEWED, Refusal, Request, Server, proxy

pytestmark = pytest.mark.s3

DENIED = Refusal(403, "AccessDenied", "Access Denied.")


@pytest.fixture
def settings(bucket: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, lake=f"{bucket}/lake", landing=f"{bucket}/landing")


def told(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Tell clients of another server or key; those that were made before keep theirs."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    storage.store.cache_clear()


def text_of(findings: list[Finding]) -> str:
    return "\n".join(f"{f.found} -> {f.remedy}" for f in findings)


def test_a_bucket_that_serves_is_left_as_it_was(settings: Settings, server: Server) -> None:
    def files() -> list[Path]:
        return [path for path in server.root.glob("[!.]*/**/*") if path.is_file()]  # beside the server's own

    before = files()
    lake = look(servers.lake, settings)
    assert [f.ok for f in lake] == [True, True, True], text_of(lake)
    assert "s3:ListBucket, s3:PutObject, s3:GetObject, s3:DeleteObject" in text_of(lake)
    assert only(servers.landing_zone, settings).ok
    assert only(servers.clock, settings).ok
    assert files() == before
    write_format(str(settings.lake), FORMAT + 1)
    assert look(servers.lake, settings)[-1].ok is False


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another-secret"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "another-key"}, "InvalidAccessKeyId"),
    ],
)
def test_a_wrong_key(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], text: str
) -> None:
    told(monkeypatch, wrong)
    for check in (servers.lake, servers.landing_zone):
        found = only(check, settings)
        assert found.ok is False and text in found.found, text_of([found])
        assert "see that the key is right" in found.remedy
        assert "another-secret" not in text_of([found])


def test_a_bucket_that_is_not_there(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"lake": "s3://nowhere-to-be-found/lake"})
    found = look(servers.lake, nowhere)
    assert found[0].ok is False and "NoSuchBucket" in found[0].found


def writes(request: Request) -> bool:
    return request.method == "PUT"


def deletes(request: Request) -> bool:
    return request.method in ("DELETE", "POST")


@pytest.mark.parametrize(
    ("refused", "right"), [(writes, "s3:PutObject"), (deletes, "s3:DeleteObject")], ids=["writes", "deletes"]
)
def test_a_key_that_may_only_some(
    settings: Settings,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[[Request], bool],
    right: str,
) -> None:
    with proxy(server, lambda request: DENIED if refused(request) else None) as through:
        told(monkeypatch, through.environment)
        found = look(servers.lake, settings)
        (wrong,) = (f for f in found if not f.ok)
        assert wrong.found.startswith(f"{settings.lake} refuses {right}: the server says AccessDenied")
        assert right in wrong.remedy
        assert only(servers.landing_zone, settings).ok, "who only reads needs no more"


def test_a_server_that_takes_the_same_commit_twice(
    settings: Settings, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(request: Request) -> str | None:
        conditional = any(name.lower() == "if-none-match" for name in request.headers)
        return "forget" if request.method == "PUT" and conditional else None

    with proxy(server, forget) as through:
        told(monkeypatch, through.environment)
        found = look(servers.lake, settings)
    (wrong,) = (f for f in found if not f.ok)
    assert "takes the same commit twice" in wrong.found and "If-None-Match" in wrong.remedy


def test_a_clock_that_s3_refuses(settings: Settings, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(server, lambda _: SKEWED) as through:
        told(monkeypatch, through.environment)
        found = look(servers.lake, settings)
    assert found[0].ok is False and "RequestTimeTooSkewed" in found[0].found


def test_a_server_that_starts_later_is_waited_for(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    told(monkeypatch, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    gone = only(servers.lake, settings)
    assert gone.ok is False and "does not answer" in gone.found and "runs" in gone.remedy
    buckets = tmp_path / "buckets"
    (buckets / str(settings.lake).split("/")[2]).mkdir(parents=True)
    started: list[Server] = []

    def start(_: float) -> None:
        """What happens while the doctor pauses."""
        started.append(Server.start(buckets))
        told(monkeypatch, started[0].environment)

    monkeypatch.setattr(finding, "time", SimpleNamespace(monotonic=time.monotonic, sleep=start))
    try:
        found = finding.examine_until(settings, {"lake": servers.lake}, 60)
    finally:
        for server in started:
            server.stop()
    assert len(started) == 1
    assert all(f.ok for f in found), text_of(found)
