"""HTTP requests with retries, credentials, and limits of time and size.

A request is repeated within `PATIENCE` if the server is overloaded, fails or cannot be reached, no sooner
than Retry-After allows. Refused credentials are renewed once. Credentials are sent to one origin (scheme,
host and port) only: a redirect to another origin is followed without them, a link is not followed.
"""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay
from tenacity.wait import wait_random_exponential

from medallion_platform.errors import Kind, MedallionError, kind_of_status
from medallion_platform.trust import tls

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

_backoff = wait_random_exponential(multiplier=0.5, max=30)

Token = Callable[[], str]
"""Gives a bearer token; asked again once a server refuses the last one."""


class RequestError(MedallionError):
    """A request came to nothing; one sentence says why, without secrets."""

    kind = Kind.DATA


class NotFound(RequestError):
    """There is nothing at a URL; `told` is what the server says of that."""

    kind = Kind.PERMANENT

    def __init__(self, why: str, told: bytes) -> None:
        super().__init__(why)
        self.told = told


class _TransientAnswer(Exception):
    """It may be over when asked again, `after` seconds from now at the earliest."""

    def __init__(self, why: str, kind: Kind = Kind.NETWORK, after: float = 0.0) -> None:
        super().__init__(why)
        self.kind = kind
        self.after = after


class _Unauthorized(Exception):
    """The server refuses the credentials."""


@dataclass(frozen=True)
class HttpResponse:
    """What a server gave, and its link to the next page (RFC 8288) if there is one."""

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
        return _environment(self.variable)


@dataclass(frozen=True)
class EnvironmentUser:
    """In the place of a bearer token: `user:password` in the environment `variable` (RFC 7617).

    Example:
        >>> from medallion_platform import EnvironmentUser
        >>> EnvironmentUser("WEATHER_USER")
        EnvironmentUser(variable='WEATHER_USER')
    """

    variable: str

    def __call__(self) -> str:
        """What is sent for them.

        Raises:
            RequestError: the variable is not set.
        """
        return b64encode(_environment(self.variable).encode()).decode()


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
        refuse_unsafe(self.url)

    def __call__(self) -> str:
        """A new token.

        Raises:
            RequestError: the server gives none, or a variable is not set.
        """
        form = {"grant_type": "client_credentials", **({"scope": self.scope} if self.scope else {})}
        client = (_environment(self.client_id), _environment(self.client_secret))
        with HttpClient(self.url) as http:
            told = http.post(self.url, form, client).body
        try:
            return str(json.loads(told)["access_token"])
        except (ValueError, KeyError, TypeError):
            raise RequestError(f"{shown(self.url)} returns no token", kind=Kind.AUTH) from None


