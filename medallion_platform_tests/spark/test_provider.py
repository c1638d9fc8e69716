"""Only `spark` knows of a JVM: any session with Spark's public API can run a transform."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medallion_platform
from medallion_platform.spark.driver import SparkDidNotStart, _start_jvm

ROOM = Path(medallion_platform.__file__).parent
OF_A_JVM = {"_jvm", "_jdf", "_jc", "_jsparkSession", "_jreader", "_jwrite", "_gateway", "_sc", "sparkContext"}
MODULES = ("py4j", "pyspark.java_gateway", "pyspark.context", "pyspark.core.context")


def reaches_into_a_jvm(source: str) -> list[str]:
    """What in the source needs a JVM in this process, by line."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        named = set[str]()
        if isinstance(node, ast.Attribute):
            named = {node.attr} & OF_A_JVM
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = {node.value} & OF_A_JVM
        elif isinstance(node, ast.ImportFrom):
            full = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
            named = {
                m for m in full if m.startswith(MODULES) or m.endswith((".SparkContext", ".launch_gateway"))
            }
        elif isinstance(node, ast.Import):
            named = {alias.name for alias in node.names if alias.name.startswith(MODULES)}
        found += (f"{getattr(node, 'lineno', 0)}: {name}" for name in named)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "rows._jdf.queryExecution()",
        "getattr(rows, '_jdf')",
        "spark.sparkContext.setLogLevel('ERROR')",
        "import py4j.java_gateway",
        "from pyspark.java_gateway import launch_gateway",
        "from pyspark import SparkContext",
    ],
)
def test_the_look_finds_what_it_should(source: str) -> None:
    assert reaches_into_a_jvm(source)


def test_only_spark_knows_of_a_jvm() -> None:
    found = {f.relative_to(ROOM): reaches_into_a_jvm(f.read_text()) for f in ROOM.rglob("*.py")}
    reaching = {str(f) for f, lines in found.items() if lines}
    modules = "driver executor_wait failed_stage kubernetes memory progress provider started"
    assert reaching == {f"spark/{name}.py" for name in modules.split()}


def test_a_jvm_that_does_not_start_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    says = "echo Setting default log level to WARN >&2; echo Invalid maximum heap size: -Xmx0 >&2; exit 1"
    with pytest.raises(SparkDidNotStart, match=r"^Java ended .*: Invalid maximum heap size: -Xmx0$"):
        _start_jvm(["/bin/sh", "-c", says])
    assert "log level" not in capfd.readouterr().err
