"""The platform's errors, in classes for programs and sentences for people.

Every error that is shown to a person is a `MedallionError`: it says what happened, and has a kind, the table
concerned and what to do. `classify` finds the kind of a library's error from its type, its numbers and the
words of protocols, without importing any of the libraries.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Any


class Kind(StrEnum):
    """The class of a failure; by it, and by no text, is decided what becomes of it."""

    RATE_LIMIT = "rate_limit"
    NETWORK = "network"
    TRANSIENT = "transient"
    AUTH = "auth"
    DATA = "data"
    RESOURCE = "resource"
    PERMANENT = "permanent"
    OOM = "oom"
    EVICTED = "evicted"
    DISK = "disk"
    CORRUPT = "corrupt"
    CONFLICT = "conflict"
    POSITION_LOST = "position_lost"
    GAP = "gap"
    HUNG = "hung"
    POISON = "poison"
    UNKNOWN = "unknown"

    @property
    def transient(self) -> bool:
        """Whether the same work can succeed when it is only tried again."""
        return self in _TRANSIENT


_TRANSIENT = frozenset(
    {Kind.RATE_LIMIT, Kind.NETWORK, Kind.TRANSIENT, Kind.CONFLICT, Kind.EVICTED, Kind.HUNG}
)


def kind_named(name: object) -> Kind:
    """The class of this name, `unknown` if there is none."""
    return next((kind for kind in Kind if kind.value == name), Kind.UNKNOWN)


class MedallionError(Exception):
    """An error for people: the text says what happened, to what, and what was done about it.

    kind: its class. table: the table, source or repository concerned, "" where there is none. file: the name
    of the table's data file that it is about, without its folder. remedy: what to do next, "" where nothing
    can be done; it is told after the text.

    Example:
        >>> from medallion_platform import MedallionError
        >>> print(MedallionError("gold.spend was not refreshed", remedy="make room and run again"))
        gold.spend was not refreshed; make room and run again
    """

    kind: Kind = Kind.UNKNOWN
    """The class of these errors where one of them does not say another."""
    remedy: str = ""
    """What to do next where one of them does not say anything else."""
    file: str = ""

    def __init__(self, text: str, *, kind: Kind | None = None, table: str = "", remedy: str = "") -> None:
        super().__init__(text)
        if kind is not None:
            self.kind = kind
        self.table = table
        if remedy:
            self.remedy = remedy

    def __reduce__(
        self,
    ) -> tuple[Callable[..., MedallionError], tuple[type, tuple[Any, ...], dict[str, Any]]]:
        # Also of those that ask for other arguments than a text: executors send them to the driver.
        return _unpickled, (type(self), self.args, self.__dict__)

    @property
    def transient(self) -> bool:
        """Whether the same work can succeed when it is only tried again."""
        return self.kind.transient

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; {self.remedy}" if self.remedy else text


class DeclarationError(MedallionError):
    """Something is declared in a way that cannot work or means nothing; says what, and why.

    It is raised where the declaration stands, so before anything runs.

    Example:
        >>> from medallion_platform import DeclarationError, Lookup
        >>> try:
        ...     Lookup("silver.prices_history", key=("shop", "article"), by="article")
        ... except DeclarationError as error:
        ...     print(error)
        lookup in silver.prices_history: key ('shop', 'article') and by 'article' have to name as many columns
    """

    kind = Kind.PERMANENT


def _unpickled(of: type[MedallionError], args: tuple[Any, ...], fields: dict[str, Any]) -> MedallionError:
    """The error again, without asking its class."""
    error = of.__new__(of, *args)
    error.__dict__.update(fields)
    return error


@dataclass(frozen=True)
class Failure:
    """What an error is, told from the error alone.

    code: what its own maker calls it (`ENOSPC`, `503`, `SlowDown`, `_TRANSPORT`, `DIVIDE_BY_ZERO`), "" where
    it has no name. table, remedy: as the platform's own error in the chain says, else "".
    """

    kind: Kind
    code: str = ""
    table: str = ""
    remedy: str = ""

    @property
    def transient(self) -> bool:
        """Whether the same work can succeed when it is only tried again."""
        return self.kind.transient

    @property
    def of_content(self) -> bool:
        """Whether what was read may be damaged: nothing around it explains the failure."""
        return self.kind in (Kind.UNKNOWN, Kind.CORRUPT)


def classify(error: BaseException) -> Failure:
    """The one place that tells what an error is; never by its sentence, `unknown` where nothing says it.

    The platform's own errors say it themselves. Of others the chain of causes is asked, from the outside to
    the inside and on into the JVM; what only wraps another error counts where nothing inside says more.
    """
    own = list(_own(error))
    return replace(
        classify_chain(chain_of(error)),
        table=next((e.table for e in own if e.table), ""),
        remedy=next((e.remedy for e in own if e.remedy), ""),
    )


def classify_chain(chain: ErrorChain) -> Failure:
    """What `classify` tells of the error that was the chain's, without what to do: that is a sentence."""
    told = [verdict for link in chain.links if (verdict := verdict_of(link))]
    first = next((verdict for verdict in told if verdict.sure), told[0] if told else None)
    kind = first.kind if first and chain.said is Kind.UNKNOWN else chain.said
    return Failure(kind, first.code if first and first.kind is kind else "", chain.table)


