"""The command line as a user runs it, for tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MEDALLION = [sys.executable, "-c", "from medallion_platform.cli import main; main()"]
"""The command of the package that is tested, without the wrapper's set-up."""
UV = shutil.which("uv") or next(
    map(str, sorted((Path.home() / ".cache" / "medallion").glob("uv-*/bin/uv"))), None
)
"""The installer that `./medallion` gets."""

_FORKED = (
    "from medallion_platform_tests.forked import serve; serve(); "
    "from medallion_platform.cli import main; main()"
)


def medallion(
    *arguments: str, where: Path | None = None, env: Mapping[str, str] | None = None, seconds: int = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process of its own that need not import everything once more."""
    with TemporaryDirectory(prefix="medallion-command-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {
            "arguments": arguments,
            "where": str(where or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "seconds": seconds,
            "files": [os.devnull, str(out), str(err)],
        }
        server = _server()
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


@cache
def _server() -> subprocess.Popen[str]:
    """What such processes are forked from; it ends with this process."""
    command = [sys.executable, "-c", _FORKED]
    env = {**os.environ, "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"}  # else a Mac may end such a process
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", env=env
    )


def run_here(patch: pytest.MonkeyPatch, home: Path, landing: Path | None = None) -> list[dict[str, Any]]:
    """Call `medallion run` in this process, whose Spark is warm; gives the table that it prints.

    What it tells its children by the environment, and libraries by their settings, ends with `patch`.
    """
    from medallion_platform.cli import write_commands

    for name in ("DAGSTER_HOME", "MEDALLION_HOME", "MEDALLION_LAKE", "MEDALLION_LANDING"):
        patch.setenv(name, "")
        patch.delenv(name)
    patch.setenv("MEDALLION_SETTLE_SECONDS", "0")
    patch.setattr(write_commands, "quiet_libraries", lambda: None)
    with redirect_stdout(StringIO()) as said:
        write_commands.run(landing=landing and str(landing), home=home, as_json=True)
    return json.loads(said.getvalue().splitlines()[-1])


def demo(home: Path) -> list[dict[str, int]]:
    """Run `medallion demo`; gives its closing table."""
    done = medallion("demo", "--json", "--home", str(home), seconds=280)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == 2, f"Spark or Dagster talk to the terminal: {done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def streaming(source: str, environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`medallion stream SOURCE` with refreshes behind it, its words in `log`; ended whatever happens."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*MEDALLION, "stream", source, "--refresh", "--port", "0"],
            env=environment,
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
