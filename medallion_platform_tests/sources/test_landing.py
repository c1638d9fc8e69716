from __future__ import annotations

import os
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.contracts.contract import Contract
from medallion_platform.sources.connectors import landing_zones
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.connectors.landing_scan import (
    FileInfo,
    StillGrowing,
    all_files,
    file_digest,
    is_unfinished_name,
    latest_versions,
    missing,
    new_file_versions,
    scan_landing_zone,
    sort_files,
    wanted,
)
from medallion_platform.sources.connectors.landing_zones import Listing, zone_at
from medallion_platform.sources.errors import LostFile
from medallion_platform.sources.formats.csv import Csv

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OLD = NOW - timedelta(hours=1)


def source(name: str, *globs: str) -> FileSource:
    return FileSource(name, f"bronze.{name}", Contract("C", ()), Csv(), "test", claims=globs)


EVENTS, USERS = source("events", "events/*.csv"), source("users", "users/**/*.json*")


def seen(path: str, age: float = 3600, size: int = 1) -> FileInfo:
    return FileInfo(path, size, NOW - timedelta(seconds=age))


def test_every_file_is_told_apart():
    files = [
        seen("events/b.csv"),
        seen("events/a.csv", age=7200),
        seen("events/new.csv", age=3),
        seen("events/c.csv.part"),
        seen("events/_c.csv"),
        seen("events/.d.csv"),
        seen("_temporary/x.csv"),
        seen("users/eu/u.jsonl.gz"),
        seen("readme.txt"),
    ]
    got = sort_files(files, [EVENTS, USERS], NOW, 10)
    assert [s.path for s in got.claimed["events"]] == ["events/a.csv", "events/b.csv"]
    assert [s.path for s in got.claimed["users"]] == ["users/eu/u.jsonl.gz"]
    assert got.unclaimed == ("readme.txt",)
    assert set(got.unfinished) == {
        "events/new.csv",
        "events/c.csv.part",
        "events/_c.csv",
        "events/.d.csv",
        "_temporary/x.csv",
    }
    assert not got.contested


PARTS = ("a", "b", "ab", "x.csv", "[")
GLOBS = ("a/*.csv", "*/x.csv", "x.csv", "**", "**/x.csv", "a/b/**", "[ab]/*", "/b/*", "?b/**", "a[b]/x.csv")


