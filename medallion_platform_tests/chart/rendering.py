"""Charts as a cluster would be given them: rendered by helm, without any cluster."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from medallion_platform_tests.cluster.tools import NoTool, helm
from medallion_platform_tests.command import REPOSITORY

Manifest = dict[str, Any]

VALUES = REPOSITORY / "helm-values"
CHART = VALUES / "medallion"
RELEASE, NAMESPACE = "lakehouse", "data"
"""Neither has a name that a template could have by itself."""
REQUIRED = {
    "lake": "s3://bucket/lake",
    "landing": "s3://bucket/landing",
    "postgres": {"host": "postgres.databases"},
}


class Refused(Exception):
    """Helm's reason for rendering nothing."""


def render(values: Mapping[str, Any] | None = None, *files: Path) -> list[Manifest]:
    """The chart's manifests; values: beside those without which there is no installation.

    Raises:
        Refused: helm does not take the values.
    """
    return _rendered(json.dumps(merged(REQUIRED, values or {})), files)


def lack(what: str) -> NoReturn:
    """Skip a test for what this machine has not; in CI, where everything is there, it has failed."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As helm merges values."""
    both = dict(below)
    for name, value in above.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


@cache
def _rendered(values: str, files: tuple[Path, ...]) -> list[Manifest]:
    try:
        program = helm()
    except NoTool as error:
        lack(str(error))
    command = [str(program), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", "-"]
    command += [argument for file in files for argument in ("--values", str(file))]
    done = subprocess.run(command, input=values, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Refused(done.stderr)
    return list(documents(done.stdout))


def documents(text: str) -> Iterator[Manifest]:
    """The manifests of a YAML text."""
    yield from (document for document in yaml.safe_load_all(text) if document)


def the(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one with this kind and name, which begins with the release's."""
    (found,) = (m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, f"{RELEASE}-{name}"))
    return found


def dagster_yaml(manifests: list[Manifest]) -> dict[str, Any]:
    """The instance of Dagster that the chart describes."""
    return yaml.safe_load(the(manifests, "ConfigMap", "dagster")["data"]["dagster.yaml"])
