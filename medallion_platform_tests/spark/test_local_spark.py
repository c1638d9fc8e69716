"""What Java is started with for Spark on this machine, to the last setting."""

from __future__ import annotations

import os
from pathlib import Path

import pyspark
import pytest
from pyspark import SparkContext

import medallion_platform
from medallion_platform.spark.driver import SparkDidNotStart
from medallion_platform.spark.java import Java
from medallion_platform.spark.provider import LocalSpark

STARTED_WITH = Path(__file__).with_name("local_spark.txt")
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:ReservedCodeCacheSize=240m")


def java_that_says_its_arguments(home: Path) -> Java:
    """A program in place of Java that only writes down how it was started."""
    program = home / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {home}/arguments\necho started >&2\nexit 1\n")
    program.chmod(0o755)
    return Java(home, 25, "")


def arguments(java: Java, *, quick: bool) -> list[str]:
    """The arguments of Java without what differs between machines, Spark's settings in alphabetical order."""
    local = LocalSpark(
        jars=[Path("/jars/delta.jar")],
        further_jars=[Path("/jars/s3.jar")],
        settings={"spark.hadoop.fs.s3a.endpoint": "http://127.0.0.1:9"},
        java=java,
        memory="2g",
        cores=3,
        options=("-Dmine=1",),
    )
    with pytest.raises(SparkDidNotStart, match="started"):
        local.session(quick=quick)
    jars = os.pathsep.join(str(jar) for jar in sorted(Path(pyspark.__file__).parent.glob("jars/*.jar")))
    platform = Path(medallion_platform.__file__).parent.as_uri()
    written = (java.home / "arguments").read_text().replace(jars, "PYSPARK").replace(platform, "PLATFORM")
    options, *settings = written.removesuffix("\n").split("\n--conf\n")
    *settings, last = (*settings[:-1], *settings[-1].split("\n"))
    return [*options.split("\n"), *sorted(settings), last]


def test_what_java_is_started_with_changes_only_on_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SparkContext, "_gateway", None)  # other tests of this process may have started one
    java = java_that_says_its_arguments(tmp_path)
    expected = STARTED_WITH.read_text().splitlines()
    assert arguments(java, quick=True) == expected
    assert arguments(java, quick=False) == [a for a in expected if a not in QUICK]
