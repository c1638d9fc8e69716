"""The command line as a user runs it, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
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
