"""Failures of further clients of HTTP, S3, Azure, Google and gRPC, at servers that answer oddly."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import aiohttp
import github3
import grpc
import pytest
import requests
import urllib3
from obstore.store import AzureStore, GCSStore
from urllib3.util import Retry

from medallion_platform_tests.corpus.causes import PASSWORD, ROW, causes, fails
from medallion_platform_tests.kafka import certificates
from medallion_platform_tests.test_errors import answering, bucket, closed

__all__ = ["closed"]

Ending = Literal["close", "reset", "hold"]


def said(status: int, body: bytes = b"", **headers: object) -> bytes:
    """An answer of HTTP as it goes over the wire."""
    told = {"Content-Length": len(body), **{name.replace("_", "-"): of for name, of in headers.items()}}
    head = "".join(f"{name}: {of}\r\n" for name, of in told.items() if of is not None)
    return f"HTTP/1.1 {status} x\r\n{head}Connection: close\r\n\r\n".encode() + body


@contextmanager
def odd(answer: bytes, end: Ending = "close", tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server that says these bytes to everybody."""
    held: list[socket.socket] = []

    def serve(peer: socket.socket) -> None:
        with suppress(OSError):
            peer = tls.wrap_socket(peer, server_side=True) if tls else peer
            peer.recv(1 << 16)
            peer.sendall(answer)
            if end == "hold":
                held.append(peer)
                return
            if end == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

    def listen(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=listen, args=(server,), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for peer in held:
        peer.close()


@contextmanager
def secured(folder: Path) -> Iterator[str]:
    """One whose authority nobody knows."""
    certificates.make(folder / "authority.pem", folder / "server.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem")
    with odd(said(200), tls=tls) as address:
        yield address


def by_requests(url: str) -> object:
    answer = requests.get(url, timeout=0.3)
    answer.raise_for_status()
    return answer.content


def by_aiohttp(url: str) -> object:
    async def ask() -> bytes:
        patience = aiohttp.ClientTimeout(total=0.3)
        async with (
            aiohttp.ClientSession(timeout=patience, raise_for_status=True) as session,
            session.get(url) as answer,
        ):
            return await answer.read()

    return asyncio.run(ask())


def by_urllib3(url: str) -> object:
    return urllib3.PoolManager().request("GET", url, timeout=0.3, retries=Retry(0)).data


CLIENTS: dict[str, Callable[[str], object]] = {
    "requests": by_requests,
    "aiohttp": by_aiohttp,
    "urllib3": by_urllib3,
}

Answer = tuple[bytes, Ending]
ANSWERS: dict[str, dict[str, Answer]] = {
    "rate_limit": {"429": (said(429, Retry_After=1), "close")},
    "transient": {
        "503": (said(503, Retry_After=120), "close"),
        "502 with a page of a proxy": (said(502, b"<html>bad gateway", Content_Type="text/html"), "close"),
    },
    # doubtful: it is the server's disk
    "disk": {"507": (said(507), "close")},
    # doubtful: a file that somebody else holds
    "conflict": {"423": (said(423), "close")},
    "auth": {
        "401": (said(401, WWW_Authenticate='Basic realm="x"'), "close"),
        "407": (said(407, Proxy_Authenticate='Basic realm="x"'), "close"),
    },
    "permanent": {
        "moved in a circle": (said(302, Location="/"), "close"),
        "451": (said(451), "close"),
    },
    "network": {
        "half a body": (said(200, Content_Length=100) + b"half", "close"),
        "a body without its end": (
            said(200, Content_Length=None, Transfer_Encoding="chunked") + b"5\r\nhello\r\n",
            "close",
        ),
        "reset": (b"", "reset"),
        "reset in the body": (said(200, Content_Length=1 << 20) + b"x" * 1000, "reset"),
        "silence": (b"", "hold"),
        "silence in the body": (said(200, Content_Length=100) + b"half", "hold"),
        # doubtful: a wrong port, or a proxy in between
        "no http": (b"SSH-2.0-OpenSSH_9.2p1\r\n", "close"),
    },
    "corrupt": {
        "no gzip": (said(200, b"nothing of the kind", Content_Encoding="gzip"), "close"),
    },
}
OF_CLIENTS = [
    pytest.param(kind, client, answer, id=f"{client}-{kind}-{name}")
    for kind, named in ANSWERS.items()
    for name, answer in named.items()
    for client in CLIENTS
    if client != "urllib3" or kind in ("network", "corrupt")  # it takes every status for an answer
]


@pytest.mark.failure(of="kind", work="intake")
@pytest.mark.parametrize(("kind", "client", "answer"), OF_CLIENTS)
def test_an_odd_answer(kind: str, client: str, answer: Answer) -> None:
    with odd(*answer) as address:
        fails(CLIENTS[client], f"http://{PASSWORD}:x@{address}/")


@pytest.mark.failure("network", work="intake")
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("host", ["nobody listens", "no such host"])
def test_no_server(client: str, host: str, closed: str) -> None:
    fails(CLIENTS[client], f"http://{closed if host == 'nobody listens' else 'no-such-host.invalid'}/")


@pytest.mark.failure("auth", work="intake")
@pytest.mark.parametrize("client", CLIENTS)
def test_an_authority_that_nobody_knows(client: str, tmp_path: Path) -> None:
    with secured(tmp_path) as address:
        fails(CLIENTS[client], f"https://{address}/")


@pytest.mark.failure("auth", work="intake")
def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    with secured(tmp_path) as address:
        url = f"https://localhost:{address.rpartition(':')[2]}/"
        fails(lambda: requests.get(url, verify=str(tmp_path / "authority.pem"), timeout=3))


@pytest.mark.failure("permanent", work="intake")
@pytest.mark.parametrize("client", CLIENTS)
def test_tls_where_the_server_has_none(client: str) -> None:
    """Doubtful: the address is wrong, and stays so."""
    with odd(said(400)) as address:
        fails(CLIENTS[client], f"https://{address}/")


@pytest.mark.failure("auth", work="intake")
def test_a_proxy_that_wants_to_know_who_asks() -> None:
    with odd(said(407)) as address:
        fails(lambda: requests.get("https://x.invalid/", proxies={"https": f"http://{address}"}, timeout=3))


@pytest.mark.failure("permanent", work="intake")
@pytest.mark.parametrize("client", CLIENTS)
def test_an_address_that_is_none(client: str) -> None:
    fails(CLIENTS[client], "no-scheme.example")


@pytest.mark.failure("data", work="intake")
def test_an_answer_that_is_no_json() -> None:
    """Doubtful: a page of a proxy is as likely."""
    with odd(said(200, b"<html>" + ROW.encode())) as address:
        fails(lambda: requests.get(f"http://{address}/", timeout=3).json())


@pytest.mark.failure("rate_limit", work="run")
def test_a_server_of_git_that_asks_for_fewer_requests() -> None:
    """GitHub's answer ("Rate limits for the REST API"): 403, and how many requests are left."""
    told = b'{"message": "API rate limit exceeded for 127.0.0.1."}'
    answer = said(403, told, Content_Type="application/json", X_RateLimit_Remaining=0)
    with odd(answer) as address:
        fails(lambda: github3.GitHubEnterprise(f"http://{address}").repository("owner", "name"))


# stores of objects ----------------------------------------------------------------------------------

S3_SAYS: dict[str, dict[str, int]] = {
    "rate_limit": {"SlowDownRead": 503, "SlowDownWrite": 503},
    "transient": {"XMinioServerNotInitialized": 503},
    "disk": {"XMinioAdminBucketQuotaExceeded": 400, "QuotaExceeded": 403},
    "auth": {"AccountProblem": 403, "AllAccessDisabled": 403, "MissingSecurityHeader": 400},
    "permanent": {
        "AuthorizationHeaderMalformed": 400,  # another region
        "InvalidObjectState": 403,  # in an archive
        "KMS.DisabledException": 400,
    },
    "conflict": {"OperationAborted": 409},
    # doubtful: what arrived is not what was sent
    "network": {"IncompleteBody": 400, "BadDigest": 400},
}


@pytest.mark.failure(of="kind")
@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [(kind, code, status) for kind, codes in S3_SAYS.items() for code, status in codes.items()],
)
def test_a_further_answer_of_s3(kind: str, code: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By "Error Responses" of S3's API reference, MinIO's `api-errors.go` and Ceph's `rgw_common.cc`."""
    body = f"<Error><Code>{code}</Code><Message>{PASSWORD}</Message></Error>".encode()
    with answering(status, body) as url:
        store = bucket(url, monkeypatch)
        fails(lambda: store.put("x", b"x") if kind == "disk" else store.get("x").bytes())


AZURE_SAYS: dict[str, dict[str, int]] = {
    "rate_limit": {"ServerBusy": 503},
    "transient": {"InternalError": 500},
    "auth": {"AuthenticationFailed": 403, "InsufficientAccountPermissions": 403},
    "permanent": {"ContainerNotFound": 404, "AccountIsDisabled": 403},
    "conflict": {"LeaseIdMissing": 412, "BlobImmutableDueToPolicy": 409},
    "network": {"OperationTimedOut": 500},
}


@pytest.mark.failure(of="kind")
@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [(kind, code, status) for kind, codes in AZURE_SAYS.items() for code, status in codes.items()],
)
def test_an_answer_of_azure(kind: str, code: str, status: int) -> None:
    """By "Common REST API error codes" and "Blob Storage error codes"."""
    key = base64.b64encode(PASSWORD.encode()).decode()
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>said</Message></Error>'.encode()
    with answering(status, body) as url:
        store = AzureStore(
            "c",
            account_name="a",
            account_key=key,
            endpoint=url,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        fails(lambda: store.put("x", b"x") if kind == "conflict" else store.get("x").bytes())


GOOGLE_SAYS: dict[str, dict[str, int]] = {
    "rate_limit": {"rateLimitExceeded": 429},
    "auth": {"insufficientPermissions": 403, "authError": 401},
    "conflict": {"conditionNotMet": 412},
    "transient": {"backendError": 503},
}


@pytest.mark.failure(of="kind")
@pytest.mark.parametrize(
    ("kind", "reason", "status"),
    [(kind, reason, status) for kind, of in GOOGLE_SAYS.items() for reason, status in of.items()],
)
def test_an_answer_of_google(kind: str, reason: str, status: int) -> None:
    """By "HTTP status and error codes for JSON" of Cloud Storage."""
    body = json.dumps({"error": {"code": status, "errors": [{"reason": reason}]}}).encode()
    with answering(status, body) as url:
        account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": ""}
        store = GCSStore(
            "b",
            service_account_key=json.dumps({**account, "private_key_id": ""}),
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        fails(lambda: store.put("x", b"x") if kind == "conflict" else store.get("x").bytes())


@pytest.mark.failure("network")
@pytest.mark.parametrize("name", ["half a body", "reset", "silence", "silence in the body"])
def test_a_store_that_breaks_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.store import S3Store

    answer, end = ANSWERS["network"][name]
    answer = answer.replace(b"\r\n", b'\r\nETag: "1"\r\nLast-Modified: Mon, 30 Nov 2026 00:00:00 GMT\r\n', 1)
    with odd(answer if answer.startswith(b"HTTP") else b"", end) as address:
        bucket(f"http://{address}", monkeypatch)
        store = S3Store.from_url(
            "s3://b/p",
            client_options={"allow_http": True, "timeout": "300ms"},
            retry_config={"max_retries": 0},
        )
        fails(lambda: store.get("x").bytes())


# gRPC -----------------------------------------------------------------------------------------------


def abort(code: grpc.StatusCode) -> Callable[[Any, Any], object]:
    return lambda _, context: context.abort(code, ROW)


def raises(*_: object) -> object:
    raise ValueError(ROW)


def sleeps(*_: object) -> object:
    time.sleep(0.5)
    return b""


METHODS: dict[str, dict[str, Callable[[Any, Any], object]]] = {
    "unknown": {"raises": raises},
    "conflict": {"aborted": abort(grpc.StatusCode.ABORTED)},
    "network": {"sleeps": sleeps},
    # What is sent stays as large as it is.
    "permanent": {
        "too large": lambda *_: b"x" * (5 << 20),
        "precondition": abort(grpc.StatusCode.FAILED_PRECONDITION),
    },
    "corrupt": {"data loss": abort(grpc.StatusCode.DATA_LOSS)},
}


@pytest.mark.failure(of="kind")
@causes(METHODS)
def test_a_method_that_fails_elsewhere(kind: str, cause: Callable[[Any, Any], object]) -> None:
    handler = grpc.method_handlers_generic_handler(
        "service", {"method": grpc.unary_unary_rpc_method_handler(cause)}
    )
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            fails(lambda: channel.unary_unary("/service/method")(b"", timeout=0.2 if cause is sleeps else 10))
    finally:
        server.stop(0)


@pytest.mark.failure("permanent")
def test_a_method_that_there_is_not() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            fails(lambda: channel.unary_unary("/service/none")(b"", timeout=10))
    finally:
        server.stop(0)