def chain_of(error: BaseException) -> ErrorChain:
    """What an error and its causes say of themselves."""
    own = list(_own(error))
    # The table is that of the file where there is one.
    place = next((e for e in own if e.file), None) or next((e for e in own if e.table), None)
    return ErrorChain(
        next((e.kind for e in own if e.kind is not Kind.UNKNOWN), Kind.UNKNOWN),
        _word(place.table if place else ""),
        tuple(_words([type(e).__name__ for e in own])),
        # There and back: what is neither a word nor a number stays out.
        tuple(Link.from_dict(link.as_dict()) for link in islice(links(error), _MOST)),
        _word(place.file if place else ""),
    )


def links(error: BaseException) -> Iterator[Link]:
    """What each error in a chain of causes says of itself, from the outside to the inside."""
    return (link for e in _errors_in(error) for link in _links(e))


@dataclass(frozen=True)
class Link:
    """What one error in a chain says of itself, without its sentence; the same for Python and the JVM.

    names: of its type and of those that it derives from, without their modules. code: a word of a protocol
    (of S3, Kafka, Spark). retriable: its maker says that it passes.
    """

    names: frozenset[str] = frozenset()
    errno: int | None = None
    status: int | None = None
    code: str = ""
    sqlstate: str = ""
    retriable: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What it says, as JSON can hold it."""
        told = {**asdict(self), "names": sorted(self.names)}
        return {name: value for name, value in told.items() if value is not False and value not in (None, "")}

    @classmethod
    def from_dict(cls, told: object) -> Link:
        """What is left of `as_dict` in any value that was JSON; nothing that is no name, word or number."""
        found: dict[str, Any] = told if isinstance(told, dict) else {}
        return cls(
            frozenset(_words(found.get("names"))),
            _number(found.get("errno")),
            _number(found.get("status")),
            _word(found.get("code")),
            _word(found.get("sqlstate")),
            found.get("retriable") is True,
        )


@dataclass(frozen=True)
class ErrorChain:
    """What an error and its causes say of themselves: enough to classify it later, and safe to keep.

    It holds no sentence, no value of a row and no secret: names of types, words of protocols, numbers.

    said: the class that the platform's own error has, else `unknown`. table: which it names. own: the types
    of the platform's own errors, from the outside to the inside. links: what all others say. file: the name
    of the table's data file that is concerned, without its folder, which may name a value of rows.
    """

    said: Kind = Kind.UNKNOWN
    table: str = ""
    own: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    file: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What it says, as JSON can hold it."""
        said = "" if self.said is Kind.UNKNOWN else self.said.value
        told: dict[str, Any] = {"said": said, "table": self.table, "own": list(self.own)}
        told |= {"links": [link.as_dict() for link in self.links], "file": self.file}
        return {name: value for name, value in told.items() if value}

    @classmethod
    def from_dict(cls, told: object) -> ErrorChain:
        """What is left of `as_dict` in any value that was JSON, also of another version."""
        found: dict[str, Any] = told if isinstance(told, dict) else {}
        listed = found.get("links")
        return cls(
            kind_named(found.get("said")),
            _word(found.get("table")),
            tuple(_words(found.get("own"))),
            tuple(map(Link.from_dict, listed[:_MOST])) if isinstance(listed, list) else (),
            _word(found.get("file")),
        )


