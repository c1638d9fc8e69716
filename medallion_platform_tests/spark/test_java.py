"""Which Java is used, whom it trusts, and the cache of code that it started."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from medallion_platform.certificates import java_truststore, tls_context
from medallion_platform.spark.aot_cache import AlreadyRecording, AotCache
from medallion_platform.spark.java import Java, JavaMissing, _java_in, _major_version, find_java
from medallion_platform_tests.kafka import certificates


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('Picked up JAVA_TOOL_OPTIONS: -Dx="9"\njava version "1.8.0_402"', 8),
        ('openjdk version "25" 2025-09-16 LTS', 25),
        ('openjdk version "26-ea" 2026-03-17', 26),
        ('openjdk version "21.0.2+13-LTS"', 21),
        ("no version here", None),
    ],
)
def test_what_java_says_of_itself(text: str, version: int | None) -> None:
    assert _major_version(text, r'^\w+ version "(?:1\.)?(\d+)') == version


def a_java(home: Path, says: str, release: str = "") -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{says}' >&2\n")
    program.chmod(0o755)
    if release:
        (home / "release").write_text(release)
    return home


def test_without_any_java_on_the_machine_ours_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_java()
    assert (found.ours, found.version) == (True, 25)
    assert not found.has_vectors
    said = subprocess.run([found.program, "-version"], capture_output=True, text=True, check=True)
    assert ' "25' in said.stderr


def test_java_home_counts_where_spark_runs_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(a_java(tmp_path / "21", 'openjdk version "21.0.1"')))
    assert (find_java().home, find_java().version, find_java().ours) == (tmp_path / "21", 21, False)
    monkeypatch.setenv("JAVA_HOME", str(a_java(tmp_path / "11", "", 'JAVA_VERSION="11.0.22"\n')))
    assert find_java().ours
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    assert find_java().ours


def test_a_setting_counts_more_and_has_to_be_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(a_java(tmp_path / "21", 'openjdk version "21.0.1"')))
    assert find_java(a_java(tmp_path / "17", "", 'X="9"\nJAVA_VERSION="17.0.1"\n')).version == 17
    with pytest.raises(JavaMissing, match="is Java 8; name Java 17 or newer"):
        find_java(a_java(tmp_path / "8", 'java version "1.8.0_402"'))
    with pytest.raises(JavaMissing, match="no java runs there"):
        find_java(a_java(tmp_path / "broken", "Error: no JVM"))
    with pytest.raises(JavaMissing, match="no java runs there"):
        find_java(tmp_path / "nothing")


def test_a_java_built_without_vectors_is_not_asked_for_them(tmp_path: Path) -> None:
    whole = a_java(
        tmp_path / "whole", "", 'JAVA_VERSION="21.0.1"\nMODULES="java.base jdk.incubator.vector"\n'
    )
    small = a_java(tmp_path / "small", "", 'JAVA_VERSION="21.0.1"\nMODULES="java.base java.se"\n')
    unknown = a_java(tmp_path / "unknown", 'openjdk version "21.0.1"')
    found = [_java_in(home) for home in (whole, small, unknown)]
    assert [runtime and runtime.has_vectors for runtime in found] == [True, False, True]


def test_java_trusts_whom_this_machine_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle.pem"
    authorities: list[bytes] = []
    for name in ("one", "two"):
        certificates.make(tmp_path / f"{name}.pem", tmp_path / f"{name}-own.pem")
        authorities.append((tmp_path / f"{name}.pem").read_bytes())
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    bundle.write_bytes(b"# a comment\n" + b"\n".join([*authorities, broken, authorities[0]]))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    store = java_truststore(tmp_path / "kept")
    assert store is not None
    assert java_truststore(tmp_path / "kept") == store
    listed = subprocess.run(
        [find_java().home / "bin" / "keytool", "-list", "-keystore", store, "-storepass", ""],
        capture_output=True,
        text=True,
    )
    assert listed.stdout.count("trustedCertEntry") == 2, listed.stdout + listed.stderr
    bundle.write_bytes(authorities[1] + b"\n")
    assert java_truststore(tmp_path / "kept") != store  # what the machine trusts has changed


def test_python_trusts_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates.make(tmp_path / "one.pem", tmp_path / "own.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    assert len(tls_context().get_ca_certs()) == 1


# --- ahead-of-time cache


def code(folder: Path, *jars: Path, version: int = 25) -> AotCache:
    return AotCache(folder, Java(Path("/java"), version, f'JAVA_VERSION="{version}"'), jars)


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    path = tmp_path / "spark.jar"
    path.write_bytes(b"jar")
    return path


def record(started: AotCache, content: bytes = b"code") -> Path:
    with started.recorded() as options:
        Path(options[0].partition("=")[2]).write_bytes(content)
    found = started.found()
    assert found is not None
    return found


def test_what_was_recorded_is_used_where_it_fits(tmp_path: Path, jar: Path) -> None:
    folder = tmp_path / "kept"
    assert code(folder, jar).options() == []
    assert code(folder, jar).is_wanted()
    file = record(code(folder, jar))
    assert code(folder, jar).options()[0] == f"-XX:AOTCache={file}"
    assert not code(folder, jar).is_wanted()
    assert code(folder, jar, version=26).options() == []
    jar.write_bytes(b"another jar")
    assert code(folder, jar).options() == []


def test_with_both_compilers_java_forgets_which_one_was_recorded(
    tmp_path: Path, jar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert code(tmp_path, jar).options(quick=False) == []
    record(code(tmp_path, jar))

    def follows_the_recording(options: list[str]) -> bool:
        # Asked for first, for the file is none: on its own Java would follow nothing.
        asked = ("-XX:+UnlockDiagnosticVMOptions", "-XX:+AOTReplayTraining")
        command = [find_java().program, *asked, *options, "-XX:+PrintFlagsFinal", "-version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return bool(re.search(r"\bAOTReplayTraining\s+= true", said))

    assert follows_the_recording(code(tmp_path, jar).options())
    assert not follows_the_recording(code(tmp_path, jar).options(quick=False))


@pytest.mark.parametrize("content", [b"", b"cod", b"cOde", b"code and more"])
def test_a_damaged_file_is_not_used(tmp_path: Path, jar: Path, content: bytes) -> None:
    record(code(tmp_path, jar)).write_bytes(content)
    assert code(tmp_path, jar).options() == []


def test_an_old_java_is_asked_for_nothing(tmp_path: Path, jar: Path) -> None:
    assert not code(tmp_path, jar, version=24).is_wanted()


@pytest.mark.failure("conflict")
def test_nobody_records_twice(tmp_path: Path, jar: Path) -> None:
    started = code(tmp_path, jar)
    with started.recorded():
        assert not started.is_wanted()
        with pytest.raises(AlreadyRecording), code(tmp_path, jar).recorded():
            pass
    # It came to nothing, so it is not tried again today.
    assert started.found() is None
    assert not started.is_wanted()


def test_disk_space_is_bounded(tmp_path: Path, jar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = record(code(tmp_path, jar))
    second = record(code(tmp_path, jar, version=26))  # an upgrade in the same environment
    assert (first.exists(), second.exists()) == (False, True)
    for n in range(8):
        monkeypatch.setattr("sys.prefix", f"/environment/{n}")
        newest = record(code(tmp_path, jar))
    assert len(list(tmp_path.glob("started-*.aot"))) == 6
    assert newest.exists()