class HttpClient:
    """Requests to the origin of `url`, one at a time; close it by `with`.

    patience: in the place of `PATIENCE`.
    """

    def __init__(self, url: str, token: Token | None = None, patience: float | None = None) -> None:
        self._origin = origin(url)
        self._token = token
        self._patience = PATIENCE if patience is None else patience
        self._held: str | None = None

    def __enter__(self) -> HttpClient:
        import httpx

        # A loop of its own is what bounds a response as a whole: a read times out between two bytes only.
        self._runner = asyncio.Runner()
        self._http = httpx.AsyncClient(verify=tls(), timeout=TIMEOUT, follow_redirects=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._http.aclose())
        self._runner.close()

    def get(self, url: str, params: Mapping[str, str] | None = None) -> HttpResponse:
        """What is at `url`; `params` take the place of its query, if given.

        Raises:
            NotFound: there is nothing.
            RequestError: there is no answer within `PATIENCE`, or none that can be used.
        """
        if origin(url) != self._origin:
            raise RequestError(
                f"{self._origin} links to {origin(url)}, another origin, which is not requested",
                kind=Kind.PERMANENT,
            )
        for _ in range(2):
            try:
                return self._ask("GET", url, params=params, headers=self._credentials())
            except _Unauthorized:
                self._held = None
        raise RequestError(f"{shown(url)} refuses the credentials, even renewed ones", kind=Kind.AUTH)

    def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str]) -> HttpResponse:
        """The answer to a form, as a user with a password.

        Raises:
            RequestError: there is no answer within `PATIENCE`, or none that can be used.
        """
        try:
            return self._ask("POST", url, data=form, auth=basic)
        except _Unauthorized:
            raise RequestError(f"{shown(url)} refuses the client's id or secret", kind=Kind.AUTH) from None

    def _credentials(self) -> dict[str, str]:
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

    def _ask(self, method: str, url: str, **request: Any) -> HttpResponse:
        retrying = Retrying(
            retry=retry_if_exception_type(_TransientAnswer),
            wait=_pause,
            stop=stop_before_delay(self._patience),
            reraise=True,
        )
        try:
            return retrying(lambda: self._runner.run(self._once(method, url, request)))
        except _TransientAnswer as error:
            raise RequestError(
                f"{shown(url)} {error}, and was asked for {self._patience:.0f} s", kind=error.kind
            ) from None

    async def _once(self, method: str, url: str, request: Mapping[str, Any]) -> HttpResponse:
        import httpx

        try:
            async with asyncio.timeout(LONGEST), self._http.stream(method, url, **request) as response:
                if response.status_code != 404:
                    _refuse(response)
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > LARGEST:
                        raise RequestError(
                            f"{shown(url)} returns more than {LARGEST} bytes at once; request less"
                        )
        except TimeoutError:
            raise _TransientAnswer(f"takes longer than {LONGEST:.0f} s to respond") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise RequestError(
                f"{shown(url)} leads nowhere ({type(error).__name__})", kind=Kind.PERMANENT
            ) from None
        except httpx.HTTPError as error:
            raise _TransientAnswer(f"cannot be read ({type(error).__name__})") from None
        if response.status_code == 404:
            raise NotFound(_answered(response), bytes(body))
        link = response.links.get("next", {}).get("url")
        return HttpResponse(bytes(body), str(response.url.join(link)) if link else None)


def _refuse(response: httpx.Response) -> None:
    """Raise what a status other than 200 means."""
    status = response.status_code
    if status == 200:
        return
    if status == 401:
        raise _Unauthorized
    kind = kind_of_status(status) or Kind.PERMANENT
    if kind is Kind.DISK:
        kind = Kind.TRANSIENT  # the disk that is full is the server's, not one that the reader could mend
    if kind.transient:
        raise _TransientAnswer(f"answers {status}", kind, retry_after(response.headers, datetime.now(UTC)))
    raise RequestError(_answered(response), kind=kind)


def _answered(response: httpx.Response) -> str:
    return f"{shown(str(response.request.url))} answers {response.status_code} {response.reason_phrase}"


def retry_after(headers: Mapping[str, str], now: datetime) -> float:
    """The seconds that Retry-After says (RFC 9110, section 10.2.3), 0 where it says none.

    A date counts from the server's own Date, if that is told: clocks differ.
    """
    told = headers.get("retry-after", "")
    if told.isascii() and told.isdigit():
        return float(told)
    until = _date(told)
    return max(0.0, (until - (_date(headers.get("date", "")) or now)).total_seconds()) if until else 0.0


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _pause(state: RetryCallState) -> float:
    """Seconds until the next try: what the server asks for, else more each time, at random."""
    error = state.outcome.exception() if state.outcome else None
    after = error.after if isinstance(error, _TransientAnswer) else 0.0
    return after or _backoff(state)


def origin(url: str) -> str:
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


def shown(url: str) -> str:
    """A URL without what may be secret: user, password, query."""
    parts = urlsplit(url)
    return SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "").geturl()


def refuse_unsafe(url: str) -> None:
    """Raise ValueError where credentials must not go: not encrypted, unless to this machine."""
    parts = urlsplit(url)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ValueError(f"{shown(url)}: credentials go to https only")


def _environment(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise RequestError(f"there are no credentials: the environment has no {variable}", kind=Kind.AUTH)
    return value
