"""Spark with executors on the nodes of a real cluster, from a pod that a test makes by hand."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from medallion_platform_tests.spark.secrets import make_secrets

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@dataclass(frozen=True)
class Namespace:
    """A namespace of the cluster."""

    name: str

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What a command says."""
        command = ["kubectl", "--namespace", self.name, *arguments]
        done = subprocess.run(command, input=given, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def pods(self, labels: str) -> list[dict[str, Any]]:
        """Pods as the API server shows them."""
        return json.loads(self.kubectl("get", "pods", "--selector", labels, "--output", "json"))["items"]


def until(holds: Callable[[], Any], seconds: float, says: Callable[[], str]) -> Any:
    """What a condition is as soon as it holds."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, says()
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace that admits what is `restricted` alone; it is deleted in the end."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: KUBECONFIG names none")
    found = Namespace(f"executors-{uuid4().hex[:8]}")
    found.kubectl("create", "namespace", found.name)
    found.kubectl("label", "namespace", found.name, RESTRICTED)
    yield found
    found.kubectl("delete", "namespace", found.name, "--wait=false")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What driver and executors know each other by."""
    return make_secrets(tmp_path_factory.mktemp("spark") / "secrets", "known to both")


@pytest.fixture(scope="module")
def seen(namespace: Namespace, secrets: Path) -> dict[str, Any]:
    """What the driver says after its first query."""
    image = os.environ.get("MEDALLION_TEST_IMAGE") or pytest.skip("no image: MEDALLION_TEST_IMAGE names none")
    namespace.kubectl("create", "secret", "generic", "spark", f"--from-file={secrets}")
    namespace.kubectl("create", "configmap", "script", f"--from-file={HERE / 'driver.py'}")
    manifest = (HERE / "executors.yaml").read_text().replace("${image}", image)
    namespace.kubectl("apply", "--filename", "-", given=manifest)

    def said() -> str | None:
        if pod := namespace.pods("!spark-role")[0]:
            assert pod["status"]["phase"] in ("Pending", "Running"), namespace.kubectl("logs", "driver")
            if pod["status"]["phase"] == "Running":
                lines = namespace.kubectl("logs", "driver").splitlines()
                return next((line for line in lines if line.startswith("{")), None)
        return None

    line = until(said, 600, lambda: namespace.kubectl("get", "pods,events"))
    return json.loads(line)


def test_both_nodes_share_the_work(seen: dict[str, Any]) -> None:
    assert len(seen["nodes"]) == 2
    assert seen["sums"] == [[k, sum(range(k, 1000, 10))] for k in range(10)]


@pytest.mark.usefixtures("seen")
def test_who_may_list_pods_sees_no_secret(namespace: Namespace, secrets: Path) -> None:
    shown = namespace.kubectl("get", "pods", "--output", "yaml")
    assert "/run/secrets/spark/tls.key" in shown
    secret = (secrets / "secret").read_bytes()
    key = (secrets / "tls.key").read_text().splitlines()[1]
    for hidden in (secret.decode(), base64.b64encode(secret).decode(), key, "_SPARK_AUTH_SECRET"):
        assert hidden not in shown


@pytest.mark.usefixtures("seen")
def test_a_lost_executor_is_replaced(namespace: Namespace) -> None:
    first = {pod["metadata"]["name"] for pod in namespace.pods("spark-role=executor")}
    assert len(first) == 2
    namespace.kubectl("delete", "pod", min(first), "--grace-period=0", "--force")

    def replaced() -> bool:
        running = [
            pod["metadata"]["name"]
            for pod in namespace.pods("spark-role=executor")
            if pod["status"]["phase"] == "Running"
        ]
        return len(running) == 2 and not {min(first)} & set(running)

    until(replaced, 120, lambda: namespace.kubectl("get", "pods,events"))


@pytest.mark.usefixtures("seen")
def test_a_dead_driver_leaves_no_executor(namespace: Namespace) -> None:
    """The last one, as it ends the driver of all."""
    owners = {pod["metadata"]["ownerReferences"][0]["name"] for pod in namespace.pods("spark-role=executor")}
    assert owners == {"driver"}
    namespace.kubectl("delete", "pod", "driver", "--grace-period=0", "--force")
    until(
        lambda: not namespace.pods("spark-role=executor"),
        120,
        lambda: namespace.kubectl("get", "pods,events"),
    )
