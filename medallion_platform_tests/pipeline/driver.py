"""Takes a landing zone in while being killed: run as a program, `driver.py ROOT TURNS SEED MODE`.

Children are forked before any engine has started a thread, so that a turn costs no imports.
`kill`: one child a turn, which SIGKILL hits at a random instant. `race`: two children a turn that
start together. Prints how each child ended: killed, done, fenced or failed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medallion_platform.lakehouse.commit import CommitConflict
from pipeline.toy import CSV, Zone

DONE, FENCED, FAILED = 0, 3, 4


def child(root: Path, start: float) -> int:
    """Fork an intake that begins at a time; gives its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        time.sleep(max(0.0, start - time.time()))
        Zone(root).take(CSV, batch_rows=3)
        code = DONE
    except CommitConflict:
        code = FENCED
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(root: Path, turns: int, seed: int, mode: str) -> None:
    """Run the turns."""
    chance = random.Random(seed)
    said = {DONE: "done", FENCED: "fenced", FAILED: "failed"}
    for _ in range(turns):
        start = time.time() + 0.02
        pids = [child(root, start) for _ in range(2 if mode == "race" else 1)]
        if mode == "kill":
            time.sleep(0.02 + chance.uniform(0, 0.35) ** 1.5 * 2)
            os.kill(pids[0], signal.SIGKILL)
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            print("killed" if os.WIFSIGNALED(status) else said[os.WEXITSTATUS(status)], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
