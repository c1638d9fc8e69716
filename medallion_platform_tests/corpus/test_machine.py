"""Failures of the machine: full disks, too little memory, limits of a process, signals, what never ends.

Each is made for real, and classified by nobody here: `score.py` tells how the rules do.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from deltalake import write_deltalake
from obstore.store import LocalStore

from medallion_platform.healing.evidence import Evidence
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.spark.java import find_java
from medallion_platform_tests.corpus.capture import meet
from medallion_platform_tests.lakehouse.small_lake import SmallLake
from medallion_platform_tests.lakehouse.test_backup import backed_up
from medallion_platform_tests.pipeline.toy import Zone, good
from medallion_platform_tests.test_errors import full

__all__ = ["full"]

NOBODY = 65_534
MUCH = pl.DataFrame({"a": range(100_000)})


def ended(code: str, by: int) -> None:
    """A process of Python that ends so by itself."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == by, done.stderr.decode()[-500:]
    meet(Evidence(f"process/{by}", datetime.now(UTC), "run", exit_code=done.returncode))


def killed(by: signal.Signals) -> None:
    """A process that is ended from outside while it waits."""
    # Who runs this in the background may have it ignore some signals, and so does then what it begins.
    code = (
        f"import signal, time; {'' if by == signal.SIGKILL else f'signal.signal({by:d}, signal.SIG_DFL); '}"
    )
    code += "print(flush=True); time.sleep(60)"
    waiting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert waiting.stdout
    with waiting.stdout:
        waiting.stdout.readline()
        waiting.send_signal(by)
    assert waiting.wait() == -by
    meet(Evidence(f"process/{by}", datetime.now(UTC), "run", exit_code=waiting.returncode))


@contextmanager
def limited(limit: int, value: int) -> Iterator[None]:
    """This process with a lower limit in the `with` block."""
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


# disk ---------------------------------------------------------------------------------------------


def by_hand(folder: Path) -> None:
    with (folder / "a").open("wb") as file:
        file.write(b"x" * 500_000)


def by_sqlite(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "a.db")) as store:
        store.execute("CREATE TABLE t (a)")
        store.execute("INSERT INTO t VALUES (zeroblob(500000))")
        store.commit()


def by_intake(folder: Path) -> None:
    zone = Zone(folder.parent)
    zone.csv("events/a.csv", [good(f"k{n}", email=os.urandom(50).hex()) for n in range(5000)])
    zone.take(lake=Lake(folder / "lake"))


FILLING: dict[str, Callable[[Path], object]] = {
    "hand": by_hand,
    "sqlite": by_sqlite,
    "polars": lambda folder: MUCH.write_parquet(folder / "a.parquet"),
    "polars csv": lambda folder: MUCH.write_csv(folder / "a.csv"),
    "arrow": lambda folder: pq.write_table(MUCH.to_arrow(), folder / "a.parquet", compression="none"),
    "delta": lambda folder: write_deltalake(folder / "t", MUCH),
    "objects": lambda folder: LocalStore(str(folder)).put("a", b"x" * 500_000),
    "intake": by_intake,
}


@pytest.mark.failure("disk")
@pytest.mark.parametrize("fill", FILLING)
def test_a_full_disk(full: Path, fill: str) -> None:
    with pytest.raises(Exception) as caught:
        FILLING[fill](full)
    assert caught.value


@pytest.mark.failure("disk", work="backup")
def test_a_full_disk_of_a_backup(full: Path, tmp_path: Path) -> None:
    small = SmallLake(str(tmp_path / "lake"))
    small.round()
    (full / "ballast").write_bytes(bytes(60_000))
    with pytest.raises(Exception) as caught:
        backed_up(small, BackupPlace(str(full)))
    assert caught.value


@pytest.mark.failure("disk")
def test_a_file_that_may_not_be_so_large(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with limited(resource.RLIMIT_FSIZE, 1000), pytest.raises(OSError, match="too large"):
            for _ in range(2):
                with (tmp_path / "a").open("ab", buffering=0) as file:
                    file.write(b"x" * 1000)
    finally:
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.failure("disk")
def test_a_process_whose_file_may_not_be_so_large(tmp_path: Path) -> None:
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        f"for _ in range(2): open({str(tmp_path / 'a')!r}, 'ab', 0).write(b'x' * 100)"
    )
    ended(code, -signal.SIGXFSZ)


# memory -------------------------------------------------------------------------------------------


@pytest.mark.failure("oom")
@pytest.mark.parametrize(
    "take",
    [
        lambda: bytearray(sys.maxsize),
        lambda: np.zeros(1 << 46),
        lambda: pa.allocate_buffer(1 << 60),
        lambda: mmap.mmap(-1, 1 << 60),
    ],
    ids=["python", "numpy", "arrow", "mmap"],
)
def test_more_memory_than_there_is(take: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, OSError)):
        take()


