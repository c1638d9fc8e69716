"""Jars are fetched once, verified always; a repository in a folder stands for the network."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medallion_platform.jars import DigestMismatch, Jar, JarsUnavailable, JavaMissing, jars

CONTENT = b"a jar as good as any"


def a_jar(name: str, content: bytes = CONTENT) -> Jar:
    return Jar("org.example", name, "1.0", hashlib.sha256(content).hexdigest())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name in ("one", "two"):
        place = root / "org" / "example" / name / "1.0" / f"{name}-1.0.jar"
        place.parent.mkdir(parents=True)
        place.write_bytes(CONTENT)
    return root


@pytest.fixture
def ivy_settings(repository: Path) -> Path:
    path = repository.parent / "ivysettings.xml"
    pattern = f"{repository}/[organisation]/[artifact]/[revision]/[artifact]-[revision].[ext]"
    path.write_text(
        '<ivysettings><settings defaultResolver="here"/><resolvers><filesystem name="here" '
        f'm2compatible="true"><artifact pattern="{pattern}"/></filesystem></resolvers></ivysettings>'
    )
    return path


def test_what_is_missing_is_fetched_and_the_rest_is_not(
    repository: Path, ivy_settings: Path, tmp_path: Path
) -> None:
    cache, wanted = tmp_path / "cache", [a_jar("one"), a_jar("two")]
    (one,) = jars(wanted[:1], cache, ivy_settings)
    before = one.stat().st_mtime_ns
    found = jars(wanted, cache, ivy_settings)
    assert [p.name for p in found] == ["one-1.0.jar", "two-1.0.jar"]
    assert [p.read_bytes() for p in found] == [CONTENT, CONTENT]
    assert one.stat().st_mtime_ns == before
    assert sorted(p.name for p in (cache / "jars").iterdir()) == ["one-1.0.jar", "two-1.0.jar"]
    # From here on neither a repository nor a JVM is needed.
    ivy_settings.unlink()
    assert jars(wanted, cache, ivy_settings) == found


def test_a_damaged_jar_is_fetched_again(ivy_settings: Path, tmp_path: Path) -> None:
    (path,) = jars([a_jar("one")], tmp_path, ivy_settings)
    path.write_bytes(CONTENT[:5])
    assert jars([a_jar("one")], tmp_path, ivy_settings) == [path]
    assert path.read_bytes() == CONTENT


def test_another_file_than_the_pinned_one_never_enters_the_cache(
    repository: Path, ivy_settings: Path, tmp_path: Path
) -> None:
    with pytest.raises(DigestMismatch, match=r"one-1\.0\.jar .* the repository serves another file"):
        jars([a_jar("one", b"the real one")], tmp_path / "cache", ivy_settings)
    assert list((tmp_path / "cache" / "jars").iterdir()) == []


def test_what_cannot_be_fetched_is_one_sentence(ivy_settings: Path, tmp_path: Path) -> None:
    with pytest.raises(JarsUnavailable, match=r"none-1\.0\.jar could not be fetched") as failed:
        jars([a_jar("none")], tmp_path / "cache", ivy_settings)
    assert "\n" not in str(failed.value)


def test_settings_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(JarsUnavailable, match=r"MEDALLION_IVY_SETTINGS names .*, which is no file"):
        jars([a_jar("one")], tmp_path / "cache", tmp_path / "none.xml")


def test_without_java_or_a_place(ivy_settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JarsUnavailable, match="cannot be kept in /proc/nowhere"):
        jars([a_jar("one")], Path("/proc/nowhere"), ivy_settings)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JavaMissing, match="install Java 17"):
        jars([a_jar("one")], tmp_path / "cache", ivy_settings)


def test_two_at_once_both_get_them(ivy_settings: Path, tmp_path: Path) -> None:
    wanted = [a_jar("one"), a_jar("two")]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: jars(wanted, tmp_path / "c", ivy_settings), range(2))
    assert first == second
    assert {p.read_bytes() for p in first} == {CONTENT}


def test_the_environment_names_cache_and_settings(
    ivy_settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("MEDALLION_IVY_SETTINGS", str(ivy_settings))
    assert jars([a_jar("one")]) == [tmp_path / "mine" / "jars" / "one-1.0.jar"]
