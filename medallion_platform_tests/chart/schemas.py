"""What an API server accepts, by schemas alone: Kubernetes' own kinds, and those of operators."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.exceptions
from referencing import Registry, Resource

from medallion_platform_tests.command import REPOSITORY

from .rendering import Manifest

_OF_KUBERNETES = files("kubernetes_validate") / "kubernetes-json-schema" / "v1.33.0-local-strict"
"""They refuse unknown fields. The package's own `validate` would read their common part each time."""
CUSTOM = (
    Path(os.environ.get("MEDALLION_TEST_SCHEMAS") or REPOSITORY.parent / "shared" / "schemas") / "crds.tar.xz"
)
"""Schemas of custom resources, `crds/<group>/<kind>_<version>.json`, of datreeio/CRDs-catalog."""


class NoSchema(Exception):
    """Nothing here says what such a resource looks like."""


def why_wrong(manifest: Manifest) -> str:
    """Why an API server would refuse it; empty if it would not.

    Raises:
        NoSchema: no schema of its kind is here.
    """
    group, _, version = manifest["apiVersion"].rpartition("/")
    own = "." not in group or (group.endswith(".k8s.io") and group != "snapshot.storage.k8s.io")
    validator = (_of_kubernetes if own else _of_an_operator)(group, manifest["kind"].lower(), version)
    wrong = jsonschema.exceptions.best_match(validator.iter_errors(manifest))
    if wrong is None:
        return ""
    where = "/".join(map(str, wrong.absolute_path))
    return f"{manifest['kind']} {manifest['metadata']['name']}: {where}: {wrong.message}"


@cache
def _of_kubernetes(group: str, kind: str, version: str) -> jsonschema.Draft202012Validator:
    name = "-".join(filter(None, (kind, group.partition(".")[0], version)))
    schema = _OF_KUBERNETES / f"{name}.json"
    if not schema.is_file():
        raise NoSchema(f"Kubernetes has no {name}")
    return jsonschema.Draft202012Validator(json.loads(schema.read_text()), registry=_definitions())


@cache
def _definitions() -> Registry[Any]:
    read = json.loads((_OF_KUBERNETES / "_definitions.json").read_text())
    return Resource.from_contents(read) @ Registry()


@cache
def _of_an_operator(group: str, kind: str, version: str) -> jsonschema.Draft202012Validator:
    if not CUSTOM.exists():
        raise NoSchema(f"no schemas of custom resources at {CUSTOM}")
    name = f"crds/{group}/{kind}_{version}.json"
    try:
        return jsonschema.Draft202012Validator(_custom_schemas()[name])
    except KeyError:
        raise NoSchema(f"no {name} in {CUSTOM}") from None


@cache
def _custom_schemas() -> Mapping[str, Any]:
    with tarfile.open(CUSTOM) as archive:
        members = [(m.name.removeprefix("./"), archive.extractfile(m)) for m in archive if m.isfile()]
        return {name: json.load(file) for name, file in members if file and name.endswith(".json")}
