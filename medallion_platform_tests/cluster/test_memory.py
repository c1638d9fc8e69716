"""Memory that does not suffice: a run's pod and executors that are killed for it, and what becomes of them.

What runs is a project of its own, whose image is built on top of the platform's (`project/`).
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medallion_platform import storage
from medallion_platform.installation.settings import bytes_of_memory
from medallion_platform.lakehouse import memory_uses
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster import archive, local
from medallion_platform_tests.cluster.graphql import Dagster, Run
from medallion_platform_tests.cluster.image import CannotBuild, build
from medallion_platform_tests.cluster.installation import Installation, namespace
from medallion_platform_tests.cluster.kube import Kube
from medallion_platform_tests.cluster.servers import Servers
from medallion_platform_tests.cluster.test_faults import figure
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1200)]

PROJECT = Path(__file__).parent / "project"
FIRST, MOST = 3072, 4608
"""MiB of the smallest pod, and of the largest: the next step of the ladder."""
ATE, TOO_MUCH = 2700, 6000
"""MiB: with Python and a JVM more than the first has and less than the second; and more than both have."""
EXECUTOR, CORES, HELD = 1280, 3, 450
"""Executors of a 1 GiB heap and three tasks at a time, six of which hold 450 MB each: the example
`group-by-with-recovery-mode` of apache/spark-kubernetes-operator."""


@pytest.fixture(scope="module")
def project() -> str:
    """The image of the project in the nodes; or one that they can pull, of `MEDALLION_TEST_PROJECT_IMAGE`."""
    if given := os.environ.get("MEDALLION_TEST_PROJECT_IMAGE"):
        return given
    try:
        built = build(PROJECT)
    except CannotBuild as error:
        pytest.skip(f"no image: {error}")
    archive.load(built, local.sockets())
    return built.name


@pytest.fixture(scope="module")
def installed(
    admin: Kube, project: str, servers_of_tests: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The project, installed; a table of more than 50 kB has executors."""
    values: dict[str, Any] = {
        "project": {"module": ""},
        "runs": {"limits": {"localBytes": "50kB", "mostMemory": f"{MOST}m", "mostExecutors": 2}},
    }
    with namespace(admin, servers_of_tests, tmp_path_factory.mktemp("hungry"), project, **values) as found:
        found.install()
        yield found


@pytest.fixture
def dagster(installed: Installation) -> Iterator[Dagster]:
    with installed.web() as url:
        yield Dagster(url, installed.says)


def order(installed: Installation, folder: str, megabytes: int, meals: int = 1) -> None:
    """Let a file with meals arrive, under a name that sorts last: others are found minutes later."""
    rows = "".join(f"{secrets.token_hex(20)},{megabytes}\n" for _ in range(meals))
    path = f"{folder}/{time.time_ns()}.csv"
    storage.create_file(installed.landing, path, f"meal,megabytes\n{rows}".encode())


def tries(dagster: Dagster, known: set[str]) -> list[Run]:
    """The runs that worked on `silver.hungry` beside the known ones, the first one first."""
    runs = reversed(dagster.runs(medallion__working_on="silver.hungry"))
    return [run for run in runs if run.id not in known]


def memory(run: Run) -> int:
    """MiB of a run's pod, as was decided: the tag for programs is hidden from people."""
    (gibibytes,) = re.findall(r"pod of ([\d.]+) GiB", run.tags["medallion/shape"])
    return int(float(gibibytes) * 1024)


def uses(installed: Installation) -> list[tuple[int, str]]:
    """What the lake knows of the memory of work on `silver.hungry`: MiB and what came of it."""
    known = memory_uses.read(Lake(installed.lake))
    return [(u.limit >> 20, u.outcome) for u in known if (u.table, u.where) == ("silver.hungry", "driver")]


def test_a_run_that_is_killed_for_its_memory_gets_more_and_so_do_later_ones(
    installed: Installation, dagster: Dagster
) -> None:
    order(installed, "meals", ATE)

    def done() -> list[Run]:
        found = tries(dagster, set())
        return found if found and found[-1].status == "SUCCESS" else []

    first = until(done, 420, installed.says, pause=1)
    assert [(run.status, memory(run)) for run in first] == [("FAILURE", FIRST), ("SUCCESS", MOST)]
    assert first[0].tags["medallion/ended_by"] == "oom"
    assert uses(installed) == [(FIRST, "killed"), (MOST, "fitted")]
    killed = first[0].end or 0
    figure(
        "run pod killed for its memory, from Dagster's notice on", round((first[1].end or 0) - killed, 1), 2
    )

    known = {run.id for run in first}
    order(installed, "meals", 1)
    (later,) = until(lambda: [r for r in tries(dagster, known) if r.ended], 300, installed.says, pause=1)
    assert (later.status, memory(later)) == ("SUCCESS", MOST)
    assert "silver.hungry was killed with less than 4.5 GiB" in later.tags["medallion/shape_reason"]


