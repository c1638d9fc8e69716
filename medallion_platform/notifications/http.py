"""Requests to the servers of channels: short, sent once, with nothing in an error that may be secret."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from medallion_platform.certificates import tls_context
from medallion_platform.notifications.channel import Undelivered
from medallion_platform.sources.http import retry_after_seconds

if TYPE_CHECKING:
    import httpx

SECONDS = 10.0
"""What a whole request may take, however steadily its answer drips."""
_LARGEST = 4 * 2**20
_OF_THE_MESSAGE = (400, 404, 409, 410, 413, 422)
"""What the server says to this message alone."""


def request(
    method: str,
    url: str,
    body: Mapping[str, Any] | bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Any:
    """What a server answers, of JSON; None where it is none.

    body: sent as JSON; bytes are JSON already.

    Raises:
        Undelivered: the server cannot be reached, or gives no answer of success within `SECONDS`.
    """
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = {"content-type": "application/json; charset=utf-8", **(headers or {})}
    answer = asyncio.run(_bounded(method, url, content=content, headers=sent, params=params))
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None


async def _bounded(method: str, url: str, **sent: Any) -> bytes:
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs addresses, which may hold a secret
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpx.AsyncClient(verify=tls_context(), timeout=SECONDS) as client,
            client.stream(method, url, **sent) as response,
        ):
            _raise_for_status(response)
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _LARGEST:
                    raise Undelivered(f"its server answers with more than {_LARGEST >> 20} MB")
            return bytes(body)
    except TimeoutError:
        raise Undelivered(f"its server does not answer within {SECONDS:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Undelivered(f"its server cannot be reached ({type(error).__name__})") from None


def _raise_for_status(response: httpx.Response) -> None:
    status = response.status_code
    if not response.is_success:
        raise Undelivered(
            f"its server answers {status} {response.reason_phrase}",
            only_this=status in _OF_THE_MESSAGE,
            code=status,
            after=retry_after_seconds(response.headers, datetime.now(UTC)),
        )