def _word(told: object) -> str:
    """A name or a word of a protocol; "" if it is none, as a sentence, an address or a path."""
    return told if isinstance(told, str) and _WORD.fullmatch(told) else ""


def _words(told: object) -> list[str]:
    listed: list[object] = told[:_MOST] if isinstance(told, list) else []
    return [word for word in map(_word, listed) if word]


def _number(told: object) -> int | None:
    return told if isinstance(told, int) and not isinstance(told, bool) else None


@dataclass(frozen=True)
class Verdict:
    """What one link tells. sure: it is no wrapper that says little of what is in it."""

    kind: Kind
    code: str
    sure: bool = True


def verdict_of(link: Link) -> Verdict | None:
    """What a link tells, None where it tells nothing."""
    state = _BY_SQLSTATE.get(link.sqlstate) or _BY_SQLSTATE.get(link.sqlstate[:2])
    asked: tuple[tuple[Kind | None, str], ...] = (
        (kind_of_code(link.code), link.code),
        (_BY_ERRNO.get(link.errno or 0), errno.errorcode.get(link.errno or 0, "")),
        (state, link.code or link.sqlstate),
        (kind_of_status(link.status) if link.code != "NoSuchKey" else None, link.code or str(link.status)),
        *((_BY_NAME.get(name), name) for name in sorted(link.names)),
        (Kind.TRANSIENT if link.retriable else None, link.code),
    )
    for kind, code in asked:
        if kind is not None:
            return Verdict(kind, code)
    wrapper = next((n for n in _WRAPPERS if n in link.names), link.code.partition(".")[0])
    kind = _WRAPPERS.get(wrapper)
    return Verdict(kind, wrapper, sure=False) if kind else None


def _own(error: BaseException) -> Iterator[MedallionError]:
    """The platform's own errors in a chain."""
    return (e for e in _errors_in(error) if isinstance(e, MedallionError))


