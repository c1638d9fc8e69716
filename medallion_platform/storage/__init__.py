"""Storage of files, a local folder or a prefix of an S3 bucket, through one interface.

Keys, region and endpoint come from the standard `AWS_*` variables or the machine's role. Every client
(delta-rs, Polars, obstore, S3A) reads these itself: none passes through a setting, a configuration or a
command line.

Does not belong here: what files are for. Which files of a landing zone are complete, and whose they are, is
decided in `sources.connectors`; how files become a table, in `lakehouse`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from medallion_platform.errors import Kind, MedallionError, links

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import LocalStore, S3Store

    Store = LocalStore | S3Store

SCHEME = "s3://"
_PROBE = "_medallion/conditional_put"
_AT_ONCE = 16
_PIECE = 8 * 1024 * 1024
_BACKOFF = 3
"""Each wait before a request is repeated is up to so many times the one before: all ten of them last a
quarter of a minute, with the clients' own 2 as little as two seconds. Who is told to slow down needs more."""


T = TypeVar("T")
R = TypeVar("R")


class Unusable(MedallionError):
    """A bucket cannot be reached or cannot store tables; the text says which one and what to do."""


def in_bucket(root: Path | str) -> bool:
    """Whether a root is a prefix of a bucket and not a folder."""
    return str(root).startswith(SCHEME)


@cache
def store(root: str) -> Store:
    """The files below a root, by their keys: list, get, put, rename, delete.

    Raises:
        Unusable: the bucket's endpoint in the environment is no URL.
    """
    from obstore.store import LocalStore, S3Store

    if in_bucket(root):
        _refuse_no_url(root)
        return S3Store.from_url(
            root,
            client_options={"allow_http": uses_plain_http()},
            retry_config={"backoff": {"base": _BACKOFF}},
        )
    return LocalStore(root, mkdir=True, automatic_cleanup=True)


