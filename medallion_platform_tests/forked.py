"""Processes for commands, forked from one that has imported what most of them need.

Most of the CPU of a command goes into imports. What depends on a home, a project or a setting is imported by
each process itself, and so is what few commands need.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from importlib import import_module

from medallion_platform_tests.unsynced import leave_writing_to_the_system

SHARED = (
    *("dagster", "deltalake", "pandas", "pandera.pyspark", "polars", "pyspark.sql"),
    *("medallion_platform.cli", "medallion_platform.orchestration.build", "medallion_platform.queries.plans"),
    "medallion_platform.queries.tables",
)
OWN = "medallion_platform.installation.catalog"
"""What reads the environment as it is imported."""


def serve() -> None:
    """Fork a process for each line of standard input; this returns in such a process alone.

    A line is JSON: `arguments`, `where` (its folder), `env`, `seconds` (then a signal ends it), `files` (of
    its three standard streams). Prints its exit code, negative for a signal.
    """
    for module in SHARED:
        import_module(module)
    assert OWN not in sys.modules, "a process would get what another one was told"
    leave_writing_to_the_system()
    gc.freeze()  # what is shared is no work for a process that ends
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        if not (pid := os.fork()):
            _become(**asked)
            return
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def _become(arguments: list[str], where: str, env: dict[str, str], seconds: int, files: list[str]) -> None:
    for stream, path in enumerate(files):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, stream)
        os.close(opened)
    os.chdir(where)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[1:] = arguments
    signal.alarm(seconds)
