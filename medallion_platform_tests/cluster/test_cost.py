"""What a refresh costs by one, two and four executors: the CPU of all its pods, measured by their nodes."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from medallion_platform import storage
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.benchmarks.intake_ratio import json_lines
from medallion_platform_tests.cluster.graphql import Dagster, Run
from medallion_platform_tests.cluster.installation import Installation, namespace
from medallion_platform_tests.cluster.kube import Kube
from medallion_platform_tests.cluster.servers import Servers
from medallion_platform_tests.cluster.test_install import REBUILD, WEEK
from medallion_platform_tests.cluster.test_streams import container_of
from medallion_platform_tests.waiting import until
from medallion_sample.sample import sample_files

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(2400)]

EVENTS = int(os.environ.get("MEDALLION_TEST_COST_EVENTS", "2000000"))
FILES = 4


@pytest.fixture(scope="module")
def working(
    admin: Kube, image: str, servers_of_tests: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation whose events come from files, all of which are in bronze and silver."""
    values: dict[str, Any] = {"secrets": {"kafka": ""}, "runs": {"disk": "8Gi"}, "executors": {"disk": "8Gi"}}
    with namespace(admin, servers_of_tests, tmp_path_factory.mktemp("cost"), image, **values) as found:
        for file in sample_files({}):  # events are enriched by users and regions
            storage.create_file(found.landing, file.path, file.content)
        rows = json_lines(random.Random(7), "0000", EVENTS // FILES)
        for number in range(FILES):
            content = rows.replace(b'"evt-0000-', b'"evt-%04d-' % number)
            storage.create_file(found.landing, f"clickstream/events/{number}.jsonl", content)
        found.install()
        lake, enough = Lake(found.lake), EVENTS * 0.99
        until(lambda: lake.rows("silver.events") >= enough, 900, found.says, pause=5)
        yield found


@pytest.mark.parametrize("executors", [1, 2, 4])
def test_a_refresh_by_executors(working: Installation, executors: int) -> None:
    pod = working.with_executors(executors)
    used: dict[str, float] = {}
    with working.web() as url:
        dagster = Dagster(url, working.says)
        dagster.quiet()
        run_id = dagster.launch(
            "__ASSET_JOB", ["silver_events"], REBUILD, pod, **WEEK, dagster__max_retries="0"
        )

        def ended() -> Run | None:
            for one in (
                *working.admin.pods(dagster__run_id=run_id),
                *working.admin.pods(spark_role="executor"),
            ):
                used[one["metadata"]["name"]] = max(cpu_seconds(one), used.get(one["metadata"]["name"], 0.0))
            run = dagster.run(run_id)
            return run if run.ended else None

        run = until(ended, 900, working.says, pause=0.5)
        assert run.status == "SUCCESS", "\n".join(dagster.messages(run_id))
    assert run.end and run.start
    size = sum(file["size"] for batch in storage.store(working.landing).list() for file in batch)
    driver = sum(seconds for name, seconds in used.items() if name.startswith("dagster-run"))
    total = sum(used.values())
    assert total > driver > 0
    print(
        f"\n{EVENTS:,} events, {size / 10**9:.2f} GB, {executors} executors: {run.end - run.start:.0f} s, "
        f"CPU {total:.0f} s (driver {driver:.0f}), {3600 * size / 10**9 / total:.2f} GB per core-hour"
    )


def cpu_seconds(pod: Mapping[str, Any]) -> float:
    """What a pod's container has used so far; 0 where its node does not say."""
    ask, name = container_of(pod)
    told = subprocess.run(
        [*ask, "metrics", "--format", "json", name], capture_output=True, text=True, check=False
    )
    if told.returncode or not name:
        return 0.0
    return _usage(json.loads(told.stdout)) / 10**9


def _usage(metrics: Mapping[str, Any]) -> float:
    """Nanoseconds, of the first or the second version of control groups."""
    cpu = metrics["cpu"]["usage"] if "usage" in metrics["cpu"] else metrics["cpu"]
    return float(cpu["total"]) if "total" in cpu else float(cpu["usage_usec"]) * 1000
