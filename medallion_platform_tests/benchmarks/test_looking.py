"""How the benchmark of looks counts what processes spend."""

from __future__ import annotations

import os
import subprocess
import sys

from medallion_platform_tests.benchmarks.looking import Used, cpu_seconds, processes


def test_a_child_that_ended_is_counted_as_its_parents() -> None:
    before = {1: Used("dev", 0, 2.0), 2: Used("run", 1, 5.0), 3: Used("daemon", 1, 1.0)}
    after = {1: Used("dev", 0, 8.5), 3: Used("daemon", 1, 1.25), 4: Used("run", 1, 0.5)}
    assert cpu_seconds(before, after) == {"dev": 1.5, "daemon": 0.25, "run": 0.5}


def test_a_child_nobody_waited_for_takes_nothing_away() -> None:
    before = {1: Used("dev", 0, 2.0), 2: Used("run", 1, 5.0)}
    assert cpu_seconds(before, {1: Used("dev", 0, 2.5)}) == {"dev": 0.5}


BURNT_SECONDS = 0.5
_PARENT = f"""
import subprocess, sys
burn = "import time\\nwhile time.process_time() < {BURNT_SECONDS}: pass\\nprint(flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline(); print(flush=True); input()
child.communicate(b"\\n"); print(flush=True); sys.stdin.read()
"""


def test_what_a_real_child_spent_before_is_not_counted_twice() -> None:
    command = [sys.executable, "-c", _PARENT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        group = os.getpgid(parent.pid)
        parent.stdout.readline()
        before = processes(group)
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        parent.stdout.readline()
        spent = cpu_seconds(before, processes(group)).total()
        parent.stdin.close()
    assert len(before) == 2
    assert 0 <= spent < BURNT_SECONDS
