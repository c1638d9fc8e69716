"""Two publishes to the same place, in two processes: the one that began last goes on, whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medallion_platform.lakehouse import fence
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.fence import ClaimLost, claim_place
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.serving.world import lake_of, write

MODULE = "medallion_platform_tests.serving.publisher"
WITHOUT_FCNTL = (
    f"import runpy, sys; sys.modules['fcntl'] = None; runpy.run_module('{MODULE}', None, '__main__')"
)
PUBLISHER = [sys.executable, "-c", WITHOUT_FCNTL]


class Publisher:
    """A process that publishes, and where it was told to pause, pauses."""

    def __init__(self, lake: Lake, copy: Path, pause: str) -> None:
        self.process = subprocess.Popen(
            [*PUBLISHER, str(lake.root), str(copy), pause],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        if pause != "never":
            assert self.process.stdout.readline() == "paused\n"

    def end(self) -> tuple[int, str]:
        """Let it go on; gives its exit code and what it said."""
        out, error = self.process.communicate("go on\n", timeout=60)
        return self.process.returncode, out + error


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy.json"


@pytest.fixture
def begun(tmp_path: Path, copy: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Lake, Publisher]]:
    """A publish of the first edition that has paused; then there is a second edition."""
    lake = lake_of(tmp_path / "lake")
    write(lake, {0: {"a": 1, "b": 1}})
    first = Publisher(lake, copy, request.param)
    write(lake, {1: {"a": 2, "b": 2}})
    yield lake, first
    first.process.kill()


def held(copy: Path) -> dict[str, int]:
    return {user: n for user, n in json.loads(copy.read_text()).items() if user != "edition"}


@pytest.mark.parametrize("begun", ["within"], indirect=True)
def test_one_that_is_killed_keeps_nobody_waiting(begun: tuple[Lake, Publisher], copy: Path) -> None:
    lake, first = begun
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert Publisher(lake, copy, "never").end()[0] == 0
    assert held(copy) == {"a": 2, "b": 2}


@pytest.mark.parametrize("begun", ["before"], indirect=True)
def test_one_that_slept_before_it_wrote_writes_nothing(begun: tuple[Lake, Publisher], copy: Path) -> None:
    lake, first = begun
    assert Publisher(lake, copy, "never").end()[0] == 0
    there = copy.stat()
    code, said = first.end()
    assert (code, "another writer has begun; run it again" in said) == (1, True), said
    assert copy.stat() == there
    assert held(copy) == {"a": 2, "b": 2}


@pytest.mark.parametrize("begun", ["within"], indirect=True)
def test_one_that_slept_within_a_write_does_its_work_again(begun: tuple[Lake, Publisher], copy: Path) -> None:
    lake, first = begun
    assert Publisher(lake, copy, "never").end()[0] == 0
    code, said = first.end()
    assert code == 0, said
    # It has put its old value back, noticed, and handed over once more.
    assert held(copy) == {"a": 2, "b": 2}
    assert Publisher(lake, copy, "never").end() == (0, "up to date\n")


def test_each_claim_is_the_newest_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: claim_place(lake, "publish/x"), range(8)))
    assert len({c.number for c in claims}) == 8
    assert [c.is_newest() for c in sorted(claims, key=lambda c: c.number)] == [False] * 7 + [True]
    assert claim_place(lake, "publish/y").number == 1
    assert max(claims, key=lambda c: c.number).is_newest()


def test_a_number_that_is_free_again_is_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    late, newest = [1], fence._newest_claim
    for _ in range(5):
        claim_place(lake, "publish/x")
    # As of one who looked when there was one claim, and slept until four more had come and gone.
    monkeypatch.setattr(fence, "_newest_claim", lambda *at: late.pop() if late else newest(*at))
    assert claim_place(lake, "publish/x").number == 6


@pytest.mark.failure("conflict")
def test_before_a_write_it_is_too_late_and_after_one_it_is_unsure(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    mine = claim_place(lake, "publish/x")
    with mine.writing():
        pass
    with pytest.raises(ClaimLost), mine.writing():
        claim_place(lake, "publish/x")
    with pytest.raises(CommitConflict), mine.writing():
        pytest.fail("it is not this one's turn")
