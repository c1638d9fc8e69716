"""What the launcher says of a run whose pod ended or never began, and what the run gets that retries it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster_k8s.job import get_job_name_from_run_id
from kubernetes.client import BatchV1Api, CoreV1Api

from medallion_platform.kubernetes.shape import Limits, after_kill
from medallion_platform.lakehouse import memory_uses
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import launcher, runs
from medallion_platform.orchestration.failures import CLASS
from medallion_platform.orchestration.heartbeats import BEATS
from medallion_platform.orchestration.launch_phases import LAUNCH
from medallion_platform.orchestration.launcher import REASON_TAG, Launcher
from medallion_platform.orchestration.memory_reports import ENDED_BY, MEMORY_LIMIT, WORKING_ON, keep_kills
from medallion_platform.orchestration.names import CATCH_UP
from medallion_platform_tests.in_kubernetes.server import Objects, api_server
from medallion_platform_tests.in_kubernetes.test_pod_end import SPEC, ended, waiting
from medallion_platform_tests.orchestration.test_launcher import NEEDS, World, memory

GIB = 1 << 30
OOM = ended(137, "OOMKilled")
RUNNING = {"phase": "Running"}


class Cluster:
    """A run whose Job and pod are in an API server of a few lines."""

    def __init__(self, world: World, objects: Objects) -> None:
        self.world, self.objects, self.on = world, objects, world.on
        self.launcher = Launcher(
            **world.options
            | {
                "job_namespace": objects.cluster.namespace,
                "k8s_client_batch_api": BatchV1Api(objects.cluster.client),
                "k8s_client_core_api": CoreV1Api(objects.cluster.client),
            }
        )
        self.launcher.register_instance(self.on)

    def run(self, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED, **given: Any) -> dg.DagsterRun:
        return self.on.create_run_for_job(self.world.defs.resolve_job_def(CATCH_UP), status=status, **given)

    def job(self, run: dg.DagsterRun, **status: Any) -> str:
        name = get_job_name_from_run_id(run.run_id)
        self.objects.put("jobs", f"{name}/status", status=status)
        return name

    def pod(self, run: dg.DagsterRun, status: dict[str, Any], **metadata: Any) -> None:
        labels = {"job-name": get_job_name_from_run_id(run.run_id)}
        self.objects.put("pods", "run-1", spec=SPEC, status=status, metadata={"labels": labels, **metadata})

    def health(self, run: dg.DagsterRun) -> tuple[WorkerStatus, str, str]:
        """Its status and what is said of it, and the run's tag."""
        found = self.launcher.check_run_worker_health(run)
        return found.status, found.msg or "", self.tag(run)

    def tag(self, run: dg.DagsterRun) -> str:
        found = self.on.get_run_by_id(run.run_id)
        assert found
        return found.tags.get(ENDED_BY, "")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with runs.open_instance(tmp_path / "dagster") as on, api_server() as objects:
        yield World(tmp_path, on, objects)


@pytest.fixture
def cluster(world: World) -> Iterator[Cluster]:
    yield Cluster(world, world.objects)


# how it ended -------------------------------------------------------------------------------------


def test_what_ended_the_pod_is_said_and_tagged(cluster: Cluster) -> None:
    run = cluster.run()
    cluster.job(run, failed=1)
    cluster.pod(run, OOM)
    assert cluster.health(run) == (
        WorkerStatus.FAILED,
        "its pod run-1 was killed for its memory, of which it may have 3072Mi",
        "oom",
    )
    found = cluster.on.get_run_by_id(run.run_id)
    assert found and found.tags[CLASS] == "oom"


def test_a_run_that_was_killed_with_the_most_that_it_may_have_is_not_tried_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_MOST_MEMORY", "4g")
    for limit, tries, sentence in ((3, "", ""), (4, "0", "raise MEDALLION_MOST_MEMORY, or make")):
        run = cluster.run(tags={MEMORY_LIMIT: str(limit * GIB)})
        cluster.job(run, failed=1)
        cluster.pod(run, OOM)
        status, said, tag = cluster.health(run)
        assert (status, tag) == (WorkerStatus.FAILED, "oom")
        found = cluster.on.get_run_by_id(run.run_id)
        assert found and found.tags.get(MAX_RETRIES_TAG, "") == tries
        assert sentence in said and bool(sentence) == ("the most that a run may have" in said)


