"""The API server as one pod sees it: its own namespace, and errors as sentences."""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, Literal

from medallion_platform.errors import Kind, MedallionError, kind_of_status
from medallion_platform.extras import require_extra
from medallion_platform.kubernetes.lease import LeaseChanged, LeaseRecord
from medallion_platform.kubernetes.rights import Right

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SECONDS = (3.0, 5.0)
"""For a connection, and for its answer: a lease of ten seconds is still renewed after one of them failed."""
_NOT_FOUND, _CONFLICT = 404, 409


class ClusterError(MedallionError):
    """The API server refused a request, or did not answer it."""

    kind = Kind.NETWORK


@dataclass(frozen=True)
class Cluster:
    """The API server, and the namespace in which the platform works."""

    client: ApiClient
    namespace: str


def in_pod() -> bool:
    """Whether this process runs in a pod with a service account."""
    return _NAMESPACE.exists()


def connect() -> Cluster:
    """The cluster and namespace of this pod; elsewhere those of `$KUBECONFIG` or `~/.kube/config`.

    Raises:
        ClusterError: neither is there.
        MissingExtra: the client is not installed.
    """
    require_extra("k8s", "Kubernetes")
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        if in_pod():
            config.load_incluster_config(settings)
            namespace = _NAMESPACE.read_text().strip()
        else:
            file = os.environ.get("KUBECONFIG")  # the client asks for it when it is imported, and never again
            config.load_kube_config(file, client_configuration=settings)
            namespace = config.list_kube_config_contexts(file)[1]["context"].get("namespace", "default")
    except config.ConfigException as error:
        raise ClusterError(
            f"no Kubernetes cluster is known here ({error})",
            kind=Kind.PERMANENT,
            remedy="run it in a pod with a service account, or set KUBECONFIG",
        ) from None
    return Cluster(client.ApiClient(settings), namespace)


def pod_name() -> str:
    """The name of this process's pod; a container's host is named like it where nobody says another."""
    return os.environ.get("POD_NAME") or gethostname()


def own_name() -> str:
    """A name for this process that no other one has, nor a container that is started again."""
    return f"{pod_name()}_{uuid.uuid4().hex[:8]}"


