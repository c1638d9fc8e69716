"""The image, as far as its files tell: what makes its layers, from what, and what it starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path, PurePosixPath

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from medallion_platform import new_project
from medallion_platform.spark.kubernetes import CERTIFICATE, executor_settings
from medallion_platform_tests.cluster.archive import write_archive
from medallion_platform_tests.cluster.dockerfile import Context, Mount, is_ignored, run_parts, stages, words
from medallion_platform_tests.cluster.layers import Config, Image, Layer
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.spark.secrets import make_secrets
from medallion_platform_tests.spark.test_kubernetes import EXECUTORS, POD

FOLDER = REPOSITORY / "image"
STEPS = (FOLDER / "steps.sh").read_text()
RUNS = [
    run_parts(instruction.value)
    for stage in stages(REPOSITORY / "Dockerfile")
    for instruction in stage.instructions
    if instruction.name == "RUN"
]


def tool(name: str) -> str:
    """A program of this environment."""
    found = shutil.which(name, path=Path(sys.executable).parent)
    assert found, f"{name} is not installed: uv sync --all-extras"
    return found


def test_the_dockerfile_runs_every_step_of_the_script_in_order_and_nothing_else() -> None:
    steps = re.findall(r"^(\w+)\(\) \{", STEPS, re.MULTILINE)
    assert [command for _, command in RUNS] == [
        f"/build/image/steps.sh {step}" for step in steps if step != "install_packages"
    ]
    last = stages(REPOSITORY / "Dockerfile")[-1]
    assert "COPY" not in {instruction.name for instruction in last.instructions}


def sources(step: str) -> set[str]:
    (mounts,) = (mounts for mounts, command in RUNS if command.endswith(f" {step}"))
    return {mount.source for mount in mounts if mount.type == "bind" and not mount.stage}


def test_a_change_of_code_makes_the_last_layer_again_and_no_other() -> None:
    of_code = [
        "medallion_platform/pipeline/plan.py",
        "medallion_platform/cli/__init__.py",
        "medallion_sample/x.py",
    ]
    for step in ("base", "tools", "dependencies", "java"):
        named = sources(step)
        assert not [f for f in of_code if any(PurePosixPath(f).is_relative_to(source) for source in named)]
    assert {"medallion_platform", "medallion_sample"} <= sources("code")


def test_each_step_is_given_the_files_that_it_names() -> None:
    for step, text in re.findall(r"^(\w+)\(\) \{\n(.*?)^\}", STEPS, re.MULTILINE | re.DOTALL):
        named = set(re.findall(r"(?<![\w/])image/[\w.]+", text))
        if step != "install_packages":
            assert named | {"image/steps.sh"} == {s for s in sources(step) if s.startswith("image/")}


def test_the_layer_java_has_all_that_it_imports(tmp_path: Path) -> None:
    for source in sources("java"):
        Context(REPOSITORY).copy(source, tmp_path / source)
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import java; print(java.find_java.__code__.co_filename)"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{tmp_path / 'image'}", "MEDALLION_CACHE": "cache"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_nothing_is_mounted_where_it_would_stay() -> None:
    assert {mount.target.split("/")[1] for mounts, _ in RUNS for mount in mounts} == {"build"}


def test_linters_have_nothing_to_say(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    new_project.make_project("shop", project)
    for command in (
        [tool("hadolint"), str(REPOSITORY / "Dockerfile"), str(project / "Dockerfile")],
        [tool("shellcheck"), *(str(FOLDER / name) for name in ("steps.sh", "executor", "decommission"))],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_the_image_and_the_checkout_use_the_same_uv() -> None:
    pinned = re.search(r'^UV = "(.+)"', (REPOSITORY / "medallion").read_text(), re.MULTILINE)
    assert pinned and (FOLDER / "uv.txt").read_text().startswith(f"uv=={pinned[1]} ")


def test_a_new_project_is_two_lines_on_the_image_of_its_version(tmp_path: Path) -> None:
    from importlib.metadata import version

    new_project.make_project("shop", tmp_path / "shop")
    dockerfile = (tmp_path / "shop" / "Dockerfile").read_text()
    assert dockerfile.splitlines() == [
        f"FROM medallion-platform:{version('medallion-platform')}",
        "COPY . /project",
    ]
    assert (Path(__file__).parent / "project" / "Dockerfile").read_text() == dockerfile
    for left_out in (".medallion/lake/x", ".venv/bin/python", "tests/test_x.py", "shop/__pycache__/x.pyc"):
        (tmp_path / "shop" / left_out).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shop" / left_out).touch()
    copied = {str(path) for path, _ in Context(tmp_path / "shop").files(".")}
    assert {"pyproject.toml", "shop/catalog.py", "example/orders/2026-02.csv"} <= copied
    assert not [path for path in copied if re.search("medallion/|venv|tests|pycache", path)]


# --- The executor -------------------------------------------------------------------------------

JAVA = '#!/bin/bash\nprintf "%s\\0" "$@"\n'


def executor(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What `executor` starts, with a Java that prints how it was called."""
    (tmp_path / "java").write_text(JAVA)
    (tmp_path / "java").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MEDALLION_CACHE": "/cache", **variables}
    return subprocess.run([str(FOLDER / "executor")], env=env, capture_output=True, text=True)


