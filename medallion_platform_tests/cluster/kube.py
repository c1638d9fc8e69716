"""kubectl and helm as one user of a cluster."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from medallion_platform_tests.cluster.tools import helm, kubectl


class CommandFailed(AssertionError):
    """A command ended with an error; the text is what it said."""


@dataclass(frozen=True)
class Kube:
    """A user of the cluster, in a namespace."""

    config: Path
    namespace: str = "default"
    user: tuple[str, ...] = field(default=(), repr=False)
    """Further options, such as whom an administrator acts as."""

    def run(self, *arguments: str, given: str | None = None, seconds: float = 120) -> str:
        """What `kubectl` says."""
        begin = [str(kubectl()), f"--kubeconfig={self.config}", f"--namespace={self.namespace}", *self.user]
        return _said([*begin, *arguments], given, seconds, os.environ)

    def helm(self, *arguments: str, given: str | None = None, seconds: float = 300) -> str:
        """What `helm` says."""
        begin = [str(helm()), f"--kubeconfig={self.config}", f"--namespace={self.namespace}"]
        return _said([*begin, *arguments], given, seconds, os.environ)

    def get(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Objects of a kind, as the API server shows them."""
        return json.loads(self.run("get", kind, "--output=json", *arguments))["items"]

    def apply(self, *objects: Mapping[str, Any] | str) -> None:
        """Make or change objects, given as such or as YAML."""
        texts = [o if isinstance(o, str) else yaml.safe_dump(dict(o)) for o in objects]
        self.run("apply", "--filename=-", given="\n---\n".join(texts))

    def can_i(self, verb: str, resource: str) -> bool:
        """Whether this user may do something in the namespace."""
        try:
            kind, _, part = resource.partition("/")
            return self.run("auth", "can-i", verb, kind, f"--subresource={part}").startswith("yes")
        except CommandFailed as error:  # it says so with a code, too
            if str(error).rstrip().endswith("no"):
                return False
            raise

    def pods(self, **labels: str) -> list[dict[str, Any]]:
        """Pods with these labels; `__` in a name stands for `/`, `_` for `-`."""
        named = {name.replace("__", "/").replace("_", "-"): value for name, value in labels.items()}
        return self.get("pods", "--selector", ",".join(f"{n}={v}" for n, v in named.items()))

    def about_to_go(self) -> list[str]:
        """The pods that are being deleted; those of a node that is away stay so until it is back."""
        return [pod["metadata"]["name"] for pod in self.get("pods") if "deletionTimestamp" in pod["metadata"]]

    def acting_as(self, name: str, *groups: str) -> Kube:
        """The same as another person, whom the login of a cluster would say to be in these groups."""
        everybody = ("system:authenticated", *groups)
        return replace(self, user=(f"--as={name}", *(f"--as-group={group}" for group in everybody)))


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod can do its work."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def _said(command: list[str], given: str | None, seconds: float, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, input=given, text=True, capture_output=True, timeout=seconds, env=environment, check=False
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(command[3:])}: {done.stderr[-3000:]}{done.stdout[-1000:]}")
    return done.stdout
