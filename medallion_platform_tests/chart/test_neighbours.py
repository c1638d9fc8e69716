"""What runs beside the platform: charts of others at pinned versions, with values that bound them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from medallion_platform_tests.cluster.tools import NoTool, helm, kubectl

from .pods import containers, pods_of
from .rendering import CHART, NAMESPACE, VALUES, Manifest, documents, render
from .schemas import CUSTOM, NoSchema, why_wrong

CHARTS = Path(os.environ.get("MEDALLION_TEST_CHARTS") or VALUES.parent.parent / "shared" / "charts")
"""A folder of unpacked charts by their names; a registry of packages has none."""
MANIFESTS = ("admin", "istio", "kafka-cluster", "postgres-cluster", "secrets", "snapshots")
OF_THE_CHART = ("spark-history",)
ROOT = {"opentelemetry-collector": "log files of a node belong to root"}
"""Containers that are root, and why."""


@dataclass(frozen=True)
class Pinned:
    chart: str
    version: str
    repository: str


def pinned(file: Path) -> Pinned:
    """What the first lines of a values file say of its chart."""
    lines = file.read_text().splitlines()
    words = " ".join(line.removeprefix("# ") for line in lines[:3] if line.startswith("#"))
    found = re.match(r"Chart: (\S+) (v?\d+\.\d+\.\d+) of ((?:https|oci)://[^\s,]+)", words)
    assert found, f"{file.name} does not say its chart, version and repository"
    return Pinned(*found.groups())


NEIGHBOURS = {
    file.stem if file.parent == VALUES else "argo-cd": file
    for file in (*sorted(VALUES.glob("*.yaml")), VALUES / "argo-cd" / "values.yaml")
    if file.stem not in (*MANIFESTS, *OF_THE_CHART)
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_neighbour_is_pinned_and_holds_no_secret(name: str) -> None:
    pinned(NEIGHBOURS[name])
    for path, value in leaves(yaml.safe_load(NEIGHBOURS[name].read_text())):
        named = path[-1].lower()
        if "password" in named or named in ("token", "secretkey", "accesskey", "key"):
            assert not value or re.fullmatch(r"[a-z]+|[A-Z_]+", str(value)), path  # the name of a key


def leaves(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from leaves(below, *path, str(name))
    elif isinstance(value, list):
        for below in value:
            yield from leaves(below, *path)
    else:
        yield path, value


@pytest.mark.parametrize("name", [n for n in NEIGHBOURS if n != "dagster"])
def test_every_pod_of_a_neighbour_has_limits_and_is_no_root(name: str) -> None:
    if not CHARTS.is_dir():
        pytest.skip(f"no charts of neighbours at {CHARTS}: set MEDALLION_TEST_CHARTS")
    chart = CHARTS / pinned(NEIGHBOURS[name]).chart
    command = [str(helm()), "template", "it", str(chart), "--namespace", "it", "--values"]
    done = subprocess.run([*command, str(NEIGHBOURS[name])], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [(of, pod) for manifest in documents(done.stdout) for of, pod in pods_of(manifest)]
    assert found or name == "prometheus"
    for of, pod in found:
        for container in containers(pod):
            where = f"{of}: {container['name']}"
            assert container.get("resources", {}).get("limits", {}).keys() >= {"cpu", "memory"}, where
            security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
            root = not security.get("runAsNonRoot") and not security.get("runAsUser")
            assert not root or container["name"] in ROOT, where
            for variable in container.get("env", []):
                secret = re.search("password|secret_key|token", variable["name"], re.IGNORECASE)
                assert not (secret and variable.get("value")), where


@pytest.mark.parametrize("name", MANIFESTS)
def test_an_api_server_accepts_the_manifests(name: str) -> None:
    lacking: list[str] = []
    for manifest in documents((VALUES / f"{name}.yaml").read_text()):
        try:
            assert not why_wrong(manifest), manifest
        except NoSchema as error:
            lacking.append(str(error))
    if lacking:
        pytest.skip(lacking[0])


def test_each_secret_of_the_vault_has_the_name_and_the_keys_that_the_chart_wants() -> None:
    told = {
        m["spec"]["target"]["name"]: {
            *(d["secretKey"] for d in m["spec"]["data"] if "template" not in m["spec"]["target"]),
            *m["spec"]["target"].get("template", {}).get("data", {}),
        }
        for m in documents((VALUES / "secrets.yaml").read_text())
        if m["kind"] == "ExternalSecret"
    }
    assert told == {
        "medallion-postgres": {"DAGSTER_PG_PASSWORD"},
        "medallion-s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
        "medallion-kafka": {"MEDALLION_KAFKA"},
        "medallion-token-key": {"MEDALLION_TOKEN_KEY"},
        "medallion-redis": {"REDIS_PASSWORD"},
        "medallion-spark": {"secret", "tls.key", "tls.crt"},
    }
    chosen: set[str] = set()
    for environment in ENVIRONMENTS:
        values = yaml.safe_load(values_of(environment).read_text())
        chosen |= set(values["secrets"].values())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["secrets"]
    assert told.keys() == chosen | {defaults["postgres"], defaults["spark"]}


ENVIRONMENTS = ("dev", "staging", "prod")


def values_of(environment: str) -> Path:
    return VALUES / "argo-cd" / "overlays" / environment / "values.yaml"


def applications(environment: str) -> dict[str, Manifest]:
    """What the application of an environment makes of others, by their names."""
    try:
        program = kubectl()
    except NoTool as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [str(program), "kustomize", str(values_of(environment).parent)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {m["metadata"]["name"]: m for m in documents(done.stdout) if m["kind"] == "Application"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_is_made_by_applications_that_argo_accepts(environment: str) -> None:
    found = applications(environment)
    if not CUSTOM.exists():
        pytest.skip(f"no schemas of custom resources at {CUSTOM}: set MEDALLION_TEST_SCHEMAS")
    root = yaml.safe_load(values_of(environment).with_name("root.yaml").read_text())
    project = yaml.safe_load((VALUES / "argo-cd" / "base" / "project.yaml").read_text())
    assert [t for t in map(why_wrong, (root, project, *found.values())) if t] == []
    assert root["spec"]["source"]["path"] == f"helm-values/argo-cd/overlays/{environment}"
    for name, application in found.items():
        spec = application["spec"]
        assert {d["namespace"] for d in project["spec"]["destinations"]} >= {spec["destination"]["namespace"]}
        for source in spec.get("sources", [spec.get("source")]):
            assert source["repoURL"] in project["spec"]["sourceRepos"], name


def test_argo_installs_each_neighbour_at_the_version_of_its_values() -> None:
    found = applications("prod")
    told: dict[str, Pinned] = {}
    for application in found.values():
        for source in application["spec"].get("sources", []):
            if "chart" in source:
                (values,) = source["helm"]["valueFiles"]
                file = VALUES / values.removeprefix("$git/helm-values/")
                told[file.stem] = pinned(file)
                repository = told[file.stem].repository.removeprefix("oci://")
                assert (source["chart"], source["targetRevision"], source["repoURL"]) == (
                    told[file.stem].chart,
                    told[file.stem].version,
                    repository,
                )
    # Argo CD does not install itself, and Dagster's own chart is for whoever has it already.
    assert told.keys() == NEIGHBOURS.keys() - {"argo-cd", "dagster"}


def test_production_takes_what_was_released_and_changes_nothing_by_itself() -> None:
    for name, application in applications("prod").items():
        assert "automated" not in application["spec"]["syncPolicy"], name
        sources = application["spec"].get("sources", [application["spec"].get("source")])
        assert all(source["targetRevision"] != "main" for source in sources), name
    by_itself = applications("dev")
    assert all("automated" in a["spec"]["syncPolicy"] for a in by_itself.values())
    assert "velero" not in by_itself


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_chart_takes_the_values_of_an_environment(environment: str) -> None:
    (file,) = applications(environment)["medallion"]["spec"]["source"]["helm"]["valueFiles"]
    values = (CHART / file).resolve()
    assert values == values_of(environment)
    manifests = render({}, values)
    assert [w for w in map(why_wrong, (m for m in manifests if "." not in m["apiVersion"])) if w] == []
    assert {m["metadata"].get("namespace", NAMESPACE) for m in manifests} == {NAMESPACE}


@pytest.mark.parametrize("name", OF_THE_CHART)
def test_the_chart_takes_further_values(name: str) -> None:
    assert len(render({}, VALUES / f"{name}.yaml")) > len(render())