@contextmanager
def asking(cluster: Cluster, what: str) -> Generator[None]:
    """Say what is wrong where a request in the `with` block fails; what: is asked for, as "list pods".

    Raises:
        ClusterError: it was refused or not answered.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    where = f"the API server of Kubernetes (namespace {cluster.namespace}, to {what})"
    try:
        yield
    except ApiException as error:
        kind = kind_of_status(error.status) or Kind.NETWORK
        raise ClusterError(
            f"{where} answered {error.status} {error.reason}",
            kind=kind,
            remedy="give the pod's service account this right; the chart's Roles have it"
            if kind is Kind.AUTH
            else "",
        ) from error
    except (HTTPError, OSError) as error:
        raise ClusterError(f"{where} does not answer ({type(error).__name__})") from error


def _core(cluster: Cluster) -> Any:
    from kubernetes.client import CoreV1Api

    return CoreV1Api(cluster.client)


def _batch(cluster: Cluster) -> Any:
    from kubernetes.client import BatchV1Api

    return BatchV1Api(cluster.client)


def _apps(cluster: Cluster) -> Any:
    from kubernetes.client import AppsV1Api

    return AppsV1Api(cluster.client)


def list_pods(cluster: Cluster, selector: str = "") -> list[Any]:
    """The pods of the namespace with these labels, as objects of the client, of one moment.

    Raises:
        ClusterError: they cannot be listed.
    """
    with asking(cluster, "list pods"):
        found = _core(cluster).list_namespaced_pod(
            cluster.namespace, label_selector=selector, _request_timeout=_SECONDS
        )
    return found.items


def read_pod(cluster: Cluster, name: str) -> Any:
    """A pod, as an object of the client.

    Raises:
        ClusterError: it cannot be read.
    """
    with asking(cluster, f"get the pod {name}"):
        return _core(cluster).read_namespaced_pod(name, cluster.namespace, _request_timeout=_SECONDS)


def annotate_pod(cluster: Cluster, name: str, annotations: Mapping[str, str]) -> None:
    """Write annotations on a pod; others stay.

    Raises:
        ClusterError: they cannot be written.
    """
    body = {"metadata": {"annotations": dict(annotations)}}
    with asking(cluster, f"patch the pod {name}"):
        _core(cluster).patch_namespaced_pod(name, cluster.namespace, body, _request_timeout=_SECONDS)


def owner_reference(cluster: Cluster, config_map: str) -> dict[str, str]:
    """What an object says that is to be deleted with a ConfigMap ("Owners and Dependents" in the manual).

    Raises:
        ClusterError: it cannot be read.
    """
    with asking(cluster, f"get the ConfigMap {config_map}"):
        found = _core(cluster).read_namespaced_config_map(
            config_map, cluster.namespace, _request_timeout=_SECONDS
        )
    return {"api_version": "v1", "kind": "ConfigMap", "name": config_map, "uid": found.metadata.uid}


def list_jobs(cluster: Cluster, selector: str) -> list[Any]:
    """The Jobs of the namespace with these labels.

    Raises:
        ClusterError: they cannot be listed.
    """
    with asking(cluster, "list jobs"):
        found = _batch(cluster).list_namespaced_job(
            cluster.namespace, label_selector=selector, _request_timeout=_SECONDS
        )
    return found.items


def list_events(cluster: Cluster, name: str) -> list[Any]:
    """What happened lately to the object of this name.

    Raises:
        ClusterError: it cannot be listed.
    """
    with asking(cluster, "list events"):
        found = _core(cluster).list_namespaced_event(
            cluster.namespace, field_selector=f"involvedObject.name={name}", _request_timeout=_SECONDS
        )
    return found.items


def delete(cluster: Cluster, kind: Literal["pod", "job"], name: str, uid: str) -> None:
    """Delete the very object with this uid, and what it owns; nothing where it is gone.

    Raises:
        ClusterError: it cannot be deleted.
    """
    from kubernetes.client import ApiException

    body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
    remove = _core(cluster).delete_namespaced_pod if kind == "pod" else _batch(cluster).delete_namespaced_job
    with asking(cluster, f"delete the {kind} {name}"):
        try:
            remove(name, cluster.namespace, body=body, _request_timeout=_SECONDS)
        except ApiException as error:
            if error.status not in (_CONFLICT, _NOT_FOUND):
                raise


def list_quotas(cluster: Cluster) -> list[Any]:
    """The resource quotas of the namespace, as objects of the client.

    Raises:
        ClusterError: they cannot be listed.
    """
    with asking(cluster, "list resource quotas"):
        return (
            _core(cluster).list_namespaced_resource_quota(cluster.namespace, _request_timeout=_SECONDS).items
        )


def may(cluster: Cluster, right: Right, verb: str) -> bool:
    """Whether this account has a right in the namespace, as the API server says (a SelfSubjectAccessReview).

    Raises:
        ClusterError: it does not say it.
    """
    from kubernetes.client import AuthorizationV1Api

    resource, _, part = right.resource.partition("/")
    asked = {"group": right.group, "resource": resource, "subresource": part, "verb": verb}
    review = {"spec": {"resourceAttributes": {"namespace": cluster.namespace, **asked}}}
    reviews: Any = AuthorizationV1Api(cluster.client)
    with asking(cluster, "ask for rights"):
        answer = reviews.create_self_subject_access_review(review, _request_timeout=_SECONDS)
    return bool(answer.status.allowed)


def version_and_date(cluster: Cluster) -> tuple[str, str | None]:
    """The version of Kubernetes (`v1.33.13`), and the server's time as its answer's header `Date` tells it.

    Raises:
        ClusterError: it does not answer.
    """
    from kubernetes.client import VersionApi

    versions: Any = VersionApi(cluster.client)
    with asking(cluster, "tell its version"):
        told, _, headers = versions.get_code_with_http_info(_request_timeout=_SECONDS)
    return told.git_version, headers.get("Date")


def read_scale(cluster: Cluster, deployment: str) -> tuple[int, str]:
    """How many pods a Deployment should have, and the labels that they have.

    Raises:
        ClusterError: it cannot be read.
    """
    with asking(cluster, f"get the scale of deployment {deployment}"):
        found = _apps(cluster).read_namespaced_deployment_scale(
            deployment, cluster.namespace, _request_timeout=_SECONDS
        )
    return found.spec.replicas or 0, found.status.selector or ""


def set_scale(cluster: Cluster, deployment: str, replicas: int) -> None:
    """Say how many pods a Deployment should have.

    Raises:
        ClusterError: it cannot be changed.
    """
    with asking(cluster, f"scale deployment {deployment}"):
        _apps(cluster).patch_namespaced_deployment_scale(
            deployment, cluster.namespace, {"spec": {"replicas": replicas}}, _request_timeout=_SECONDS
        )


class ClusterLease:
    """One Lease object in the API server."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        """name: of the object, in the letters that DNS allows."""
        from kubernetes.client import CoordinationV1Api

        self._cluster, self._name = cluster, name
        self._api: Any = CoordinationV1Api(cluster.client)

    def read(self) -> LeaseRecord:
        """The lease as it is now.

        Raises:
            ClusterError: it cannot be read.
        """
        from kubernetes.client import ApiException

        with asking(self._cluster, f"get the lease {self._name}"):
            try:
                found = self._api.read_namespaced_lease(
                    self._name, self._cluster.namespace, _request_timeout=_SECONDS
                )
            except ApiException as error:
                if error.status == _NOT_FOUND:
                    return LeaseRecord()
                raise
        return _record_of(found)

    def write(self, record: LeaseRecord) -> LeaseRecord:
        """Create it, or replace the version that the record names.

        Raises:
            LeaseChanged: it is not the newest version.
            ClusterError: it cannot be written.
        """
        from kubernetes.client import ApiException

        body = _object_of(self._name, record)
        with asking(self._cluster, f"{'update' if record.version else 'create'} the lease {self._name}"):
            try:
                if record.version:
                    written = self._api.replace_namespaced_lease(
                        self._name, self._cluster.namespace, body, _request_timeout=_SECONDS
                    )
                else:
                    written = self._api.create_namespaced_lease(
                        self._cluster.namespace, body, _request_timeout=_SECONDS
                    )
            except ApiException as error:
                if error.status in (_CONFLICT, _NOT_FOUND):
                    raise LeaseChanged from None
                raise
        return _record_of(written)


def _record_of(found: Any) -> LeaseRecord:
    return LeaseRecord(
        found.spec.holder_identity or "",
        found.metadata.resource_version,
        found.spec.lease_transitions or 0,
        found.spec.lease_duration_seconds or LeaseRecord.duration,
    )


def _object_of(name: str, record: LeaseRecord) -> dict[str, Any]:
    # As text: the client leaves out a fraction of zero, which the API server requires.
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, **({"resourceVersion": record.version} if record.version else {})},
        "spec": {
            "holderIdentity": record.holder or None,
            "leaseDurationSeconds": record.duration,
            "leaseTransitions": record.transitions,
            "renewTime": now,
        },
    }
