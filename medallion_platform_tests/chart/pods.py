"""The pods that manifests make, those that Dagster and Spark make included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import yaml
from dagster import DagsterRun
from dagster._config import process_config
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job
from kubernetes.client import ApiClient

from .rendering import Manifest, dagster_yaml, the

Pod = dict[str, Any]
"""A specification."""


def pods(manifests: list[Manifest], folder: Path) -> Iterator[tuple[str, Pod]]:
    """Each with what makes it; folder: for a file of the launcher's client."""
    for manifest in manifests:
        yield from pods_of(manifest)
    yield "a run", run_job(manifests, folder)["spec"]["template"]["spec"]
    yield "an executor", executor_pod(manifests)["spec"]


def pods_of(manifest: Manifest) -> Iterator[tuple[str, Pod]]:
    """The pod that a manifest makes, if it makes one."""
    spec: dict[str, Any] = manifest.get("spec") or {}
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    if manifest["kind"] == "Pod":
        yield name, spec
    elif manifest["kind"] == "CronJob":
        yield name, spec["jobTemplate"]["spec"]["template"]["spec"]
    elif manifest["kind"] in ("DaemonSet", "Deployment", "Job", "StatefulSet"):
        yield name, spec["template"]["spec"]


def containers(pod: Pod) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def executor_pod(manifests: list[Manifest]) -> Manifest:
    """The pod that Spark makes executors from."""
    return yaml.safe_load(the(manifests, "ConfigMap", "executor")["data"]["executor.yaml"])


def run_job(manifests: list[Manifest], folder: Path) -> Manifest:
    """The Job that Dagster's launcher makes of the chart's configuration."""
    given = dagster_yaml(manifests)["run_launcher"]["config"]
    taken = process_config(K8sRunLauncher.config_type(), given)
    assert taken.success, taken.errors
    assert taken.value is not None
    launcher = K8sRunLauncher(
        **{
            **taken.value,
            "load_incluster_config": False,
            "kubeconfig_file": str(_kubeconfig(folder)),
            "k8s_client_batch_api": Mock(),
            "k8s_client_core_api": Mock(),
        }
    )
    context = K8sContainerContext.create_for_run(DagsterRun("any"), launcher, include_run_tags=False)
    job = construct_dagster_k8s_job(
        job_config=context.get_k8s_job_config("medallion-platform:test", launcher),
        args=["dagster", "api", "execute_run"],
        job_name="dagster-run-1",
        component="run_worker",
        user_defined_k8s_config=context.run_k8s_config,
        labels={"dagster/run-id": "1"},
    )
    return ApiClient().sanitize_for_serialization(job)


def _kubeconfig(folder: Path) -> Path:
    """A cluster that nobody calls."""
    file = folder / "kubeconfig"
    file.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: none\n"
        "clusters: [{name: none, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "contexts: [{name: none, context: {cluster: none, user: none}}]\n"
        "users: [{name: none, user: {}}]\n"
    )
    return file
