"""The image as it is built: what is in it and what is not, and that it works as a pod may run it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from medallion_platform import new_project
from medallion_platform_tests.cluster.container import Place, enter
from medallion_platform_tests.cluster.image import CannotBuild, build
from medallion_platform_tests.cluster.layers import Image
from medallion_platform_tests.command import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
USER = 10001


@pytest.fixture(scope="module")
def image() -> Image:
    try:
        return build()
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A volume of the image's user."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.chown(folder, USER, USER)
    yield folder


def run(image: Image, *command: str, data: Path | None = None, code: int = 0) -> str:
    """What a container says that may write to /tmp alone and, if it is given one, to /data."""
    places = {"/data": Place(data, writable=True)} if data else {}
    begin = image.config.entrypoint
    done = enter(
        image, [*begin, *command], places=places, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def as_root(image: Image) -> Image:
    """The same, to look at files that its user may not see."""
    return replace(image, config=replace(image.config, user=""))


def test_its_processes_are_a_user_without_rights_who_can_write_nothing_but_data(
    image: Image, data: Path
) -> None:
    assert run(image, "id", "-u").strip() == str(USER)
    assert run(image, "sh", "-c", "touch /data/x /tmp/x && echo done", data=data).strip() == "done"
    for folder in ("/", "/opt/medallion", "/project", "/etc", "/var/tmp"):
        assert "Read-only file system" in run(as_root(image), "touch", f"{folder}/x", code=1)
        assert run(image, "sh", "-c", f"test -w {folder} -a ! -k {folder} && echo writable || true") == ""
    assert run(as_root(image), "find", "/", "-xdev", "-type", "f", "-perm", "/6000") == ""


def test_nothing_in_it_makes_programs_or_installs_packages(image: Image) -> None:
    places = ("/bin", "/sbin", "/usr", "/opt", "/project")
    listed = run(as_root(image), "find", *places, "-type", "f,l", "-perm", "/111", "-printf", r"%f\n")
    compilers = r"(.+-)?(g?cc|g\+\+|c\+\+|cpp|clang|ld|as|make|javac|go|rustc)(-?[\d.]+)?|pip[\d.]*|uvx?"
    assert [name for name in listed.splitlines() if re.fullmatch(compilers, name)] == []


def test_nothing_of_the_tests_or_of_their_tools_is_in_it(image: Image) -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    tools = {re.split(r"[<>=\[]", wanted)[0].replace("-", "_") for wanted in declared}
    listed = run(image, "find", "/opt/medallion/.venv", "-name", "*.dist-info", "-printf", r"%f\n")
    installed = {name.rsplit("-", 1)[0].removesuffix(".dist") for name in listed.splitlines()}
    assert {"medallion_platform", "pyspark", "dagster_k8s", "dagster_postgres"} <= {
        name.split("-")[0] for name in installed
    }
    assert not tools & {name.split("-")[0] for name in installed}
    assert run(image, "find", "/opt", "/project", "-name", "medallion_platform_tests*") == ""
    assert run(image, "find", "/tmp", "/build", "-type", "f", code=1).count("\n") == 1  # no /build


COMPILED = """
import importlib.util, pathlib, sys
missing = []
for source in pathlib.Path(sys.prefix, "lib").rglob("*.py"):
    compiled = pathlib.Path(importlib.util.cache_from_source(str(source)))
    found = source.stat()
    wanted = b"".join(int(n).to_bytes(4, "little") for n in (0, found.st_mtime, found.st_size))
    if not compiled.exists() or compiled.read_bytes()[4:16] != wanted:
        try:
            compile(source.read_bytes(), str(source), "exec")
        except (SyntaxError, ValueError):
            continue  # a template, or of another Python
        missing.append(str(source))
print(*missing, sep="\\n")
"""


def test_every_module_is_compiled(image: Image) -> None:
    assert run(image, "python", "-W", "ignore", "-c", COMPILED).strip() == ""


@pytest.mark.parametrize(
    "command",
    [
        ("medallion", "--version"),
        ("dagster", "--version"),
        ("dagster", "code-server", "start", "--help"),
        ("dagster", "api", "execute_run", "--help"),
        ("dagster-webserver", "--version"),
        ("dagster-daemon", "--version"),
        ("medallion", "stream", "--help"),
    ],
    ids=" ".join,
)
def test_it_has_the_program_of_each_role(image: Image, command: tuple[str, ...]) -> None:
    assert run(image, *command).strip()


SPARK = """
import os, sys
os.environ["MEDALLION_MAVEN"] = "/nowhere"
from medallion_platform.installation.local_spark import jars_of, local_spark
for lake in ("/data/lake", "s3://bucket/lake"):
    for topics in (False, True):
        assert all(jar.exists() for jar in jars_of(lake, topics=topics))