def _errors_in(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, from the outside to the inside."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions
        if inner is not None:
            waiting.append(inner)


def _links(error: BaseException) -> Iterator[Link]:
    """What an error tells; one that came out of the JVM tells of each of its causes there, too."""
    if isinstance(error, MedallionError):
        return
    yield _of_python(error)
    thrown = getattr(error, "java_exception", None)
    # pyspark offers what it caught in the JVM under this name alone.
    thrown = getattr(error, "_origin", None) if thrown is None else thrown
    for _ in range(_DEEPEST):
        if thrown is None:
            return
        yield _of_jvm(thrown)
        thrown = _asked(thrown, "getCause")


def _of_python(error: BaseException) -> Link:
    names = frozenset(kind.__name__ for kind in type(error).__mro__)
    response = getattr(error, "response", None)
    status: Any = getattr(response, "status_code", None)
    code, retriable = "", False
    if isinstance(response, dict):  # botocore's
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif "HTTPError" in names and status is None:  # urllib's
        status = getattr(error, "code", None)
    elif names & {"ApiException", "ClientResponseError"}:  # of Kubernetes' client, of aiohttp
        status = getattr(error, "status", None)
    elif "RpcError" in names:  # of gRPC
        code = str(getattr(_asked(error, "code"), "name", ""))
    inner = error.args[0] if error.args else None
    if "KafkaException" in names and inner is not None:
        code, retriable = str(inner.name()), bool(inner.retriable())
    code = code or str(_asked(error, "getCondition") or getattr(error, "sqlite_errorname", None) or "")
    text = _text(error)
    if "RedisError" in names and (word := _REDIS_CODE.match(text)):
        code = word[0]
    said = _marks(text)
    undecodable = {"Undecodable"} if _UNDECODABLE.search(f"{type(error).__name__}: {text}") else set[str]()
    return Link(
        names | said.names | undecodable,
        # OpenSSL's numbers are others than those of the system.
        None if "SSLError" in names else getattr(error, "errno", None) or said.errno,
        status if isinstance(status, int) else said.status,
        code or said.code,
        str(_asked(error, "getSqlState") or getattr(error, "pgcode", None) or ""),
        retriable,
    )


def _of_jvm(thrown: Any) -> Link:
    names: set[str] = set()
    kind = _asked(thrown, "getClass")
    while kind is not None and len(names) < _DEEPEST:
        names.add(str(_asked(kind, "getSimpleName")))
        kind = _asked(kind, "getSuperclass")
    said = _marks(str(_asked(thrown, "getMessage") or ""))
    details = _asked(thrown, "awsErrorDetails")
    code = str(
        _asked(thrown, "getCondition") or (_asked(details, "errorCode") if details else "") or said.code
    )
    refused_head = not code and "RefusedHead" in said.names
    status = None if refused_head else _asked(thrown, "statusCode")
    return Link(
        frozenset({*names, "RefusedHead"} if refused_head else names),
        said.errno,
        said.status if status in (None, int(_NOT_THERE)) else status,
        code,
        str(_asked(thrown, "getSqlState") or ""),
    )


def _asked(of: Any, method: str) -> Any:
    """What a method gives; None where there is no such, or nobody answers (a JVM may be gone)."""
    with suppress(Exception):
        return getattr(of, method)()
    return None


def _text(error: BaseException) -> str:
    with suppress(Exception):  # pyspark's asks the JVM
        return str(error)
    return ""


def _marks(text: str) -> Link:
    """What libraries that give nothing but a text write into it for machines: numbers, words of a protocol.

    Those in Rust (delta-rs, obstore, Polars) write `(os error 28)` or `Os { code: 28`, an answer of S3 as it
    came, and `status code: 503`; Java writes what the C library says of an `errno`, Spark the exit code of an
    executor.
    """
    if lost := _lost_executor(text):
        return Link(frozenset({lost}))
    number, status = _OS_ERROR.search(text), _STATUS.search(text)
    code = _S3_CODE.search(text) or _S3A_CODE.search(text)
    found = int(number[1]) if number else errno.ENOSPC if _NO_SPACE in text else None
    answered = found or code or status
    if status and status[1] == "400" and not code and any(head in text for head in _HEAD):
        return Link(frozenset({"RefusedHead"}))
    if _NOT_TRUSTED in text:
        return Link(frozenset({"SSLCertVerificationError"}))
    return Link(
        frozenset(name for name, mark in _RUST.items() if mark in text and not answered),
        found,
        int(status[1]) if status and status[1] != _NOT_THERE else None,
        code[1] if code else "",
    )


def _lost_executor(text: str) -> str:
    """Why Spark lost an executor for which it gave up a task; "" where it did not, or for another reason."""
    if _EVICTED in text and _LOST_EXECUTOR.search(text):
        return EXECUTOR_EVICTED
    return EXECUTOR_KILLED if _OUT_OF_MEMORY.search(text) else ""


def kind_of_status(status: int | None) -> Kind | None:
    """What an HTTP status says (RFC 9110, section 15; RFC 6585, section 4); None of one that is no error."""
    if status is None or status < 400:
        return None
    return _BY_STATUS.get(status, Kind.TRANSIENT if status >= 500 else Kind.PERMANENT)


def kind_of_code(code: str, *, retriable: bool = False) -> Kind | None:
    """What a word of a protocol says, of S3 or Kafka; None where it is not known.

    retriable: who made the error says that it passes.
    """
    return _BY_CODE.get(code) or _authority(code) or (Kind.TRANSIENT if retriable else None)


def _authority(code: str) -> Kind | None:
    return Kind.AUTH if code.endswith(("_AUTHENTICATION_FAILED", "_AUTHORIZATION_FAILED")) else None


EXECUTOR_KILLED = "ExecutorKilledForMemory"
"""The code of a failure for which an executor needs more memory, and not the driver."""
EXECUTOR_EVICTED = "ExecutorEvicted"

_DEEPEST = 20
_MOST = 50
"""Links of a chain, and names of one of them, that are kept."""
_WORD = re.compile(r"[\w$.-]{1,100}")
_LOST_EXECUTOR = re.compile(r"\bExecutorLostFailure \(executor \S+ exited\b")
# 52 is what an executor's JVM ends with that is out of memory (Spark's SparkExitCode), 137 what the system
# ends a container with (128 and SIGKILL).
_OUT_OF_MEMORY = re.compile(
    r"\bExecutorLostFailure \(executor \S+ exited\b.*? exited with (?:exit )?code (?:52|137)\b"
    r"|\bLost task \S+ in stage \S+ \(TID \d+\) \(\S+ executor \d+\): java\.lang\.OutOfMemoryError\b",
    re.DOTALL,
)
_EVICTED = "The API gave the following brief reason: Evicted"
_OS_ERROR = re.compile(r"(?:\(os error |\bOs \{ code: )(\d+)")
_S3_CODE = re.compile(r"<Code>(\w+)</Code>")
_S3A_CODE = re.compile(r"\(Service: S3, [^)]*\)(?: \(SDK [^)]*\))?:(?!null)(\w+)")
_STATUS = re.compile(r"[Ss]tatus [Cc]ode: (\d{3})\b")
_REDIS_CODE = re.compile(r"[A-Z]{4,}(?= )")
"""The word that comes first in what Redis answers ("RESP protocol", simple errors)."""
_NO_SPACE = "No space left on device"
_NOT_THERE = "404"
"""Of a file in a bucket it is no failure by itself: whoever asked knows what it means."""
_NOT_TRUSTED = "[SSL: CERTIFICATE_VERIFY_FAILED]"
"""OpenSSL's own word; httpcore takes the error itself back."""
_HEAD = ("Error performing HEAD ", "(Service: S3, Status Code: 400")
"""S3 answers it without a code, and 400 is its status for a token that expired or cannot be one."""
_UNDECODABLE = re.compile(
    r"^(ComputeError|ArrowInvalid): parquet: |Parquet error|Parquet magic bytes|Couldn't deserialize thrift"
    r"|^PanicException: .*range\.end"
)
"""What readers of Parquet (Polars, delta-rs, Arrow) say of a file that does not decode; they have no code."""
_RUST = {
    "Unsent": "error sending request",
    "FailedRequest": "Error performing ",
    "Interrupted": "HTTP error: ",
}
"""What reqwest and object_store say where they have no answer, and of each request that failed."""

_BY_ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), Kind.DISK),
    **dict.fromkeys((errno.EACCES, errno.EPERM), Kind.AUTH),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.EAGAIN), Kind.RESOURCE),
    errno.ENOMEM: Kind.OOM,
    **dict.fromkeys(
        (errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR), Kind.PERMANENT
    ),
    errno.EADDRINUSE: Kind.CONFLICT,
    **dict.fromkeys(
        (
            *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT),
            *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENETRESET),
        ),
        Kind.NETWORK,
    ),
}

