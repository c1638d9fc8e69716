"""The platform in a namespace, installed as its users do it: by helm, without rights of the cluster."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import subprocess
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import httpx
import yaml

from medallion_platform.kubernetes.shape import GIB, Shape
from medallion_platform.orchestration.launcher import container_config
from medallion_platform_tests.chart.rendering import CHART, merged
from medallion_platform_tests.cluster.kube import Kube
from medallion_platform_tests.cluster.servers import Servers
from medallion_platform_tests.cluster.tools import kubectl
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.waiting import meanwhile, until

RELEASE = "medallion"
_SMALL: Mapping[str, Any] = {
    # The nodes of a test have the cores of one machine, and all pods share its memory.
    **{name: {"resources": {"requests": {"cpu": "50m"}}} for name in ("web", "daemon", "code", "supervise")},
    "web": {"replicas": {"min": 1, "max": 2}, "resources": {"requests": {"cpu": "50m"}}},
    "runs": {"disk": "4Gi", "resources": {"requests": {"cpu": "200m"}}, "concurrent": 1, "startTimeout": 120},
    "executors": {"disk": "4Gi"},
}


@dataclass
class Installation:
    """A release, who installs it, and where its data is."""

    admin: Kube
    user: Kube
    servers: Servers
    bucket: str
    values: dict[str, Any]

    @property
    def lake(self) -> str:
        return f"s3://{self.bucket}/lake"

    @property
    def landing(self) -> str:
        return f"s3://{self.bucket}/landing"

    def install(self, *arguments: str, **values: Any) -> None:
        """Install or upgrade, and wait until everything is ready."""
        self.values = merged(self.values, values)
        self.user.helm(
            *("upgrade", "--install", RELEASE, str(CHART), "--values=-", "--wait", "--timeout=5m"),
            *arguments,
            given=yaml.safe_dump(self.values),
            seconds=400,
        )

    def says(self) -> str:
        """What a person would look at first."""
        pods = self.admin.run("get", "pods", "--output=wide")
        events = self.admin.run("get", "events", "--sort-by=.lastTimestamp")
        return f"{pods}\n{events[-4000:]}"

    @contextmanager
    def web(self) -> Generator[str]:
        """The URL of the web server, as a data engineer reaches it."""
        engineer = self.admin.acting_as("ada", "medallion-data-engineers")
        with web_server(engineer, RELEASE, self.says) as url:
            yield url

    def with_executors(self, count: int, *java: str) -> dict[str, Any]:
        """What the pod of a run is told that has so many, small ones, as Dagster's `dagster-k8s/config`.

        java: further options of its Java.
        """
        image = "{repository}:{tag}".format(**self.values["image"])
        told = container_config(Shape(3 * GIB, 1, count, 2 * GIB, 1, spark=True), image)
        # All pods of a test share the cores of its machine.
        options = ["-Dspark.kubernetes.executor.request.cores=100m", *java]
        told["container_config"]["env"].append({"name": "JDK_JAVA_OPTIONS", "value": " ".join(options)})
        return told

    def uninstall(self) -> None:
        """As a user does it."""
        self.user.helm("uninstall", RELEASE, "--wait", "--timeout=3m")


@contextmanager
def web_server(user: Kube, release: str, says: Callable[[], str]) -> Generator[str]:
    """The URL of a release's web server, forwarded by somebody who may do so.

    kubectl ends as soon as one connection is reset, as by a browser that leaves a page
    (kubernetes/kubernetes#111825): it is begun again, as people do.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begin = [str(kubectl()), f"--kubeconfig={user.config}", f"--namespace={user.namespace}", *user.user]
    command = [*begin, "port-forward", f"service/{release}-web", f"{port}:80"]
    begun: list[subprocess.Popen[bytes]] = []
    with TemporaryFile() as said:

        def go_on() -> None:
            if not begun or begun[-1].poll() is not None:
                begun.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said))

        def why() -> str:
            said.seek(0)
            return f"it is not forwarded: {said.read().decode()}\n{says()}"

        try:
            with meanwhile(go_on, every=0.2):
                until(lambda: _answers(port), 60, why)
                yield f"http://127.0.0.1:{port}"
        finally:
            for process in begun:
                with process:
                    process.terminate()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).is_success
    except httpx.HTTPError:
        return False


def image_values(image: str) -> dict[str, str]:
    """An image in the chart's values."""
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


@contextmanager
def namespace(
    admin: Kube, servers: Servers, folder: Path, image: str, **values: Any
) -> Generator[Installation]:
    """A namespace as an administrator makes it, with what the chart asks for; nothing is installed yet."""
    values = {**values, "image": image_values(image)}
    name = f"lake-{secrets.token_hex(4)}"
    manifests = (REPOSITORY / "helm-values" / "admin.yaml").read_text()
    for what in ("namespace: medallion", "name: medallion # the namespace"):
        manifests = manifests.replace(what, what.replace("medallion", name, 1))
    own = Kube(admin.config, name)
    own.apply(manifests)
    try:
        yield _prepared(own, servers, folder, name, values)
    finally:
        own.run("delete", "namespace", name, "--wait=false")


def _prepared(
    admin: Kube, servers: Servers, folder: Path, name: str, values: Mapping[str, Any]
) -> Installation:
    database = name.replace("-", "_")
    servers.new_bucket(name)
    admin.apply(
        _secret("medallion-postgres", DAGSTER_PG_PASSWORD=servers.new_database(database)),
        _secret("medallion-s3", **{k: v for k, v in servers.s3.environment.items() if "KEY" in k}),
        _secret("medallion-redis", REDIS_PASSWORD=servers.redis.password),
        _secret("medallion-kafka", MEDALLION_KAFKA=servers.kafka()),
        _config_map("authority", {"ca.crt": servers.authority}),
    )
    host = servers.s3.host
    kafka_port = int(servers.broker.secured["bootstrap.servers"].rpartition(":")[2])
    told = {
        "project": {"module": "medallion_sample.catalog"},
        "lake": f"s3://{name}/lake",
        "landing": f"s3://{name}/landing",
        "settings": {
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{servers.s3.port}",
            "MEDALLION_SETTLE_SECONDS": "0",
        },
        "postgres": {"host": host, "port": servers.postgres.port, "database": database, "user": database},
        "authority": "authority",
        "secrets": {"s3": "medallion-s3", "kafka": "medallion-kafka", "redis": "medallion-redis"},
        "features": {"redis": f"{host}:{servers.redis.port},password=${{REDIS_PASSWORD}}"},
        "network": {
            "s3": {"ports": [servers.s3.port]},
            "kafka": {"ports": [kafka_port]},
            "redis": {"ports": [servers.redis.port]},
        },
        **_SMALL,
    }
    return Installation(admin, _installer(admin, folder), servers, name, merged(told, values))


def _installer(admin: Kube, folder: Path) -> Kube:
    """The account that `admin.yaml` makes for whoever installs: rights in the namespace alone."""
    token = admin.run("create", "token", "medallion-installer", "--duration=6h").strip()
    config = yaml.safe_load(admin.run("config", "view", "--raw", "--flatten", "--minify"))
    config["users"] = [{"name": "installer", "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = "installer"
    file = folder / f"installer-{admin.namespace}.kubeconfig"
    file.touch(0o600)
    file.write_text(json.dumps(config))
    return Kube(file, admin.namespace)


def _secret(name: str, **values: str) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def _config_map(name: str, data: Mapping[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(data)}