@given(
    st.lists(st.lists(st.sampled_from(GLOBS), min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("/".join), unique=True),
)
def test_a_file_is_of_whoever_claims_it_wherever_that_begins(claims: list[list[str]], paths: list[str]):
    sources = [source(f"s{n}", *globs) for n, globs in enumerate(claims)]
    got = sort_files(map(seen, paths), sources, NOW, 10)
    told = {file.path: (name,) for name, files in got.claimed.items() for file in files} | got.contested
    assert told == {p: own for p in paths if (own := tuple(s.name for s in sources if s.claims_path(p)))}


def test_a_file_that_two_sources_claim_is_taken_by_none():
    got = sort_files([seen("events/a.csv")], [EVENTS, source("all", "**/*.csv")], NOW, 10)
    assert got.contested == {"events/a.csv": ("events", "all")}
    assert not any(got.claimed.values())


def test_a_clock_ahead_delays_a_file_only_while_it_may_be_growing():
    got = sort_files([seen("events/a.csv", -5), seen("events/b.csv", -999)], [EVENTS], NOW, 10)
    assert got.unfinished == ("events/a.csv",)
    assert [s.path for s in got.claimed["events"]] == ["events/b.csv"]


@pytest.mark.parametrize("name", ["a.CRDOWNLOAD", "a.csv._COPYING_", "a.csv~", "x/.hidden/a.csv"])
def test_unfinished_by_name(name: str):
    assert is_unfinished_name(name)


def test_a_zone_is_looked_at_in_depth(tmp_path: Path):
    (tmp_path / "events").mkdir()
    (tmp_path / "users/eu/x").mkdir(parents=True)
    for path in ("events/a.csv", "users/eu/x/u.json", "stray"):
        (tmp_path / path).write_text("x")
        os.utime(tmp_path / path, (OLD.timestamp(), OLD.timestamp()))
    (tmp_path / "events/broken.csv").symlink_to(tmp_path / "gone")
    got = scan_landing_zone(tmp_path, [EVENTS, USERS], NOW + timedelta(days=3650))
    assert got.unclaimed == ("stray",)
    assert [s.path for s in got.claimed["users"]] == ["users/eu/x/u.json"]
    events = {s.path: s for s in got.claimed["events"]}
    assert set(events) == {"events/a.csv"}
    assert got.skipped == {"events/broken.csv": "a link that leads nowhere"}
    assert all_files(tmp_path / "absent") == []


def test_what_has_no_content_of_its_own_is_no_file(tmp_path: Path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "to-pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "to-folder").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    listening.close()
    there = zone_at(str(tmp_path)).scan([""])
    assert [s.path for s in there.files] == ["a", "link"]
    assert there.skipped == {
        "loop": "a link that leads nowhere",
        "pipe": "a pipe, not a file",
        "socket": "a socket, not a file",
        "to-folder": "a link to a folder",
        "to-pipe": "a pipe, not a file",
    }


@pytest.mark.parametrize(
    "to", ["secret", "folder/secret", "/proc/self/environ", "/etc/hostname", "../../outside/secret"]
)
def test_a_link_never_leads_out_of_the_zone(tmp_path: Path, to: str):
    """Of what is the process's own or another's, no line gets into a table."""
    zone, outside = tmp_path / "zone", tmp_path / "outside"
    (zone / "events").mkdir(parents=True)
    (outside / "folder").mkdir(parents=True)
    for name in ("secret", "folder/secret"):
        (outside / name).write_text("token=1")
    (tmp_path / "zone-beside").mkdir()
    (zone / "events/a.csv").symlink_to(to if to.startswith("/") or ".." in to else outside / to)
    (zone / "events/beside.csv").symlink_to(tmp_path / "zone-beside")
    (zone / "events/good.csv").write_text("x")
    got = scan_landing_zone(zone, [EVENTS], NOW + timedelta(days=3650), 0)
    assert [s.path for s in got.claimed["events"]] == ["events/good.csv"]
    assert set(got.skipped) == {"events/a.csv", "events/beside.csv"}
    seen = FileInfo("events/a.csv", 7, NOW)
    with pytest.raises(LostFile, match="leads out"), zone_at(str(zone)).file(seen):
        pass


def test_a_file_that_is_swapped_for_a_link_is_lost_and_not_followed(tmp_path: Path):
    zone = tmp_path / "zone"
    (zone / "events").mkdir(parents=True)
    (zone / "events/a.csv").write_text("x")
    (seen,) = all_files(zone)
    (tmp_path / "secret").write_text("y")
    (zone / "events/a.csv").unlink()
    (zone / "events/a.csv").symlink_to(tmp_path / "secret")
    with pytest.raises(LostFile, match="leads out"):
        file_digest(zone, seen)
    with pytest.raises(LostFile, match="leads out"):
        zone_at(str(zone)).seen("events/a.csv")


@pytest.mark.parametrize("swapped", ["events", "events/deep", "events/deep/a.csv"])
@pytest.mark.parametrize("again", [True, False], ids=["by name", "by copy"])
def test_what_is_put_in_a_file_s_place_at_the_last_instant_is_not_followed(
    tmp_path: Path, swapped: str, again: bool, monkeypatch: pytest.MonkeyPatch
):
    zone, outside = tmp_path / "zone", tmp_path / "outside"
    file = zone / "events/deep/a.csv"
    for folder, text in ((file, "x"), (outside / "deep/a.csv", "secret"), (outside / "a.csv", "secret")):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text(text)
    (seen,) = zone_at(str(zone)).scan([""]).files
    monkeypatch.setattr(landing_zones, "_can_reopen", lambda: again)
    resolve = Path.resolve

    def swap() -> None:
        (zone / swapped).rename(tmp_path / "was")
        (zone / swapped).symlink_to(outside / "a.csv" if swapped.endswith("csv") else outside)

    def resolving(path: Path, strict: bool = False) -> Path:
        found = resolve(path, strict)
        if path.name == "a.csv" and not (tmp_path / "was").exists():
            swap()  # after the look at where it leads, before it is opened
        return found

    monkeypatch.setattr(Path, "resolve", resolving)
    with pytest.raises(LostFile, match="link was put"), zone_at(str(zone)).file(seen):
        pass


@pytest.mark.parametrize("again", [True, False], ids=["by name", "by copy"])
def test_an_opened_file_is_read_whatever_comes_into_its_place(
    tmp_path: Path, again: bool, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a.csv").write_text("first")
    (seen,) = zone_at(str(tmp_path)).scan([""]).files
    monkeypatch.setattr(landing_zones, "_can_reopen", lambda: again)
    before = len(list(Path("/dev/fd").iterdir()))
    with zone_at(str(tmp_path)).file(seen) as path:
        (tmp_path / "b.csv").write_text("other")
        (tmp_path / "b.csv").rename(tmp_path / "a.csv")
        assert [path.read_text(), path.read_text()] == ["first"] * 2
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_pipe_in_a_file_s_place_keeps_nobody_waiting(tmp_path: Path):
    (tmp_path / "a.csv").write_text("x")
    (seen,) = zone_at(str(tmp_path)).scan([""]).files
    (tmp_path / "a.csv").unlink()
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(LostFile, match="pipe"):
        file_digest(tmp_path, seen)


def test_a_zone_may_itself_be_a_link(tmp_path: Path):
    (tmp_path / "real/events").mkdir(parents=True)
    (tmp_path / "real/events/a.csv").write_text("x")
    (tmp_path / "real/events/b.csv").symlink_to(tmp_path / "real/events/a.csv")
    (tmp_path / "zone").symlink_to(tmp_path / "real")
    there = zone_at(str(tmp_path / "zone")).scan([""])
    assert ([s.path for s in there.files], there.skipped) == (["events/a.csv", "events/b.csv"], {})


@pytest.mark.parametrize("claimed_only", [False, True])
@pytest.mark.parametrize("linked", ["events", "events/eu"])
def test_a_folder_of_a_claim_that_is_a_link_is_left_alone(tmp_path: Path, linked: str, claimed_only: bool):
    nested = source("events", "events/eu/**")
    zone = tmp_path / "zone"
    for folder in (zone / "users/eu", tmp_path / "outside/eu", (zone / linked).parent):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.csv").write_text("x")
    for to, why in (
        (tmp_path / "outside", "a link that leads out of the landing zone"),
        (zone / "users", "a link to a folder"),
    ):
        (zone / linked).unlink(missing_ok=True)
        (zone / linked).symlink_to(to)
        got = scan_landing_zone(zone, [nested], NOW, 0, claimed_only=claimed_only)
        assert (got.claimed, got.skipped) == ({"events": ()}, {linked: why})


def test_a_landing_zone_may_be_thousands_of_folders_deep(tmp_path: Path):
    (tmp_path / "events").mkdir()
    (tmp_path / "events/a.csv").write_text("x")
    here = os.open(tmp_path / "events", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    got = scan_landing_zone(tmp_path, [EVENTS], NOW, 0)
    assert [s.path for s in got.claimed["events"]] == ["events/a.csv"]
    ((deep, why),) = got.skipped.items()  # where a path is longer than the system takes
    assert deep.startswith("events/d/d/d")
    assert why == "the folder cannot be listed (File name too long)"
    subprocess.run(["rm", "-rf", tmp_path / "events"], check=True)  # pytest's own clean-up recurses


def test_names_of_any_language_are_taken_in_and_controls_are_told():
    good = ["events/\N{NO-BREAK SPACE}.csv", "events/\u58f2\N{IDEOGRAPHIC SPACE}a.csv", "events/a\u200db.csv"]
    bad = ["events/a\tb.csv", "events/\x1b[2J.csv", "events/\N{LINE SEPARATOR}.csv", "events/\udcff.csv"]
    got = sort_files([seen(p) for p in (*good, *bad, "x\ty")], [EVENTS], NOW, 0)
    assert {s.path for s in got.claimed["events"]} == set(good)
    assert got.unclaimed == ("x\\ty",)
    assert list(got.skipped) == [
        r"events/a\tb.csv",
        r"events/\x1b[2J.csv",
        r"events/\u2028.csv",
        r"events/\udcff.csv",
    ]


def test_what_may_not_be_read_keeps_nothing_else_from_being_taken_in(tmp_path: Path):
    for path in ("events/shut/a.csv", "events/open/b.csv", "events/mine.csv", "users/u.csv"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    (tmp_path / "events/shut").chmod(0)
    (tmp_path / "events/mine.csv").chmod(0)
    there = as_somebody_else(tmp_path, "zone_at(root).scan(['events', 'users'])")
    assert there == str(
        Listing(
            [s for s in all_files(tmp_path) if s.path in ("events/open/b.csv", "users/u.csv")],
            {
                "events/mine.csv": "the file may not be read (Permission denied)",
                "events/shut": "the folder cannot be listed (Permission denied)",
            },
        )
    )


def as_somebody_else(folder: Path, expression: str) -> str:
    """What an expression over the zone `root` is for a user without rights of his own."""
    for above in (folder, *folder.parents):
        if above.stat().st_mode & 0o005 != 0o005 and os.geteuid() == 0 and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o005)
    became = 65534 if os.geteuid() == 0 else None
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if became is not None:
            os.setgid(became)
            os.setuid(became)
        os.write(write, str(eval(expression, {"zone_at": zone_at, "root": str(folder)})).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    assert os.waitpid(child, 0)[1] == 0
    return text


@pytest.mark.failure("transient", work="intake")
def test_the_digest_is_of_the_content_and_of_nothing_that_still_grows(tmp_path: Path):
    for name, content in (("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    a, b, c = all_files(tmp_path)
    assert file_digest(tmp_path, a) == file_digest(tmp_path, b) != file_digest(tmp_path, c)
    with (tmp_path / "a").open("ab") as file:
        file.write(b"more")
    with pytest.raises(StillGrowing):
        file_digest(tmp_path, a)


def test_registering():
    a, b = seen("a"), seen("b")
    versions = new_file_versions([], [(a, "1"), (b, "2"), (seen("c"), "1")], {})
    assert [(v.sequence, v.path, v.state) for v in versions] == [
        *((1, "a", "new"), (2, "b", "new"), (3, "c", "repeated"))
    ]
    touched = new_file_versions(versions, [(seen("b", 5), "2"), (seen("c", 5), "1"), (a, "1")], {})
    assert [(v.sequence, v.path, v.state) for v in touched] == [(4, "b", "repeated"), (5, "c", "repeated")]
    assert wanted([*versions, *touched], [a, seen("b", 5), seen("c", 5)], {}) == [], "read once, then known"
    versions.pop()
    more = new_file_versions(versions, [(seen("a", 60), "3"), (b, "2")], {})
    assert [(v.sequence, v.path, v.state) for v in more] == [(3, "a", "new version")]
    assert latest_versions([*more, *versions])["a"].sequence == 3
    both = [*more, *versions]
    assert wanted(both, [a, b, seen("a", 60), seen("z")], {}) == [a, seen("z")]
    assert wanted(both, [b, seen("a", 60)], {"2": 1}) == [b]
    back = new_file_versions([*versions, *more], [(seen("a", 70), "1")], {})
    assert [(v.path, v.digest, v.state) for v in back] == [("a", "1", "new version")]


def test_a_content_that_was_lost_is_wanted_once_more():
    a, b = seen("a"), seen("b")
    known = new_file_versions([], [(a, "1"), (b, "2")], {})
    assert missing(known, {1: 5}) == {"1": 5}
    for path in ("a", "c"):
        found = [(seen(path, 60), "1"), (seen("d", 50), "1"), (b, "2")]
        again, copy = new_file_versions(known, found, {"1": 5})
        assert (again.sequence, again.path, again.state, again.first_row) == (3, path, "again", 5)
        assert (copy.sequence, copy.path, copy.state) == (4, "d", "repeated")
        assert missing([*known, again, copy], {1: 5, 3: 7}) == {"1": 7}, "a copy was never read"
        assert missing([*known, again], {1: 5}) == {}
        assert missing([*known, again], {1: 5, 3: 7}) == {"1": 7}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123")), max_size=12), st.data())
def test_registering_in_parts_is_registering_at_once(files: list[tuple[str, str]], data: Any):
    found = [(seen(path), digest) for path, digest in files]
    cut = data.draw(st.integers(0, len(found)))
    first = new_file_versions([], found[:cut], {})
    second = new_file_versions(first, found[cut:], {})
    at_once = new_file_versions([], found, {})
    assert [*first, *second] == at_once
    for path in {v.path for v in at_once}:
        digests = [v.digest for v in at_once if v.path == path]
        assert all(one != other for one, other in pairwise(digests))
    # New names bring new contents only; only a name that went on may go back, and a copy brings nothing.
    assert {v.digest for v in at_once} == {v.digest for v in at_once if v.state != "repeated"}
    fresh = [v.digest for v in at_once if v.state == "new"]
    assert len(set(fresh)) == len(fresh)
    assert [v.sequence for v in at_once] == list(range(1, len(at_once) + 1))