SPARK = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.88.1.7:7078",
    "SPARK_EXECUTOR_ID": "3",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "1g",
    "SPARK_APPLICATION_ID": "spark-application-1",
    "SPARK_EXECUTOR_POD_IP": "10.88.1.9",
    "SPARK_EXECUTOR_POD_NAME": "run-1-exec-3",
    "SPARK_RESOURCE_PROFILE_ID": "0",
}


def test_an_executor_is_started_as_its_variables_say(tmp_path: Path) -> None:
    options = {f"SPARK_JAVA_OPT_{n}": f"-Dn={n}" for n in range(12)}
    options["SPARK_JAVA_OPT_1"] = "--add-modules=jdk.incubator.vector"
    options["SPARK_JAVA_OPT_2"] = '-Dtext=a "b" $HOME *\n;c'
    done = executor(tmp_path, **SPARK, **options)
    assert done.returncode == 0, done.stderr
    told = done.stdout.split("\0")[:-1]
    begin = told.index("org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend")
    kept = [value for name, value in options.items() if name != "SPARK_JAVA_OPT_1"]
    assert told[:begin] == ["@/cache/executor.options", *kept, "-Xmx1g", "-Dspark.master=k8s://driver"]
    assert told[begin + 1 :] == [
        *("--driver-url", "spark://CoarseGrainedScheduler@10.88.1.7:7078"),
        *("--executor-id", "3"),
        *("--cores", "2"),
        *("--app-id", "spark-application-1"),
        *("--hostname", "10.88.1.9"),
        *("--resourceProfileId", "0"),
        *("--podName", "run-1-exec-3"),
    ]


def test_an_executor_needs_no_options(tmp_path: Path) -> None:
    done = executor(tmp_path, **SPARK)
    begin = "@/cache/executor.options\0-Xmx1g\0-Dspark.master=k8s://driver\0org.apache.spark."
    assert done.stdout.startswith(begin), done.stderr


def test_an_executor_trusts_the_authority_that_it_is_given(tmp_path: Path) -> None:
    authority = make_secrets(tmp_path / "of", "") / CERTIFICATE
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    trusts = {"SSL_CERT_FILE": str(authority), "TMPDIR": str(tmp_path), "PATH": path}
    done = executor(tmp_path, **SPARK, **trusts)
    assert done.returncode == 0, done.stderr
    told = [o for o in done.stdout.split("\0") if o.startswith("-Djavax.net.ssl.trustStore=")]
    packed = pkcs12.load_pkcs12(Path(told[-1].partition("=")[2]).read_bytes(), None)
    assert [held.certificate.public_bytes(Encoding.PEM) for held in packed.additional_certs] == [
        authority.read_bytes()
    ]
    authority.write_text("none")
    refused = executor(tmp_path, **SPARK, **trusts)
    assert refused.returncode != 0 and "no certificates" in refused.stderr


@pytest.mark.parametrize("missing", SPARK)
def test_an_executor_without_one_of_its_variables_says_which(tmp_path: Path, missing: str) -> None:
    done = executor(tmp_path, **{name: value for name, value in SPARK.items() if name != missing})
    assert done.returncode != 0
    assert missing in done.stderr


def test_the_image_has_the_program_that_spark_calls_before_an_executor_ends(tmp_path: Path) -> None:
    asked = executor_settings(POD, EXECUTORS, tmp_path)["spark.kubernetes.decommission.script"]
    installed = re.search(r"^  install (image/.+) (/\S+)$", STEPS, re.MULTILINE)
    assert installed
    programs, folder = installed[1].split(), installed[2]
    assert asked in {f"{folder}/{Path(program).name}" for program in programs}
    assert all(os.access(REPOSITORY / program, os.X_OK) for program in programs)


# --- What is left out ---------------------------------------------------------------------------


def trim() -> dict[str, object]:
    found: dict[str, object] = {"__name__": "trim"}
    exec((FOLDER / "trim.py").read_text(), found)
    return found


