"""What Dagster's own tools say of the code location."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration.location import catalog, definitions_of
from medallion_platform.orchestration.names import asset_key
from medallion_platform_tests.command import REPOSITORY


@pytest.mark.parametrize(
    ("tool", "arguments", "verdict"),
    [
        ("dagster", ["definitions", "validate", "-m", "medallion_platform.definitions"], "passed validation"),
        ("dg", ["check", "defs"], "All definitions loaded successfully"),
    ],
)
def test_the_code_location_is_valid(tool: str, arguments: list[str], verdict: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    environment = {**os.environ, "MEDALLION_HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert verdict in done.stdout + done.stderr


def test_every_table_says_where_it_is_declared() -> None:
    graph = definitions_of(Settings()).resolve_asset_graph()
    for name, table in catalog.by_name.items():
        told = graph.get(asset_key(name)).metadata["dagster/code_references"]
        assert isinstance(told, dg.CodeReferencesMetadataValue)
        (found,) = told.code_references
        assert isinstance(found, dg.LocalFileCodeReference)
        lines = Path(found.file_path).read_text().splitlines()[(found.line_number or 1) - 1 :]
        start = next(line for line in lines if line.startswith("def "))
        assert start.startswith(f"def {table.transform.__name__}("), name