def held(size: int) -> int:
    """A process that takes so many bytes, and may use little more than it does already."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, used + (1 << 26)):
        return len(bytes(size))


@pytest.mark.failure("oom")
def test_a_worker_that_has_too_little_memory() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(MemoryError):
        pool.submit(held, 1 << 28).result()


@pytest.mark.failure("oom")
def test_a_java_that_ends_for_want_of_memory() -> None:
    jars = Path(pyspark.__file__).parent / "jars" / "*"
    options = ["-Xmx8m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-cp", str(jars)]
    command = [find_java().program, *options, "scala.tools.nsc.MainGenericRunner", "-e", "println(1)"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 3
    meet(Evidence("process/java", datetime.now(UTC), "run", exit_code=done.returncode))


@pytest.mark.failure("oom")
def test_a_library_that_aborts_for_want_of_memory() -> None:
    code = (
        "import resource, polars as pl; resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9,) * 2)\n"
        "pl.Series([1]).extend_constant(1, 2 * 10**9).sum()"
    )
    ended(code, -signal.SIGABRT)


# limits -------------------------------------------------------------------------------------------


@pytest.mark.failure("resource")
@pytest.mark.parametrize(
    "take",
    [
        lambda: os.open(os.devnull, os.O_RDONLY),
        socket.socket,
        lambda: sqlite3.connect(os.devnull).execute("CREATE TABLE t (a)"),
        lambda: closing(subprocess.Popen(["true"], stdin=subprocess.PIPE).stdin),
        lambda: LocalStore("/dev").get("null"),
        lambda: pl.read_parquet("/dev/null"),
    ],
    ids=["file", "socket", "sqlite", "process", "objects", "polars"],
)
def test_no_more_descriptors(take: Callable[[], object]) -> None:
    held = []
    with limited(resource.RLIMIT_NOFILE, 256):
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        try:
            with pytest.raises(Exception) as caught:
                take()
            assert caught.value
        finally:
            for descriptor in held:
                os.close(descriptor)


@pytest.mark.failure("resource")
def test_no_more_threads() -> None:
    before = threading.stack_size(1 << 30)
    waiting, go_on = [], threading.Event()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        with limited(resource.RLIMIT_AS, used + (1 << 31)), pytest.raises(RuntimeError, match="new thread"):
            while True:
                thread = threading.Thread(target=go_on.wait, daemon=True)
                thread.start()
                waiting.append(thread)
    finally:
        threading.stack_size(before)
        go_on.set()
        for thread in waiting:
            thread.join()


# access -------------------------------------------------------------------------------------------


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root is denied nothing."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.failure("auth")
@pytest.mark.parametrize(
    "use",
    [
        lambda folder: (folder / "x").read_bytes(),
        lambda folder: (folder / "x").write_bytes(b""),
        lambda folder: pl.read_parquet(folder / "x.parquet"),
        lambda folder: pq.read_table(folder / "x.parquet"),
        lambda folder: LocalStore(str(folder)).get("x"),
        lambda folder: write_deltalake(folder / "t", MUCH),
    ],
    ids=["read", "write", "polars", "arrow", "objects", "delta"],
)
def test_what_is_another_s(tmp_path: Path, use: Callable[[Path], object]) -> None:
    folder = tmp_path / "shut"
    folder.mkdir(mode=0)
    with as_nobody(), pytest.raises(Exception) as caught:
        use(folder)
    assert caught.value


@pytest.mark.failure("permanent")
def test_a_file_system_that_is_only_read(tmp_path: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(tmp_path)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "x").write_bytes(b"")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


# ends from outside --------------------------------------------------------------------------------


@pytest.mark.failure("evicted")
@pytest.mark.parametrize("by", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"])
def test_a_process_that_is_ended_by_another(by: str) -> None:
    killed(signal.Signals[by])


# without an end -----------------------------------------------------------------------------------


@pytest.mark.failure("hung")
def test_a_program_that_does_not_end() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "60"], timeout=0.1, check=False)


@pytest.mark.failure("hung")
def test_a_process_that_its_own_watch_ends() -> None:
    ended("import signal, time; signal.setitimer(signal.ITIMER_REAL, 0.2); time.sleep(60)", -signal.SIGALRM)


@pytest.mark.failure("hung")
def test_a_process_that_works_without_end() -> None:
    ended(
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass", -signal.SIGXCPU
    )


@pytest.mark.failure("hung")
def test_a_thread_that_gives_no_result() -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(go_on.wait)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.1)
        go_on.set()


@pytest.mark.failure("hung")
def test_a_process_that_gives_no_result() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        waiting = pool.apply_async(signal.pause)
        with pytest.raises(multiprocessing.TimeoutError):
            waiting.get(timeout=0.1)


@pytest.mark.failure("hung")
def test_a_meeting_to_which_one_does_not_come() -> None:
    with pytest.raises(threading.BrokenBarrierError):
        threading.Barrier(2).wait(timeout=0.1)
