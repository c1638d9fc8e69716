"""Failures that the system tells: further limits, locks, ends of processes, and what never ends."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import queue
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pyspark
import pytest
from watchdog.observers.inotify_c import Inotify

from medallion_platform.healing.evidence import Evidence
from medallion_platform.spark.java import find_java
from medallion_platform_tests.corpus.capture import meet
from medallion_platform_tests.corpus.causes import fails
from medallion_platform_tests.corpus.test_machine import as_nobody, ended, killed, limited
from medallion_platform_tests.test_errors import full

__all__ = ["full"]


def done(command: list[str | Path], code: int, **more: object) -> None:
    """A program that ends with this code."""
    ran = subprocess.run(command, capture_output=True, check=False, **more)  # type: ignore[call-overload]
    assert ran.returncode == code, ran.stderr.decode()[-500:]
    meet(Evidence(f"process/{code}", datetime.now(UTC), "run", exit_code=code))


# disk -----------------------------------------------------------------------------------------------


def by_copy(folder: Path) -> object:
    (folder.parent / "much").write_bytes(bytes(500_000))
    return shutil.copy(folder.parent / "much", folder / "a")


def reserved(folder: Path) -> object:
    with (folder / "a").open("wb") as file:
        return os.posix_fallocate(file.fileno(), 0, 500_000)


FILLING: dict[str, Callable[[Path], object]] = {
    "copy": by_copy,
    "reserved": reserved,
    "pandas": lambda folder: pd.DataFrame({"a": range(99_999)}).to_csv(folder / "a"),
    "numpy": lambda folder: np.save(folder / "a", np.arange(99_999)),
}


@pytest.mark.failure("disk")
@pytest.mark.parametrize("fill", FILLING)
def test_a_full_disk_for_others(full: Path, fill: str) -> None:
    fails(FILLING[fill], full)


@pytest.mark.failure("disk")
def test_a_mapped_file_on_a_full_disk(full: Path) -> None:
    """The system tells it by a signal."""
    ended(
        "import mmap, os\n"
        f"f = os.open({str(full / 'a')!r}, os.O_RDWR | os.O_CREAT)\n"
        "os.ftruncate(f, 1 << 20); m = mmap.mmap(f, 1 << 20); m.write(bytes(1 << 20))",
        -signal.SIGBUS,
    )


# memory ---------------------------------------------------------------------------------------------


@pytest.mark.failure("oom")
def test_a_java_that_aborts_for_want_of_memory(tmp_path: Path) -> None:
    jars = Path(pyspark.__file__).parent / "jars" / "*"
    told = ["-Xmx8m", "-XX:+UseSerialGC", "-XX:+CrashOnOutOfMemoryError"]
    where = [f"-XX:ErrorFile={tmp_path / 'log'}", "-cp", str(jars)]
    command = [find_java().program, *told, *where, "scala.tools.nsc.MainGenericRunner", "-e", "1"]
    with limited(resource.RLIMIT_CORE, 0):
        done(command, -signal.SIGABRT, cwd=tmp_path)


@pytest.mark.failure("oom")
def test_a_java_whose_memory_there_is_not() -> None:
    done(
        [find_java().program, "-Xms90g", "-Xmx90g", "-version"],
        1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
    )


@pytest.mark.failure("oom")
@pytest.mark.parametrize("how", ["pandas", "mapped", "text"])
def test_further_memory_that_there_is_not(how: str) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    takes: dict[str, Callable[[], object]] = {
        "pandas": lambda: pd.DataFrame(np.zeros((1, 1))).reindex(range(1 << 27)),
        "mapped": lambda: mmap.mmap(-1, 1 << 30),
        "text": lambda: "x" * (1 << 30),
    }
    with limited(resource.RLIMIT_AS, used + (1 << 26)):
        fails(takes[how])


# limits ---------------------------------------------------------------------------------------------


@pytest.mark.failure("resource")
def test_no_more_watches(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    with ExitStack() as ends, pytest.raises(OSError):
        for _ in range(most + 1):
            ends.callback(Inotify(os.fsencode(tmp_path)).close)


# others ---------------------------------------------------------------------------------------------


def lock_of_another(folder: Path) -> object:
    with (folder / "lock").open("w") as one, (folder / "lock").open("w") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        return fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_that_is_waited_for(folder: Path) -> object:
    with (
        filelock.FileLock(folder / "lock"),
        filelock.FileLock(folder / "lock", timeout=0.01, is_singleton=False),
    ):
        return None


def port_of_another(_: Path) -> object:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return socket.create_server(one.getsockname())


def written_while_it_runs(folder: Path) -> object:
    shutil.copy(shutil.which("true") or "", folder / "true")
    with (folder / "true").open("ab"):
        return subprocess.run([folder / "true"], check=True)


def folder_in_use(folder: Path) -> object:
    (folder / "full").mkdir()
    (folder / "full/a").touch()
    return (folder / "full").rmdir()


CONFLICTS: dict[str, Callable[[Path], object]] = {
    "lock": lock_of_another,
    "lock that is waited for": lock_that_is_waited_for,
    "port": port_of_another,
    # doubtful: it passes once the other one has written
    "program": written_while_it_runs,
    "there already": lambda folder: folder.mkdir(),
    "not empty": folder_in_use,
}


@pytest.mark.failure("conflict")
@pytest.mark.parametrize("other", CONFLICTS)
def test_somebody_else_was_first(tmp_path: Path, other: str) -> None:
    fails(CONFLICTS[other], tmp_path)


def circle(folder: Path) -> object:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return (folder / "a").read_bytes()


FOR_GOOD: dict[str, Callable[[Path], object]] = {
    "links in a circle": circle,
    "a name that is too long": lambda folder: (folder / ("x" * 300)).touch(),
    "no folder": lambda folder: ((folder / "a").touch(), (folder / "a/b").touch()),
    "a folder": lambda folder: folder.read_bytes(),
    "of another file system": lambda folder: (
        (folder / "a").touch(),
        os.link(folder / "a", "/dev/shm/corpus-a"),
    ),
    "no program of this machine": lambda folder: (
        (folder / "a").write_bytes(b"\x7fELF nothing of the kind"),
        (folder / "a").chmod(0o755),
        subprocess.run([folder / "a"], check=True),
    ),
    "a zero in a name": lambda folder: (folder / "a\0").touch(),
    "a limit": lambda _: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 62, 1)),
}


@pytest.mark.failure("permanent")
@pytest.mark.parametrize("wrong", FOR_GOOD)
def test_what_the_system_refuses_whenever_it_is_asked(tmp_path: Path, wrong: str) -> None:
    fails(FOR_GOOD[wrong], tmp_path)


@pytest.mark.failure("permanent")
@pytest.mark.parametrize(("text", "code"), [("no-such-program", 127), (os.devnull, 126)])
def test_a_command_that_is_none(text: str, code: int) -> None:
    done(["sh", "-c", text], code)


@pytest.mark.failure("auth")
def test_what_only_root_may(tmp_path: Path) -> None:
    with as_nobody():
        fails(lambda: os.chroot(tmp_path))


# ends -----------------------------------------------------------------------------------------------


@pytest.mark.failure("evicted")
@pytest.mark.parametrize("by", ["SIGQUIT", "SIGUSR1", "SIGPWR"])
def test_a_process_that_another_signal_ends(by: str) -> None:
    """As of a supervisor that wants to know where it stands."""
    killed(signal.Signals[by])


@pytest.mark.failure("evicted")
def test_a_worker_of_a_pool_that_another_one_kills() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        (worker,) = [pool.submit(os.getpid).result()]
        waiting = pool.submit(time.sleep, 60)
        os.kill(worker, signal.SIGKILL)
        fails(waiting.result)


@pytest.mark.failure("evicted")
def test_a_shell_whose_program_is_ended() -> None:
    done(["sh", "-c", "sh -c 'kill -TERM $$'; exit $?"], 128 + signal.SIGTERM)


@pytest.mark.failure("network")
def test_a_program_whose_reader_is_gone() -> None:
    """Doubtful: as of a pipe to another machine."""
    done(["bash", "-c", "trap - PIPE; yes | true; exit ${PIPESTATUS[0]}"], 128 + signal.SIGPIPE)


CRASHES = {
    "SIGFPE": "import ctypes; ctypes.CDLL(None).div(1, 0)",
    "SIGABRT": "import ctypes; c = ctypes.CDLL(None); c.free.argtypes = [ctypes.c_void_p]\n"
    "c.malloc.restype = ctypes.c_void_p; p = c.malloc(9); c.free(p); c.free(p)",
}


@pytest.mark.failure("poison")
@pytest.mark.parametrize("by", CRASHES)
def test_a_library_that_ends_its_process(by: str) -> None:
    ended(CRASHES[by], -signal.Signals[by])


@pytest.mark.failure("corrupt")
def test_a_mapped_file_that_is_cut(tmp_path: Path) -> None:
    """Doubtful: the system tells it by a signal."""
    ended(
        "import mmap, os\n"
        f"f = os.open({str(tmp_path / 'a')!r}, os.O_RDWR | os.O_CREAT); os.ftruncate(f, 1 << 20)\n"
        "m = mmap.mmap(f, 1 << 20); os.ftruncate(f, 0); print(m[9])",
        -signal.SIGBUS,
    )


# without an end -------------------------------------------------------------------------------------


def waits_for(seconds: float) -> object:
    async def wait() -> None:
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()

    return asyncio.run(wait())


def pool_that_gives_nothing() -> object:
    with get_context("spawn").Pool(1) as pool:
        return pool.map_async(time.sleep, [60]).get(0.01)


HUNG: dict[str, Callable[[], object]] = {
    "a task": lambda: waits_for(0.01),
    "an awaited task": lambda: asyncio.run(asyncio.wait_for(asyncio.sleep(60), 0.01)),
    "a queue": lambda: queue.Queue[int]().get(timeout=0.01),
    "a process": pool_that_gives_nothing,
}


@pytest.mark.failure("hung")
@pytest.mark.parametrize("what", HUNG)
def test_what_is_waited_for_in_vain(what: str) -> None:
    fails(HUNG[what])


@pytest.mark.failure("hung")
def test_a_program_that_takes_longer_than_it_may() -> None:
    done(["timeout", "0.05", "sleep", "60"], 124)


@pytest.mark.failure("hung")
@pytest.mark.parametrize(("timer", "by"), [("VIRTUAL", "SIGVTALRM"), ("PROF", "SIGPROF")])
def test_a_process_that_a_further_watch_ends(timer: str, by: str) -> None:
    ended(
        f"import signal; signal.setitimer(signal.ITIMER_{timer}, 0.05)\nwhile True: pass",
        -signal.Signals[by],
    )


# nobody knows ---------------------------------------------------------------------------------------


@pytest.mark.failure("unknown")
@pytest.mark.parametrize("code", [2, 7, 70])
def test_a_program_that_ends_with_a_code_of_its_own(code: int) -> None:
    done(["sh", "-c", f"exit {code}"], code)


@pytest.mark.failure("unknown")
def test_a_program_that_failed() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(["false"], check=True)
