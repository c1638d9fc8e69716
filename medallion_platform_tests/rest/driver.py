"""Pulls an API while being killed: run as a program, `driver.py ADDRESS LAKE TURNS`.

Children are forked before any engine has started a thread, so that a turn costs no imports; SIGKILL hits each
some time after it began. Prints how each ended: killed, done or failed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.sources.connectors import rest
from medallion_platform_tests.pipeline.toy import NOW, RUN
from medallion_platform_tests.rest.server import Api
from medallion_platform_tests.rest.test_rest import CURSOR, PAGE, source_of

FAILED = 4


def child(address: str, lake: Path, turn: int) -> int:
    """Fork a pull, the pages of every second one counted; gives its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        source = source_of(Api(address=address), PAGE if turn % 2 else CURSOR)
        intake(rest.Resource(source, NOW), Lake(lake), RUN, batch_rows=7)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(address: str, lake: Path, turns: int) -> None:
    """Run the turns."""
    said = {0: "done", FAILED: "failed"}
    for turn in range(turns):
        pid = child(address, lake, turn)
        time.sleep(0.05 + 0.07 * turn)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print("killed" if os.WIFSIGNALED(status) else said[os.WEXITSTATUS(status)], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