def _refuse_no_url(root: str) -> None:
    """Refuse an endpoint that is no URL: the client panics on it, and a panic is no `Exception`."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "").lower()
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise Unusable(
            f"{root} cannot be reached: AWS_ENDPOINT_URL is no URL",
            kind=Kind.PERMANENT,
            table=root,
            remedy="put http:// or https:// before the host",
        )


def delta_storage_options(root: Path | str) -> dict[str, str] | None:
    """Options for delta-rs and Polars beyond those that they read themselves; None for a folder."""
    if not in_bucket(root):
        return None
    return {
        "conditional_put": "etag",
        "allow_http": str(uses_plain_http()).lower(),
        "backoff_config.base": str(_BACKOFF),
    }


def spark_settings(root: Path | str) -> dict[str, str]:
    """Settings with which Spark reads and writes `s3://` and never loses a commit there."""
    if not in_bucket(root):
        return {}
    settings = {
        "spark.hadoop.fs.s3a.aws.credentials.provider": (
            "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
        ),
        "spark.hadoop.fs.s3a.endpoint": os.environ.get("AWS_ENDPOINT_URL"),
        "spark.hadoop.fs.s3a.endpoint.region": _aws_region(),
        "spark.hadoop.fs.s3a.path.style.access": "true" if os.environ.get("AWS_ENDPOINT_URL") else None,
        "spark.hadoop.fs.s3a.connection.establish.timeout": "5s",
    }
    for scheme in ("s3", "s3a"):
        settings[f"spark.hadoop.fs.{scheme}.impl"] = "org.apache.hadoop.fs.s3a.S3AFileSystem"
        settings[f"spark.delta.logStore.{scheme}.impl"] = "medallion.ConditionalPutLogStore"
    return {name: value for name, value in settings.items() if value is not None}


def file_exists(root: str, key: str) -> bool:
    """Whether there is a file of this key."""
    try:
        store(root).head(key)
    except FileNotFoundError:
        return False
    return True


def file_mark(told: os.stat_result) -> str:
    """What tells a file of this machine from every other one in its place, and from itself before a change.

    Programs can set a file's time of change (mtime), as a copy that keeps times does, but not its ctime.
    """
    numbers = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
    return "-".join(f"{number:x}" for number in numbers)


def create_file(root: str, key: str, content: bytes) -> bool:
    """Put a file where there is none; of all who try at the same time, one is told that it did.

    Raises:
        OSError: it cannot be written.
    """
    from obstore.exceptions import AlreadyExistsError

    try:
        store(root).put(key, content, mode="create", use_multipart=False)
    except AlreadyExistsError:
        return False
    return True


def copy_file(source: str, key: str, target: str, to: str) -> None:
    """Copy a file from below one root to below another, some MiB at a time; it appears when it is complete.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be written.
    """

    found = store(source).get(key)
    if found.meta["size"] <= _PIECE:  # one request, and not the three of an upload in parts
        store(target).put(to, found.bytes(), use_multipart=False)
        return
    with ThreadPoolExecutor(1) as reader:
        store(target).put(to, _pieces(found, reader))


def _pieces(found: GetResult, reader: ThreadPoolExecutor) -> Generator[bytes]:
    """The pieces of a file; the next one is read while one is written.

    Not by the asynchronous client: where Python ends soon after its last answer, the thread that brings it
    (of pyo3-async-runtimes) aborts the process. And not in the thread that writes, which Tokio forbids.
    """
    pieces = iter(found.stream(min_chunk_size=_PIECE))
    coming = reader.submit(next, pieces, None)
    while (piece := coming.result()) is not None:
        coming = reader.submit(next, pieces, None)
        yield piece


def write_whole(path: Path, text: str) -> None:
    """Replace a file atomically: readers see the old text or the new one, never a part."""
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError:  # a full disk
        part.unlink(missing_ok=True)
        raise


def keys_below(root: str, folder: str) -> list[str]:
    """Every key below a folder of a bucket, unchanged, also keys that `store` cannot represent.

    Raises:
        OSError: the bucket cannot be listed.
    """
    from pyarrow.fs import FileSelector, FileType, S3FileSystem

    files = S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL"), region=_aws_region(), background_writes=False
    )
    base = root.removeprefix(SCHEME)
    below = FileSelector(f"{base}/{folder}".rstrip("/"), allow_not_found=True, recursive=True)
    found = [f.path for f in files.get_file_info(below) if f.type == FileType.File]
    return sorted(path.removeprefix(f"{base}/") for path in found)


def remove_folder(root: str, folder: str) -> None:
    """Delete everything below a folder."""
    files = store(root)
    files.delete([f["path"] for f in files.list(folder).collect()])
    if not in_bucket(root):  # where a folder can be there without a file
        shutil.rmtree(Path(root) / folder, ignore_errors=True)


def text_digest(*texts: str) -> str:
    """A name of 32 characters for texts; other texts, or the same cut elsewhere, have another one.

    What it names must not outlive a release: digests that a lake holds are made where they are written.
    """
    return blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def run_in_parallel(work: Callable[[T], R], on: Iterable[T]) -> list[R]:
    """Call `work` for many files, several at a time: most of the time is spent waiting for the server."""
    if len(found := list(on)) <= 1:
        return [work(file) for file in found]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, found))


@contextmanager
def explain_unreachable(root: str) -> Generator[None]:
    """Turn a failure of the first request to a place, made in the `with` block, into one sentence.

    Raises:
        Unusable: there is no usable answer. (That a file exists already is a usable answer.)
    """
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        yield
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        raise Unusable(f"{root} cannot be used: {client_reason(error)}", table=root) from error


@cache
def refuse_unsafe_bucket(root: str) -> None:
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
        with explain_unreachable(root):
            # The first PUT is taken once in a bucket's life, the second one must never be.
            for _ in range(2):
                store(root).put(_PROBE, b"", mode="create")
    except AlreadyExistsError:
        return
    raise Unusable(
        f"{root} cannot hold tables: its server took the same PUT with If-None-Match: * twice, so that one "
        "writer could overwrite another one's commit. Nothing was written",
        kind=Kind.PERMANENT,
        table=root,
        remedy="use a server that honours it (Amazon S3, MinIO, Ceph from Squid on, versitygw)",
    )


def client_reason(error: BaseException) -> str:
    """The one line of a client's error text that says what happened."""
    text = str(error)
    if response := _SAID.search(text) or _SAID_IN_JAVA.search(text):
        return "the server says " + ": ".join(
            filter(None, (response["code"], response["message"].strip(" .")))
        )
    if status := _STATUS.search(text):  # of a HEAD request, whose answer has no body
        return f"the server says {status[1].strip()}"
    if any("Unsent" in link.names for link in links(error)):
        return "the server does not respond (AWS_ENDPOINT_URL says where it is, if it is not Amazon's)"
    return text.partition("\n")[0][:200] or type(error).__name__


_SAID = re.compile(r"<Code>(?P<code>\w+)</Code>\s*<Message>(?P<message>[^<]*)</Message>")
"""How S3 answers what it refuses ("Error Responses" of its API reference)."""
_STATUS = re.compile(r"non-2xx status code: (\d{3}[\w ]*)")
_SAID_IN_JAVA = re.compile(
    r"S3Exception: (?P<message>[^\n]*?) \(Service: S3, [^)]*\)( \(SDK [^)]*\))?(:(?!null)(?P<code>\w+))?"
)
"""How S3A tells the same; the answer to a HEAD request has no code."""


def endpoint() -> str:
    """The address of the server of all buckets."""
    return os.environ.get("AWS_ENDPOINT_URL") or f"https://s3.{_aws_region()}.amazonaws.com"


def _aws_region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def uses_plain_http() -> bool:
    """Whether the bucket's endpoint in the environment is without TLS."""
    return os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
