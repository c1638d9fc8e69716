"""What a run works with, on record, so that it can be told what had changed when a later one failed."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import dagster as dg

from medallion_platform.orchestration.lakehouse_resource import Lakehouse

MADE_WITH = ".dagster/medallion_made_with"
"""The tag of a run with the settings and versions that it works with, for programs; the UI hides tags with
this beginning."""
_PACKAGES = ("medallion-platform", "dagster", "deltalake", "polars", "pyarrow", "pyspark")


def made_with_tag(lakehouse: Lakehouse) -> dict[str, str]:
    """The tag of a run of this process: settings that decide how work is done, by their variables, and the
    versions of packages. None of them can be a secret.
    """
    settings = {
        "MEDALLION_SPARK_MEMORY": lakehouse.spark_memory,
        "MEDALLION_SPARK_CORES": str(lakehouse.spark_cores or ""),
        "MEDALLION_MOST_MEMORY": lakehouse.most_memory,
    }
    return {MADE_WITH: json.dumps({**settings, **_versions()})}


def made_with(run: dg.DagsterRun | None) -> dict[str, str]:
    """What a run worked with; nothing of one that does not say, or is forgotten."""
    told: Any = json.loads((run.tags.get(MADE_WITH) if run else None) or "{}")
    return {str(name): str(value) for name, value in told.items()}


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):  # its code is there without being installed
            found[name] = version(name)
    return found
