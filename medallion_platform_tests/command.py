"""The command line as a user runs it, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MEDALLION = [sys.executable, "-c", "from medallion_platform.cli import main; main()"]
"""The command of the package that is tested, without the wrapper's set-up."""


def demo(home: Path) -> list[dict[str, int]]:
    """Run `medallion demo`; gives its closing table."""
    command = [*MEDALLION, "demo", "--json", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
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
