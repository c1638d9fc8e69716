"""HTTP requests with retries, credentials, and limits of time and size.

A request is repeated within `PATIENCE` if the server is overloaded, fails or cannot be reached, no sooner
than Retry-After allows. Refused credentials are renewed once. Credentials are sent to one origin (scheme,
host and port) only: a redirect to another origin is followed without them, a link is not followed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay
from tenacity.wait import wait_random_exponential

from medallion_platform.certificates import tls_context
from medallion_platform.errors import DeclarationError, Kind, MedallionError, kind_of_status

if TYPE_CHECKING:
    import httpx

TIMEOUT = 30.0
"""Seconds that a server may be silent."""

LONGEST = 120.0
"""Seconds that a whole response may take, however steadily it drips."""

PATIENCE = 120.0
"""Seconds within which one request is tried again."""

LARGEST = 64 * 2**20
"""Bytes that a response may have, unpacked."""

_LOG = logging.getLogger(__name__)

_backoff = wait_random_exponential(multiplier=0.5, max=30)

Token = Callable[[], str]
"""Gives a bearer token; asked again once a server refuses the last one."""


class RequestError(MedallionError):
    """A request failed; the text says why, without secrets."""

    kind = Kind.DATA


class NotFound(RequestError):
    """There is nothing at a URL; `told` is the body of the server's response."""

    kind = Kind.PERMANENT

    def __init__(self, why: str, told: bytes) -> None:
        super().__init__(why)
        self.told = told


class _TransientAnswer(Exception):
    """A response that may be different on the next try, after at least `after` seconds."""

    def __init__(self, why: str, kind: Kind = Kind.NETWORK, after: float = 0.0) -> None:
        super().__init__(why)
        self.kind = kind
        self.after = after


class _Unauthorized(Exception):
    """The server refuses the credentials."""


@dataclass(frozen=True)
class HttpResponse:
    """A response, and its link to the next page (RFC 8288) if there is one."""

    body: bytes
    link: str | None


@dataclass(frozen=True)
class EnvironmentToken:
    """A bearer token in the environment `variable`.

    Example:
        >>> from medallion_platform import EnvironmentToken
        >>> EnvironmentToken("WEATHER_TOKEN")
        EnvironmentToken(variable='WEATHER_TOKEN')
    """

    variable: str

    def __call__(self) -> str:
        """The token.

        Raises:
            RequestError: the variable is not set.
        """
        return _read_variable(self.variable)


@dataclass(frozen=True)
class EnvironmentUser:
    """Instead of a bearer token: `user:password` in the environment `variable` (RFC 7617).

    Example:
        >>> from medallion_platform import EnvironmentUser
        >>> EnvironmentUser("WEATHER_USER")
        EnvironmentUser(variable='WEATHER_USER')
    """

    variable: str

    def __call__(self) -> str:
        """The base64 text of the user and password, for the `Authorization` header.

        Raises:
            RequestError: the variable is not set.
        """
        return b64encode(_read_variable(self.variable).encode()).decode()


@dataclass(frozen=True)
class ClientCredentials:
    """Bearer tokens from the OAuth server at `url` (RFC 6749, section 4.4).

    The client's id and secret are in the environment variables of these names.

    Example:
        >>> from medallion_platform import ClientCredentials
        >>> ClientCredentials("https://login.example/token", "CLIENT_ID", "CLIENT_SECRET").url
        'https://login.example/token'
    """

    url: str
    client_id: str
    client_secret: str
    scope: str = ""

    def __post_init__(self) -> None:
        refuse_unencrypted(self.url)

    def __call__(self) -> str:
        """A new token.

        Raises:
            RequestError: the server gives none, or a variable is not set.
        """
        form = {"grant_type": "client_credentials", **({"scope": self.scope} if self.scope else {})}
        client = (_read_variable(self.client_id), _read_variable(self.client_secret))
        with HttpClient(self.url) as http:
            body = http.post(self.url, form, client).body
        try:
            return str(json.loads(body)["access_token"])
        except (ValueError, KeyError, TypeError):
            raise RequestError(f"{public_url(self.url)} returns no token", kind=Kind.AUTH) from None


