"""Storage of files, a local folder or a prefix of an S3 bucket, through one interface.

Keys, region and endpoint come from the standard `AWS_*` variables or the machine's role. Every client
(delta-rs, Polars, obstore, S3A) reads these itself: none passes through a setting, a configuration or a
command line.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from medallion_platform.errors import Kind, MedallionError

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store

    Store = LocalStore | S3Store

SCHEME = "s3://"
_PROBE = "_medallion/conditional_put"
_AT_ONCE = 16
_BACKOFF = 3
"""Each wait before a request is repeated is up to so many times the one before: all ten of them last a
quarter of a minute, with the clients' own 2 as little as two seconds. Who is told to slow down needs more."""


T = TypeVar("T")
R = TypeVar("R")


class Unusable(MedallionError):
    """A bucket cannot be reached, or cannot hold tables; one sentence says which and what to do."""


def in_bucket(root: Path | str) -> bool:
    """Whether a root is a prefix of a bucket, else it is a folder."""
    return str(root).startswith(SCHEME)


@cache
def store(root: str) -> Store:
    """The files below a root, by their keys: list, get, put, rename, delete.

    Raises:
        Unusable: the environment names a bucket's endpoint by what is no URL.
    """
    from obstore.store import LocalStore, S3Store

    if in_bucket(root):
        _refuse_no_url(root)
        return S3Store.from_url(
            root, client_options={"allow_http": plain_http()}, retry_config={"backoff": {"base": _BACKOFF}}
        )
    return LocalStore(root, mkdir=True, automatic_cleanup=True)


def _refuse_no_url(root: str) -> None:
    """The client panics at such an endpoint, with what is no `Exception`."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "").lower()
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise Unusable(
            f"{root} cannot be reached: AWS_ENDPOINT_URL is no URL",
            kind=Kind.PERMANENT,
            table=root,
            remedy="put http:// or https:// before the host",
        )


def options(root: Path | str) -> dict[str, str] | None:
    """What delta-rs and Polars are told of a bucket beyond what they read themselves."""
    if not in_bucket(root):
        return None
    return {
        "conditional_put": "etag",
        "allow_http": str(plain_http()).lower(),
        "backoff_config.base": str(_BACKOFF),
    }


def spark_settings(root: Path | str) -> dict[str, str]:
    """What Spark is told so that it finds `s3://` and commits there without losing a commit."""
    if not in_bucket(root):
        return {}
    said = {
        "spark.hadoop.fs.s3a.aws.credentials.provider": (
            "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
        ),
        "spark.hadoop.fs.s3a.endpoint": os.environ.get("AWS_ENDPOINT_URL"),
        "spark.hadoop.fs.s3a.endpoint.region": _region(),
        "spark.hadoop.fs.s3a.path.style.access": "true" if os.environ.get("AWS_ENDPOINT_URL") else None,
        "spark.hadoop.fs.s3a.connection.establish.timeout": "5s",
    }
    for scheme in ("s3", "s3a"):
        said[f"spark.hadoop.fs.{scheme}.impl"] = "org.apache.hadoop.fs.s3a.S3AFileSystem"
        said[f"spark.delta.logStore.{scheme}.impl"] = "medallion.ConditionalPutLogStore"
    return {name: value for name, value in said.items() if value is not None}


def exists(root: str, key: str) -> bool:
    """Whether there is a file of this key."""
    try:
        store(root).head(key)
    except FileNotFoundError:
        return False
    return True


def create(root: str, key: str, content: bytes) -> bool:
    """Put a file where there is none; of all who try at the same time, one is told that it did.

    Raises:
        OSError: the place cannot be written.
    """
    from obstore.exceptions import AlreadyExistsError

    try:
        store(root).put(key, content, mode="create", use_multipart=False)
    except AlreadyExistsError:
        return False
    return True


def write_whole(path: Path, text: str) -> None:
    """Put a text in the place of a file: of two at once either one is there, and no part of it."""
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    part.write_text(text)
    part.replace(path)


def keys_below(root: str, folder: str) -> list[str]:
    """Every key below a folder of a bucket, as it is, also those that `store` cannot hold.

    Raises:
        OSError: the bucket cannot be listed.
    """
    from pyarrow.fs import FileSelector, FileType, S3FileSystem

    files = S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL"), region=_region(), background_writes=False
    )
    base = root.removeprefix(SCHEME)
    below = FileSelector(f"{base}/{folder}".rstrip("/"), allow_not_found=True, recursive=True)
    found = [f.path for f in files.get_file_info(below) if f.type == FileType.File]
    return sorted(path.removeprefix(f"{base}/") for path in found)


def remove(root: str, folder: str) -> None:
    """Delete everything below a folder."""
    files = store(root)
    files.delete([f["path"] for f in files.list(folder).collect()])
    if not in_bucket(root):  # where a folder can be there without a file
        shutil.rmtree(Path(root) / folder, ignore_errors=True)


def at_once(work: Callable[[T], R], on: Iterable[T]) -> list[R]:
    """Do the same to many files, several at a time: most of it is waiting for the server."""
    if len(found := list(on)) <= 1:
        return [work(file) for file in found]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, found))


@contextmanager
def reaching(root: str) -> Generator[None]:
    """The first request to a place: why it failed, in one sentence.

    Raises:
        Unusable: there is no answer, or none that can be used; that something is there already is one.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        yield
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        raise Unusable(f"{root} cannot be used: {reason(error)}", table=root) from error