def test_a_pod_that_was_deleted_with_force_left_nothing_but_its_job(cluster: Cluster) -> None:
    run = cluster.run()
    cluster.job(run, failed=1)
    status, said, tag = cluster.health(run)
    assert (status, tag) == (WorkerStatus.FAILED, "deleted")
    assert "its pod is gone" in said


def test_a_job_that_is_gone_with_its_pod(cluster: Cluster) -> None:
    assert cluster.health(cluster.run())[::2] == (WorkerStatus.FAILED, "deleted")


def test_a_pod_that_works_or_failed_by_itself_has_no_tag(cluster: Cluster) -> None:
    run = cluster.run()
    cluster.job(run, active=1)
    cluster.pod(run, RUNNING)
    assert cluster.health(run)[::2] == (WorkerStatus.RUNNING, "")
    cluster.job(run, failed=1)
    cluster.pod(run, ended(1, "Error"))
    assert cluster.health(run) == (
        WorkerStatus.FAILED,
        "Run has not completed but K8s job has no active pods",
        "",
    )


def test_while_the_api_server_answers_nobody_the_run_is_left_as_it_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster would fail a run whose pod works."""
    run = cluster.run()
    cluster.job(run, active=1)
    cluster.pod(run, RUNNING)

    def restarting(*_: object) -> Any:
        return 502, {}  # for others Dagster waits

    with monkeypatch.context() as patched:
        patched.setattr(cluster.objects, "answer", restarting)
        status, said, tag = cluster.health(run)
    assert (status, tag) == (WorkerStatus.RUNNING, "")
    assert "whether it works is not known: the API server of Kubernetes" in said
    # It answers the second question, and not the first one.
    asked = cluster.objects.answer
    monkeypatch.setattr(
        cluster.objects, "answer", lambda *of: restarting() if "status" in of[1] else asked(*of)
    )
    assert cluster.health(run)[::2] == (WorkerStatus.RUNNING, "")


def test_without_the_right_to_look_dagster_decides_as_ever(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cluster.run()
    cluster.job(run, failed=1)
    asked = cluster.objects.answer
    monkeypatch.setattr(cluster.objects, "answer", lambda *of: (403, {}) if "/pods?" in of[1] else asked(*of))
    assert cluster.health(run)[::2] == (WorkerStatus.FAILED, "")


def test_a_run_that_never_began_says_why_when_it_is_given_up(cluster: Cluster) -> None:
    run = cluster.run(dg.DagsterRunStatus.STARTING)
    job = cluster.job(run, active=1)
    cluster.objects.put("jobs", job, status={"startTime": "2026-11-30T12:00:00Z"})
    quota = {"involvedObject": {"name": job}, "reason": "FailedCreate", "message": "exceeded quota: pods"}
    cluster.objects.put("events", "e", **quota)
    told = cluster.launcher.get_run_worker_debug_info(run) or ""
    assert told.startswith("The run did not begin: no pod could be made for it: exceeded quota: pods\n")
    assert cluster.tag(run) == "quota"
    started = cluster.run()
    assert "did not begin" not in (cluster.launcher.get_run_worker_debug_info(started) or "")
    assert cluster.tag(started) == ""


def test_a_pod_without_an_image_and_one_that_was_killed_before_it_began(cluster: Cluster) -> None:
    run = cluster.run(dg.DagsterRunStatus.STARTING)
    for status, tag in ((waiting("ErrImagePull", "not found"), "image"), (OOM, "oom")):
        cluster.pod(run, status)
        cluster.launcher.get_run_worker_debug_info(run, include_container_logs=False)
        assert cluster.tag(run) == tag


def test_a_run_that_hangs_is_ended_with_its_pod(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(0, 60)  # a look each minute
    monkeypatch.setattr(launcher, "monotonic", lambda: float(next(clock)))
    run = cluster.run(tags={BEATS: "yes"})
    job = cluster.job(run, active=1)
    cluster.objects.put("jobs", job)
    cluster.pod(run, RUNNING)
    asked: list[tuple[str, str]] = []
    answer = cluster.objects.answer

    def listening(verb: str, url: str, body: Any) -> Any:
        if verb == "DELETE":
            asked.append((cluster.tag(run), url.rpartition("/")[2]))
            return 200, {}
        return answer(verb, url, body)

    monkeypatch.setattr(cluster.objects, "answer", listening)
    for _ in range(10):
        assert cluster.health(run)[::2] == (WorkerStatus.RUNNING, "")
    assert cluster.health(run) == (
        WorkerStatus.FAILED,
        "the run hung: it did nothing for 10 min, and was ended",
        "hung",
    )
    assert asked == [("hung", job), ("hung", "run-1")], "its tag says so before the pod is asked to end"
    found = cluster.on.get_run_by_id(run.run_id)
    assert found and found.tags[CLASS] == "hung"


# the next one -------------------------------------------------------------------------------------


def killed(world: World, **tags: str) -> dg.DagsterRun:
    _, run = world.launch(needs=NEEDS_OF_LITTLE)
    world.on.add_run_tags(run.run_id, {ENDED_BY: "oom", CLASS: "oom", **tags})
    found = world.on.get_run_by_id(run.run_id)
    assert found
    return found


NEEDS_OF_LITTLE = {"gold.days": NEEDS["gold.days"]}


def retry_of(world: World, parent: dg.DagsterRun) -> tuple[Any, dg.DagsterRun]:
    """As Dagster does: with the tags of the run that is retried."""
    root = parent.root_run_id or parent.run_id
    tags = {**parent.tags, "dagster/parent_run_id": parent.run_id, "dagster/root_run_id": root}
    return world.launch(tags=tags, parent_run_id=parent.run_id, root_run_id=root)


def test_the_retry_of_a_run_that_was_killed_gets_the_next_step(world: World) -> None:
    first = killed(world)
    pod, second = retry_of(world, first)
    assert memory(pod) == ("4608Mi", "4608Mi")
    assert second.tags[REASON_TAG] == (
        "gold.days: 2.0 GB planned, no more than 10 GB; "
        f"run {first.run_id[:8]} was killed with 3 GiB: threads in a pod of 4.5 GiB"
    )
    world.on.add_run_tags(second.run_id, {ENDED_BY: "evicted"})
    pod, third = retry_of(world, second)
    assert memory(pod)[1] == "4608Mi", "no less than the one before it"
    world.on.add_run_tags(third.run_id, {ENDED_BY: "oom", MEMORY_LIMIT: str(12 * GIB)})
    pod, _ = retry_of(world, third)
    assert memory(pod)[1] == "16384Mi", "what a run says of its pod counts, to the end of the ladder"


def test_a_retry_says_of_itself_what_became_of_it_and_not_of_the_run_before(world: World, lake: Lake) -> None:
    """Dagster gives it the tags of that one: a kill would be charged to a table twice."""
    first = killed(world, **{WORKING_ON: "gold.days", MEMORY_LIMIT: str(3 * GIB), LAUNCH: "9 s"})
    _, second = retry_of(world, first)
    assert [second.tags[tag] for tag in (CLASS, ENDED_BY, LAUNCH, WORKING_ON, MEMORY_LIMIT)] == [""] * 5
    for run in (first, second):
        world.on.report_run_failed(run)
    keep_kills(world.on, lake, datetime.now(UTC))
    assert [use.run_id for use in memory_uses.read(lake)] == [first.run_id]


def test_a_retry_of_a_run_that_was_not_killed_gets_what_it_needs(world: World) -> None:
    _, first = world.launch(needs=NEEDS_OF_LITTLE)
    pod, _ = retry_of(world, first)
    assert memory(pod)[1] == "3072Mi"


def test_of_a_run_whose_first_try_was_deleted_nothing_is_known(world: World) -> None:
    first = killed(world)
    world.on.delete_run(first.run_id)
    pod, _ = retry_of(world, first)
    assert memory(pod)[1] == "3072Mi"


def test_at_the_end_of_the_ladder_there_is_no_more() -> None:
    limits = Limits(0, 0, 4 * GIB, 0)
    assert after_kill(3 * GIB, limits, "1a2b").memory == 4 * GIB
    assert after_kill(4 * GIB, limits, "1a2b").memory == 4 * GIB
