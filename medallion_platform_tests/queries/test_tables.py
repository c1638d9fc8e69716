"""Which version of a table is meant."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.queries.tables import NoSuchVersion, resolve_version


@pytest.mark.parametrize("version", [None, 0, 7])
@pytest.mark.failure("permanent")
def test_of_a_table_that_nobody_made_there_is_no_version_to_ask_for(
    tmp_path: Path, version: int | None
) -> None:
    with pytest.raises(NoSuchVersion, match=r"^silver\.dim has not been made yet$") as told:
        resolve_version(Lake(tmp_path), "silver.dim", version)
    assert (told.value.newest, told.value.table) == (-1, "silver.dim")


def test_a_version_that_is_not_there_is_told_with_the_newest(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.ensure("silver.dim", pl.DataFrame({"k": [1]}).to_arrow().schema, [])
    newest = lake.version("silver.dim")
    assert resolve_version(lake, "silver.dim") == newest
    with pytest.raises(NoSuchVersion, match=rf"no such version; its newest is {newest}$"):
        resolve_version(lake, "silver.dim", newest + 1)
