"""What a start pays for: import-linter knows the arrows, this looks at what is really imported."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "spared"),
    [
        (
            "medallion_platform.cli",
            {"dagster", "fastavro", "feast", "pandas", "polars", "pyarrow", "pydantic", "pyspark"},
        ),
        ("medallion_platform.definitions", {"feast"}),  # a contract is a pandera.pyspark model
        ("medallion_platform.installation.local_spark", {"dagster", "pydantic", "pyspark"}),
        (
            "medallion_platform.pipeline.intake.polars_engine",
            {"dagster", "fastavro", "feast", "httpx", "pyspark"},
        ),
    ],
)
def test_heavy_imports_wait_until_they_are_needed(module: str, spared: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert spared & set(done.stdout.split()) == set()