@cache
def prove(root: str) -> None:
    """Refuse a bucket in which two writers could both believe that they made the same commit.

    A commit is a PUT with `If-None-Match: *`. A server that does not know this condition lets the
    second writer overwrite the first one's commit.

    Raises:
        Unusable: the server ignores the condition, or cannot be reached.
    """
    if not in_bucket(root):
        return
    from obstore.exceptions import AlreadyExistsError

    try:
        with reaching(root):
            # The first PUT is taken once in a bucket's life, the second one must never be.
            for _ in range(2):
                store(root).put(_PROBE, b"", mode="create")
    except AlreadyExistsError:
        return
    raise Unusable(
        f"{root} cannot hold tables: its server took the same PUT with If-None-Match: * twice, so that one "
        "writer could overwrite another one's commit. Nothing was written; use a server that honours it "
        "(Amazon S3, MinIO, Ceph from Squid on, versitygw)",
        kind=Kind.PERMANENT,
        table=root,
    )


def reason(error: BaseException) -> str:
    """The one line of a client's many that says what happened."""
    text = str(error)
    if said := _SAID.search(text) or _SAID_IN_JAVA.search(text):
        return "the server says " + ": ".join(filter(None, (said["code"], said["message"].strip(" ."))))
    if status := _STATUS.search(text):  # of a HEAD request, whose answer has no body
        return f"the server says {status[1].strip()}"
    if "error sending request" in text:
        return "the server does not respond (AWS_ENDPOINT_URL says where it is, if it is not Amazon's)"
    return text.partition("\n")[0][:200] or type(error).__name__


_SAID = re.compile(r"<Code>(?P<code>\w+)</Code>\s*<Message>(?P<message>[^<]*)</Message>")
"""How S3 answers what it refuses ("Error Responses" of its API reference)."""
_STATUS = re.compile(r"non-2xx status code: (\d{3}[\w ]*)")
_SAID_IN_JAVA = re.compile(
    r"S3Exception: (?P<message>[^\n]*?) \(Service: S3, [^)]*\)( \(SDK [^)]*\))?(:(?!null)(?P<code>\w+))?"
)
"""How S3A tells the same; the answer to a HEAD request has no code."""


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def plain_http() -> bool:
    """Whether the environment names a bucket's endpoint without TLS."""
    return os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