NATIVE = {
    "x86_64": [
        "librocksdbjni-linux64.so",
        "linux/amd64/libzstd-jni.so",
        "native/Linux/x86_64/libsnappyjava.so",
    ],
    "aarch64": [
        "librocksdbjni-linux-aarch64.so",
        "native/linux64/aarch64/libleveldbjni.so",
        "Linux/arm64/x.so",
    ],
    "": ["librocksdbjni-osx-arm64.jnilib", "win64.dll", "librocksdbjni-linux64-musl.so", "linux/ppc64/x.so"],
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_jar_keeps_what_this_machine_can_use(tmp_path: Path, machine: str) -> None:
    jar = tmp_path / "some.jar"
    others = ["META-INF/MANIFEST.MF", "org/windows/Linux.class", "libplain.so"]
    with zipfile.ZipFile(jar, "w") as made:
        for name in [*others, *(name for names in NATIVE.values() for name in names)]:
            made.writestr(name, f"content of {name}")
    os.utime(jar, (1_700_000_000, 1_700_000_000))
    trim()["trim_jar"](jar, machine)  # type: ignore[operator]
    with zipfile.ZipFile(jar) as left:
        assert left.namelist() == [*others, *NATIVE[machine]]
        assert all(left.read(name) == f"content of {name}".encode() for name in left.namelist())
    assert jar.stat().st_mtime == 1_700_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["some.jar"]


def test_nothing_imports_what_is_left_out() -> None:
    packages = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    for folder in trim()["UNUSED"]:  # type: ignore[attr-defined]
        assert (packages / folder).is_dir(), f"{folder}: no longer there, so nothing to leave out"
        name = re.escape(folder.replace("/", "."))
        outside = (p for p in (packages / folder.split("/")[0]).rglob("*.py") if "/tests/" not in str(p))
        importing = re.compile(rf"^\s*(from|import) {name}\b", re.MULTILINE)
        assert not [
            p for p in outside if not p.is_relative_to(packages / folder) and importing.search(p.read_text())
        ]


# --- The builder --------------------------------------------------------------------------------


def test_a_dockerfile_is_read(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "# syntax=docker/dockerfile:1\nFROM debian:bookworm-1-slim AS one\n"
        "RUN --mount=type=bind,from=tools,source=/opt/x,target=/build/x \\\n    # a comment\n    do it\n\n"
        'FROM one\nENV A=1 \\\n    B=$A:2\nENTRYPOINT ["tini", "--"]\n'
    )
    one, two = stages(tmp_path / "Dockerfile")
    assert (one.name, one.base, two.name, two.base) == ("one", "debian:bookworm-1-slim", "1", "one")
    assert run_parts(one.instructions[0].value) == ([Mount("bind", "/build/x", "/opt/x", "tools")], "do it")
    assert [words(instruction.value) for instruction in two.instructions] == [
        ["A=1", "B=$A:2"],
        ["tini", "--"],
    ]
    (tmp_path / "Dockerfile").write_text("FROM one\nONBUILD RUN x\n")
    with pytest.raises(ValueError, match="ONBUILD is not known"):
        stages(tmp_path / "Dockerfile")


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("image/steps.sh", False),
        ("medallion_platform/spark/jars.py", False),
        ("medallion_platform/spark/__pycache__/jars.pyc", True),
        (".git/HEAD", True),
        ("docs/image", True),
        ("uv.lock", False),
    ],
)
def test_what_our_dockerignore_leaves_out(path: str, ignored: bool) -> None:
    patterns = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert is_ignored(PurePosixPath(path), patterns) is ignored


def a_layer(folder: Path, name: str) -> Layer:
    (folder / name / "files" / "etc").mkdir(parents=True)
    (folder / name / "files" / "etc" / name).write_text(name)
    return Layer(folder / name, name)


def test_an_archive_holds_what_its_manifest_names(tmp_path: Path) -> None:
    image = Image((a_layer(tmp_path, "one"), a_layer(tmp_path, "two")), Config(user="10001"), "shop:0.1.0")
    with (tmp_path / "out.tar").open("wb") as out:
        write_archive(image, out)
    with tarfile.open(tmp_path / "out.tar") as archive:
        held = {m.name: extracted.read() for m in archive if (extracted := archive.extractfile(m))}
    (named,) = json.loads(held["index.json"])["manifests"]
    manifest = json.loads(held[blob(named["digest"])])
    config = json.loads(held[blob(manifest["config"]["digest"])])
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert named["annotations"]["io.containerd.image.name"] == "docker.io/library/shop:0.1.0"
    assert digests == config["rootfs"]["diff_ids"]
    assert config["config"]["User"] == "10001"
    assert [len(held[blob(digest)]) for digest in digests] == [layer["size"] for layer in manifest["layers"]]
    with tarfile.open(fileobj=BytesIO(held[blob(digests[1])])) as layer:
        assert layer.getnames() == ["etc", "etc/two"]
    (for_docker,) = json.loads(held["manifest.json"])
    assert {for_docker["Config"], *for_docker["Layers"]} <= held.keys()


def test_a_node_is_not_sent_what_it_has(tmp_path: Path) -> None:
    image = Image((a_layer(tmp_path, "one"), a_layer(tmp_path, "two")), name="shop:0.1.0")
    out = BytesIO()
    write_archive(image, out, known=frozenset([f"sha256:{image.layers[0].digest}"]))
    with tarfile.open(fileobj=BytesIO(out.getvalue())) as archive:
        names = archive.getnames()
    assert [f"blobs/sha256/{layer.digest}" in names for layer in image.layers] == [False, True]


def blob(digest: str) -> str:
    return digest.replace("sha256:", "blobs/sha256/")