spark = local_spark("/data/lake")
assert spark.aot_cache.found(), "no recording of this Java and these jars"
session = spark.session()
session.range(1000).write.format("delta").save("/data/lake/numbers")
print(session.read.format("delta").load("/data/lake/numbers").count())
print(*os.listdir("/tmp"), file=sys.stderr)
"""


def test_spark_and_delta_write_a_table_with_what_is_in_it(image: Image, data: Path) -> None:
    assert run(image, "python", "-c", SPARK, data=data).splitlines()[0] == "1000"


def test_java_starts_executors_from_the_recording(image: Image, spark: SparkSession) -> None:
    """With what Spark tells each executor of Java's modules, which the recording is bound to."""
    jvm: Any = spark._jvm
    modules = jvm.org.apache.spark.launcher.JavaModuleOptions.defaultModuleOptions().split()
    required = ["-XX:AOTMode=on", "-Xlog:aot=error,cds=error"]  # without it Java would not start
    told = {f"SPARK_JAVA_OPT_{n}": option for n, option in enumerate([*modules, *required, "-version"])}
    config = replace(image.config, env={**image.config.env, **EXECUTOR, **told})
    run(replace(image, config=config), "executor")


EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:9",
    "SPARK_EXECUTOR_ID": "1",
    "SPARK_EXECUTOR_CORES": "1",
    "SPARK_EXECUTOR_MEMORY": "512m",
    "SPARK_APPLICATION_ID": "spark-1",
    "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
    "SPARK_EXECUTOR_POD_NAME": "exec-1",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_JAVA_OPT_0": "--add-modules=jdk.incubator.vector",
    "SPARK_USER": "medallion",
}


def test_an_executor_looks_for_its_driver(image: Image) -> None:
    config = replace(image.config, env={**image.config.env, **EXECUTOR})
    said = run(replace(image, config=config), "executor", code=1)
    assert "KubernetesExecutorBackend" in said
    assert "Failed to connect to /127.0.0.1:9" in said, said


@pytest.mark.timeout(600)
def test_the_demo_runs_in_it(image: Image, data: Path) -> None:
    closing = run(image, "medallion", "demo", "--json", data=data).splitlines()[-1]
    rows = json.loads(closing)
    assert {"bronze.events", "gold.user_features"} <= {row["table"] for row in rows}
    assert all(row["read"] >= row["written"] for row in rows)


def test_a_change_of_code_makes_the_last_layer_again_and_no_other(image: Image, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    wanted = ("Dockerfile", ".dockerignore", "README.md", "pyproject.toml", "uv.lock")
    for folder in ("image", "medallion_platform", "medallion_sample"):
        shutil.copytree(REPOSITORY / folder, checkout / folder)
    for file in wanted:
        shutil.copy2(REPOSITORY / file, checkout / file)
    with (checkout / "medallion_platform" / "pipeline" / "plan.py").open("a") as module:
        module.write("# changed\n")
    changed = build(checkout)
    assert [*changed.layers[:-1]] == [*image.layers[:-1]]
    assert changed.layers[-1].folder != image.layers[-1].folder
    assert changed.config == image.config


def test_a_project_of_ones_own_is_one_small_layer_on_it(image: Image, tmp_path: Path, data: Path) -> None:
    project = tmp_path / "corner_shop"
    new_project.make_project("corner_shop", project)
    built = build(project)
    assert built.name == "corner_shop:0.1.0"
    assert built.layers[:-1] == image.layers
    said = run(built, "medallion", "doctor", "--only", "project", data=data)
    assert "corner_shop.catalog loads: 1 sources, 1 silver and gold tables" in said
    validate = "mkdir -p $DAGSTER_HOME && dagster definitions validate -m corner_shop.definitions"
    run(built, "sh", "-c", validate, data=data)