@dataclass
class Executors:
    """How executors ended, by what the API server said of their pods while they were there."""

    ends: dict[str, str] = field(default_factory=dict)

    def look(self, admin: Kube) -> None:
        for pod in admin.pods(spark_role="executor"):
            for status in pod["status"].get("containerStatuses", ()):
                if ended := (status.get("state") or {}).get("terminated"):
                    self.ends[pod["metadata"]["name"]] = f"{ended.get('reason')} {ended['exitCode']}"

    def __str__(self) -> str:
        return ", ".join(f"{n} x {end}" for end, n in Counter(self.ends.values()).items()) or "none ended"


@pytest.fixture(scope="module")
def banquet(installed: Installation) -> Installation:
    """What six tasks hold has arrived, and is in the table: by executors that had enough."""
    order(installed, "banquets", HELD, meals=4000)
    until(lambda: Lake(installed.lake).version("silver.banquet") >= 0, 420, installed.says, pause=2)
    with installed.web() as url:
        Dagster(url, installed.says).quiet()
    return installed


def pod(*, recovery: bool, ladder: bool) -> dict[str, Any]:
    """What a run's pod is told: small executors, with or without Spark's own recovery, and our ladder."""
    java = ["-Dspark.kubernetes.executor.request.cores=100m"]  # a node of a test has two
    if not recovery:
        java.append("-Dspark.kubernetes.allocation.recoveryMode.enabled=false")
    variables = {
        "MEDALLION_RUN_EXECUTORS": "2",
        "MEDALLION_RUN_EXECUTOR_CORES": str(CORES),
        "MEDALLION_RUN_EXECUTOR_MEMORY": str(bytes_of_memory(f"{EXECUTOR}m")),
        "MEDALLION_MOST_MEMORY": f"{MOST if ladder else EXECUTOR}m",
        "JDK_JAVA_OPTIONS": " ".join(java),
    }
    return {"container_config": {"env": [{"name": n, "value": v} for n, v in variables.items()]}}


@pytest.mark.parametrize(
    ("name", "recovery", "ladder", "status"),
    [
        ("neither recovery", False, False, "FAILURE"),
        ("Spark's own recovery alone", True, False, "SUCCESS"),
        ("larger executors alone", False, True, "SUCCESS"),
        ("both", True, True, "SUCCESS"),
    ],
)
def test_executors_that_run_out_of_memory(
    banquet: Installation, name: str, recovery: bool, ladder: bool, status: str
) -> None:
    executors, rebuild = Executors(), {"ops": {"silver_banquet": {"config": {"rebuild": True}}}}
    asked = pod(recovery=recovery, ladder=ladder)
    with banquet.web() as url:
        dagster = Dagster(url, banquet.says)
        began = time.time()
        run_id = dagster.launch("__ASSET_JOB", ["silver_banquet"], rebuild, asked, dagster__max_retries="0")

        def ended() -> Run | None:
            executors.look(banquet.admin)
            run = dagster.run(run_id)
            return run if run.ended else None

        run = until(ended, 600, banquet.says, pause=0.3)
        said = [text for text in dagster.messages(run_id) if "executor" in text.lower()]
    seconds = round((run.end or 0) - (run.start or began), 1)
    figure(f"executors out of memory, {name}: {run.status}, executors: {executors}", seconds, 1)
    assert run.status == status, said[-5:]
    if status == "FAILURE":
        assert any("MEDALLION_MOST_MEMORY" in text for text in said), said


def test_what_needs_more_than_the_settings_allow_fails_with_a_sentence(
    installed: Installation, dagster: Dagster
) -> None:
    known = {run.id for run in dagster.runs()}
    order(installed, "meals", TOO_MUCH)
    runs = until(lambda: [r for r in tries(dagster, known) if r.ended], 300, installed.says, pause=1)
    assert (runs[0].status, runs[0].tags["medallion/ended_by"]) == ("FAILURE", "oom")
    assert {memory(run) for run in runs} == {MOST}
    said = [text for text in dagster.messages(runs[0].id) if "was killed for its memory" in text]
    assert any("MEDALLION_MOST_MEMORY" in text for text in said), said