class HttpClient:
    """Sends requests to the origin of `url`, one at a time; use it in a `with` block.

    patience: seconds to keep trying, instead of `PATIENCE`.
    """

    def __init__(self, url: str, token: Token | None = None, patience: float | None = None) -> None:
        self._origin = url_origin(url)
        self._token = token
        self._patience = PATIENCE if patience is None else patience
        self._held: str | None = None

    def __enter__(self) -> HttpClient:
        import httpx

        # A loop of its own is what bounds a response as a whole: a read times out between two bytes only.
        self._runner = asyncio.Runner()
        self._http = httpx.AsyncClient(verify=tls_context(), timeout=TIMEOUT, follow_redirects=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._http.aclose())
        self._runner.close()

    def get(self, url: str, params: Mapping[str, str] | None = None) -> HttpResponse:
        """The response at `url`; `params`, if given, replace its query.

        Raises:
            NotFound: there is nothing.
            RequestError: there is no usable response within `PATIENCE`.
        """
        if url_origin(url) != self._origin:
            raise RequestError(
                f"{self._origin} links to {url_origin(url)}, another origin, which is not requested",
                kind=Kind.PERMANENT,
            )
        for _ in range(2):
            try:
                return self._send_with_retries("GET", url, params=params, headers=self._authorization())
            except _Unauthorized:
                self._held = None
        raise RequestError(f"{public_url(url)} refuses the credentials, even renewed ones", kind=Kind.AUTH)

    def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str]) -> HttpResponse:
        """The response to a form, sent with user and password.

        Raises:
            RequestError: there is no usable response within `PATIENCE`.
        """
        try:
            return self._send_with_retries("POST", url, data=form, auth=basic)
        except _Unauthorized:
            raise RequestError(
                f"{public_url(url)} refuses the client's id or secret", kind=Kind.AUTH
            ) from None

    def _authorization(self) -> dict[str, str]:
        if self._token is None:
            return {}
        if self._held is None:
            try:
                self._held = self._token()
            except RequestError:
                raise
            except Exception as error:
                raise RequestError(
                    f"its credentials cannot be read ({type(error).__name__})", kind=Kind.AUTH
                ) from None
        scheme = "Basic" if isinstance(self._token, EnvironmentUser) else "Bearer"
        return {"Authorization": f"{scheme} {self._held}"}

    def _send_with_retries(self, method: str, url: str, **request: Any) -> HttpResponse:
        retrying = Retrying(
            retry=retry_if_exception_type(_TransientAnswer),
            wait=_pause_before_retry,
            stop=stop_before_delay(self._patience),
            before_sleep=partial(_say_retry, public_url(url)),
            reraise=True,
        )
        try:
            return retrying(lambda: self._runner.run(self._send_once(method, url, request)))
        except _TransientAnswer as error:
            raise RequestError(
                f"{public_url(url)} {error}, and was asked for {self._patience:.0f} s",
                kind=error.kind,
            ) from None

    async def _send_once(self, method: str, url: str, request: Mapping[str, Any]) -> HttpResponse:
        import httpx

        try:
            async with asyncio.timeout(LONGEST), self._http.stream(method, url, **request) as response:
                if response.status_code != 404:
                    _raise_for_status(response)
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > LARGEST:
                        raise RequestError(
                            f"{public_url(url)} returns more than {LARGEST} bytes at once; request less"
                        )
        except TimeoutError:
            raise _TransientAnswer(f"takes longer than {LONGEST:.0f} s to respond") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise RequestError(
                f"{public_url(url)} leads nowhere ({type(error).__name__})", kind=Kind.PERMANENT
            ) from None
        except httpx.HTTPError as error:
            raise _TransientAnswer(f"cannot be read ({type(error).__name__})") from None
        if response.status_code == 404:
            raise NotFound(_status_text(response), bytes(body))
        _LOG.debug("%s answers", public_url(url), extra={"url": public_url(url), "bytes": len(body)})
        link = response.links.get("next", {}).get("url")
        return HttpResponse(bytes(body), str(response.url.join(link)) if link else None)


def _raise_for_status(response: httpx.Response) -> None:
    """Raise the error that a status other than 200 stands for."""
    status = response.status_code
    if status == 200:
        return
    if status == 401:
        raise _Unauthorized
    kind = kind_of_status(status) or Kind.PERMANENT
    if kind is Kind.DISK:
        kind = Kind.TRANSIENT  # the disk that is full is the server's, not one that the reader could mend
    if kind.transient:
        raise _TransientAnswer(
            f"answers {status}", kind, retry_after_seconds(response.headers, datetime.now(UTC))
        )
    raise RequestError(_status_text(response), kind=kind)


def _status_text(response: httpx.Response) -> str:
    return f"{public_url(str(response.request.url))} answers {response.status_code} {response.reason_phrase}"


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float:
    """The seconds in `Retry-After` (RFC 9110, section 10.2.3), 0 without this header.

    A date is compared with the server's own `Date` if there is one, because clocks differ.
    """
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text)
    until = _parse_http_date(text)
    return (
        max(0.0, (until - (_parse_http_date(headers.get("date", "")) or now)).total_seconds())
        if until
        else 0.0
    )


def _parse_http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _say_retry(place: str, state: RetryCallState) -> None:
    """Log that a request is repeated, without what may be secret."""
    error = state.outcome.exception() if state.outcome else None
    kind = error.kind.value if isinstance(error, _TransientAnswer) else ""
    pause = round(state.next_action.sleep, 1) if state.next_action else 0.0
    fields = {"url": place, "attempt": state.attempt_number + 1, "kind": kind, "pause": pause}
    _LOG.info("%s %s: asked again in %s s", place, error, pause, extra=fields)


def _pause_before_retry(state: RetryCallState) -> float:
    """Seconds until the next try: those the server asks for, else growing ones with a random part."""
    error = state.outcome.exception() if state.outcome else None
    after = error.after if isinstance(error, _TransientAnswer) else 0.0
    return after or _backoff(state)


def url_origin(url: str) -> str:
    """Scheme, host and port, as RFC 6454 compares them.

    Raises:
        RequestError: it is not an http or https URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        raise RequestError("a link is not an http or https URL", kind=Kind.PERMANENT) from None
    return f"{parts.scheme}://{parts.hostname}:{port}"


def public_url(url: str) -> str:
    """A URL without the parts that may be secret: user, password, query."""
    parts = urlsplit(url)
    return SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "").geturl()


def refuse_unencrypted(url: str) -> None:
    """Raise DeclarationError where credentials must not go: not encrypted, unless to this machine."""
    parts = urlsplit(url)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise DeclarationError(f"{public_url(url)}: credentials go to https only")


def _read_variable(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise RequestError(f"there are no credentials: the environment has no {variable}", kind=Kind.AUTH)
    return value