_BY_STATUS = {
    **dict.fromkeys((401, 403, 407), Kind.AUTH),
    **dict.fromkeys((408,), Kind.NETWORK),
    **dict.fromkeys((409, 412, 423), Kind.CONFLICT),
    425: Kind.TRANSIENT,
    429: Kind.RATE_LIMIT,
    507: Kind.DISK,
    **dict.fromkeys((501, 505), Kind.PERMANENT),
}

_BY_CODE = {
    # Of S3 ("Error Responses" of its API reference) and of those that speak like it.
    **dict.fromkeys(
        (
            *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"),
            *("TooManyRequestsException", "BandwidthLimitExceeded", "THROTTLING_QUOTA_EXCEEDED"),
            # Of MinIO and of Azure ("Common REST API error codes").
            *("SlowDownRead", "SlowDownWrite", "ServerBusy"),
        ),
        Kind.RATE_LIMIT,
    ),
    **dict.fromkeys(
        (
            *("AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"),
            *(
                "TokenRefreshRequired",
                "RequestTimeTooSkewed",
                "ExpiredTokenException",
                "MissingSecurityHeader",
            ),
            *("_AUTHENTICATION", "_SSL", "UNSUPPORTED_SASL_MECHANISM"),
        ),
        Kind.AUTH,
    ),
    **dict.fromkeys(("InternalError", "ServiceUnavailable"), Kind.TRANSIENT),
    **dict.fromkeys(("PreconditionFailed", "ConditionalRequestConflict"), Kind.CONFLICT),
    **dict.fromkeys(
        (
            *("NoSuchBucket", "InvalidBucketName", "ContainerNotFound", "AccountIsDisabled"),
            *("AuthorizationHeaderMalformed", "InvalidObjectState"),
        ),
        Kind.PERMANENT,
    ),
    **dict.fromkeys(("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"), Kind.DISK),
    # What was sent arrived in part, or as something else.
    **dict.fromkeys(("IncompleteBody", "BadDigest", "OperationTimedOut"), Kind.NETWORK),
    # Of Kafka ("Error Codes" of its protocol; those with a line in front are librdkafka's own).
    **dict.fromkeys(
        (
            *("_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_WAIT_COORD", "RequestTimeout"),
            *("REQUEST_TIMED_OUT", "NETWORK_EXCEPTION", "BROKER_NOT_AVAILABLE", "_MSG_TIMED_OUT"),
        ),
        Kind.NETWORK,
    ),
    # Leaders are elected, topics and coordinators come to be: a moment later they are there.
    **dict.fromkeys(
        (
            *("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC"),
            *("_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_ID", "REPLICA_NOT_AVAILABLE", "KAFKA_STORAGE_ERROR"),
            *("PREFERRED_LEADER_NOT_AVAILABLE", "OFFSET_NOT_AVAILABLE", "FENCED_LEADER_EPOCH"),
            *("UNKNOWN_LEADER_EPOCH", "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE"),
            *("NOT_COORDINATOR", "REBALANCE_IN_PROGRESS"),
        ),
        Kind.TRANSIENT,
    ),
    # Whether what stood there is lost, only who asks for the first and the last offset can tell.
    **dict.fromkeys(("OFFSET_OUT_OF_RANGE", "_AUTO_OFFSET_RESET"), Kind.POSITION_LOST),
    **dict.fromkeys(
        (
            *("_INVALID_ARG", "_UNSUPPORTED_FEATURE", "_NOT_IMPLEMENTED", "UNSUPPORTED_VERSION"),
            *("INVALID_REQUEST", "UNSUPPORTED_COMPRESSION_TYPE", "_STATE", "INVALID_REPLICATION_FACTOR"),
        ),
        Kind.PERMANENT,
    ),
    **dict.fromkeys(
        (
            *("ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID", "_FENCED"),
            "TOPIC_ALREADY_EXISTS",
        ),
        Kind.CONFLICT,
    ),
    "_MAX_POLL_EXCEEDED": Kind.HUNG,
    "MSG_SIZE_TOO_LARGE": Kind.DATA,
    **dict.fromkeys(("CORRUPT_MESSAGE", "INVALID_MSG", "_BAD_MSG"), Kind.CORRUPT),
    # Of SQLite ("Result and Error Codes"), in which Dagster keeps its storage.
    **dict.fromkeys(("SQLITE_BUSY", "SQLITE_LOCKED"), Kind.CONFLICT),
    **dict.fromkeys(("SQLITE_CORRUPT", "SQLITE_NOTADB"), Kind.CORRUPT),
    "SQLITE_FULL": Kind.DISK,
    # Of Delta in Spark ("Error Conditions").
    **dict.fromkeys(("DELTA_TRUNCATED_TRANSACTION_LOG", "DELTA_VERSIONS_NOT_CONTIGUOUS"), Kind.CORRUPT),
    **dict.fromkeys(
        ("DELTA_VERSION_NOT_FOUND", "DELTA_TIMESTAMP_EARLIER_THAN_COMMIT_RETENTION"), Kind.POSITION_LOST
    ),
    "DELTA_METADATA_MISMATCH": Kind.DATA,
    "DELTA_MISSING_CHANGE_DATA": Kind.PERMANENT,
    # Of Spark ("Error Conditions").
    "MALFORMED_LOG_FILE": Kind.CORRUPT,
    "SPARK_JOB_CANCELLED": Kind.EVICTED,
    **dict.fromkeys(("CANNOT_MODIFY_STATIC_CONFIG", "INVALID_CONF_VALUE.TYPE_MISMATCH"), Kind.PERMANENT),
    "SQLITE_NOMEM": Kind.OOM,
    # Of gRPC ("Status codes and their use"), by which Dagster talks to the code of projects.
    **dict.fromkeys(("UNAVAILABLE", "DEADLINE_EXCEEDED"), Kind.NETWORK),
    **dict.fromkeys(("UNAUTHENTICATED", "PERMISSION_DENIED"), Kind.AUTH),
    "RESOURCE_EXHAUSTED": Kind.RATE_LIMIT,
    **dict.fromkeys(("UNIMPLEMENTED", "FAILED_PRECONDITION"), Kind.PERMANENT),
    "ABORTED": Kind.CONFLICT,
    "DATA_LOSS": Kind.CORRUPT,
    # Of Redis, as it begins what it answers.
    "MISCONF": Kind.DISK,
    "BUSY": Kind.TRANSIENT,
    "WRONGTYPE": Kind.PERMANENT,
}

