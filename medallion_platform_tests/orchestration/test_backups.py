"""The backup asset: what it makes, and whom it tells."""

from pathlib import Path

import dagster as dg
import pytest

from medallion_platform.kubernetes.own_pod import BACKUP
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.orchestration import backups, runs
from medallion_platform.orchestration.backups import backup_asset
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform_tests.lakehouse.small_lake import SmallLake


@pytest.mark.parametrize("refused", [False, True])
def test_a_backup_tells_its_time_on_its_pod_and_stands_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    told: dict[str, str] = {}

    def annotate(name: str, text: str) -> None:
        if refused:
            raise PermissionError("403")
        told[name] = text

    monkeypatch.setattr(backups, "annotate_own_pod", annotate)
    place = BackupPlace(str(tmp_path / "backups"))
    root = str(tmp_path / "lake")
    SmallLake(root).round()
    lakehouse = Lakehouse(lake_root=root, landing="", feature_repo="", backup=str(tmp_path / "backups"))
    with runs.open_instance(tmp_path / "dagster") as on:
        assert dg.materialize([backup_asset()], instance=on, resources={"lakehouse": lakehouse}).success
    newest = place.newest()
    assert newest
    assert told == ({} if refused else {BACKUP: newest.at.isoformat()})


def test_a_backup_of_a_damaged_lake_names_the_table_on_its_page(tmp_path: Path) -> None:
    small = SmallLake(str(tmp_path / "lake"))
    small.round()
    lakehouse = Lakehouse(
        lake_root=str(tmp_path / "lake"), landing="", feature_repo="", backup=str(tmp_path / "backups")
    )

    def made(on: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
        done = dg.materialize(
            [backup_asset()], instance=on, resources={"lakehouse": lakehouse}, raise_on_error=False
        )
        (check,) = done.get_asset_check_evaluations()
        assert done.success == check.passed
        assert done.get_asset_materialization_events(), "it was made all the same"
        return check

    with runs.open_instance(tmp_path / "dagster") as on:
        assert made(on).passed
        next(Path(small.lake.path("silver.orders")).rglob("*.parquet")).unlink()
        check = made(on)
    assert check.check_name == "nothing_is_damaged"
    assert not check.passed
    assert check.metadata.keys() == {"silver.orders"}