_BY_SQLSTATE = {
    # By class, then those that say more than theirs ("SQLSTATE codes" of Spark, "Error Codes" of Postgres,
    # Delta's 2D521).
    **dict.fromkeys(("21", "22", "23", "P0"), Kind.DATA),
    **dict.fromkeys(("0A", "25", "3D", "3F", "42"), Kind.PERMANENT),
    "42501": Kind.AUTH,
    "55P03": Kind.CONFLICT,
    "57014": Kind.HUNG,
    **dict.fromkeys(("57P01", "57P02", "57P03"), Kind.TRANSIENT),
    **dict.fromkeys(("XX001", "XX002"), Kind.CORRUPT),
    # A path that is not there: a data file that is gone, or somebody's mistake. Whoever asked knows.
    "42K03": Kind.UNKNOWN,
    "08": Kind.NETWORK,
    "28": Kind.AUTH,
    "40": Kind.CONFLICT,
    "2D521": Kind.CONFLICT,
    "53": Kind.RESOURCE,
    "53100": Kind.DISK,
    "53200": Kind.OOM,
    "54": Kind.RESOURCE,
}

_BY_NAME = {
    **dict.fromkeys(("MemoryError", "OutOfMemoryError", "SparkOutOfMemoryError", EXECUTOR_KILLED), Kind.OOM),
    "OutOfMemoryException": Kind.OOM,
    EXECUTOR_EVICTED: Kind.EVICTED,
    **dict.fromkeys(
        (
            *("ConnectionError", "TimeoutError", "gaierror", "TimeoutException", "RemoteProtocolError"),
            *("EndpointConnectionError", "ConnectException", "UnknownHostException", "SocketException"),
            *("SocketTimeoutException", "HttpTimeoutException", "IncompleteRead", "Unsent"),
            *("SSLEOFError", "SSLZeroReturnError", "BadStatusLine", "ChunkedEncodingError", "ProtocolError"),
            *("ClientPayloadError", "ServerDisconnectedError"),
        ),
        Kind.NETWORK,
    ),
    **dict.fromkeys(
        (
            *("UnauthenticatedError", "PermissionDeniedError", "NoCredentialsError", "AccessDeniedException"),
            *("AccessControlException", "SSLCertVerificationError", "RefusedHead", "AuthenticationError"),
            "NoPermissionError",
        ),
        Kind.AUTH,
    ),
    **dict.fromkeys(
        (
            *(
                "ConcurrentAppendException",
                "ConcurrentDeleteDeleteException",
                "ConcurrentDeleteReadException",
            ),
            *("ConcurrentTransactionException", "ConcurrentWriteException", "MetadataChangedException"),
            *("ProtocolChangedException", "AlreadyExistsError", "PreconditionError", "TransactionException"),
            *("WatchError", "LockError", "DagsterRunAlreadyExists"),
        ),
        Kind.CONFLICT,
    ),
    **dict.fromkeys(
        ("BusyLoadingError", "ClusterDownError", "MasterDownError", "ReadOnlyError"), Kind.TRANSIENT
    ),
    **dict.fromkeys(
        (
            *("SchemaMismatchError", "DagsterTypeCheckDidNotPass", "SchemaResolutionError", "SchemaErrors"),
            *("MergeError", "EmptyDataError", "NoDataError", "OutOfBoundsDatetime", "IntCastingNaNError"),
            *("ConversionException", "ConstraintException"),
        ),
        Kind.DATA,
    ),
    **dict.fromkeys(
        (
            *("ImportError", "NameError", "NotImplementedError", "SyntaxError"),
            *("ColumnNotFoundError", "SQLInterfaceError", "SQLSyntaxError", "DuplicateError"),
            *("CatalogException", "BinderException", "NoSuchModuleError", "DagsterUnknownPartitionError"),
            *("FeastObjectNotFoundException", "SchemaParseException", "YAMLError", "TOMLDecodeError"),
            *("MissingSchema", "InvalidURL", "TooManyRedirects", "CircularDependencyError"),
            *("DagsterInvalidConfigError", "DagsterInvalidDefinitionError", "DagsterInvariantViolationError"),
        ),
        Kind.PERMANENT,
    ),
    # Damaged archives.
    **dict.fromkeys(
        ("BadGzipFile", "BadZipFile", "LZMAError", "UnpicklingError", "ZstdError", "TarError"), Kind.CORRUPT
    ),
    **dict.fromkeys(("TimeoutExpired", "BrokenBarrierError"), Kind.HUNG),
    # What nests without end, and what ended the process that was given it.
    **dict.fromkeys(
        ("RecursionError", "StackOverflowError", "StreamConstraintsException", "BrokenProcessPool"),
        Kind.POISON,
    ),
    "DagsterExecutionInterruptedError": Kind.EVICTED,
}

_WRAPPERS = {
    # What is inside may be a request that failed; only where it is nothing else it is this.
    "CommitFailedError": Kind.CONFLICT,
    "FAILED_READ_FILE": Kind.CORRUPT,
    **dict.fromkeys(("FailedRequest", "Interrupted", "NetworkError", "TransportError"), Kind.NETWORK),
    # Behind those: what was cut off by the network does not decode either.
    "Undecodable": Kind.CORRUPT,
}
