"""Back up and restore an installation: the lake, with Dagster's own storage and Feast's registry.

What is downstream of all is read first: Dagster may know less than the lake holds, which its sensors make up
for, and never more.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_fixed

from medallion_platform.errors import ErrorChain, Kind
from medallion_platform.kubernetes.own_pod import BACKUP as BACKED_UP
from medallion_platform.kubernetes.own_pod import annotate_own_pod
from medallion_platform.lakehouse.backup import BackedUp, back_up
from medallion_platform.lakehouse.backup_place import Backup, BackupName, BackupPlace, KeptFile
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.restore import RestoredTable, is_begun, restore_lake
from medallion_platform.orchestration.failures import TableFailure, report_failure
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import BACK_UP, BACKUP, OPS
from medallion_platform.orchestration.retries import OURS, only_attempt
from medallion_platform.serving.feature_repository import registry_file

FEATURES = "features"
"""What Feast's files are in a backup."""
FRESH_WITHIN = timedelta(hours=8)
"""How old the newest backup may be: after that, one was missed."""
WHOLE = dg.AssetCheckKey(dg.AssetKey(BACKUP), "nothing_is_damaged")
_EVERY_SIX_HOURS = "0 */6 * * *"
_ATTEMPTS, _PAUSE_SECONDS = 4, 60


def back_up_installation(
    on: dg.DagsterInstance, lake: Lake, feature_repo: Path, place: BackupPlace
) -> BackedUp:
    """Back up the lake, what Dagster knows, and Feast's registry where it is a file.

    Raises:
        BadPlace: the place shares a folder with the lake.
        NoConsistentCut: tables do not fit together.
        Unusable: the place cannot be reached.
    """
    # Here, and not by whoever loads the definitions: with SQLAlchemy it takes a third of that time.
    from medallion_platform.orchestration.dagster_storage import DAGSTER, save_storage

    at = datetime.now(UTC).replace(microsecond=0)
    last = place.newest()
    held = last.beside.get(DAGSTER, []) if last else []
    beside = {DAGSTER: save_storage(on, place, held), FEATURES: _save_features(feature_repo, place)}
    return back_up(lake, place, at, beside)


def restore_installation(
    on: dg.DagsterInstance,
    root: str,
    feature_repo: Path,
    place: BackupPlace,
    name: BackupName,
    backup: Backup,
) -> list[RestoredTable]:
    """Restore all of it into an installation that has nothing yet; killed and repeated, it continues.

    Raises:
        CannotRestore: the lake is not empty, or the backup lacks something.
        StorageNotRestored: Dagster's storage is not empty, or of another kind or version.
        DamagedBackup: a file of the backup is missing or damaged.
    """
    from medallion_platform.orchestration.dagster_storage import DAGSTER, refuse_storage, restore_storage

    storage = backup.beside.get(DAGSTER, [])
    if not is_begun(root, name):
        refuse_storage(on, storage)

    def beside() -> None:
        restore_storage(on, place, storage)
        for file in backup.beside.get(FEATURES, []):
            feature_repo.mkdir(parents=True, exist_ok=True)
            registry_file(feature_repo).write_bytes(place.content(file))

    return restore_lake(place, name, backup, root, beside)


def _save_features(feature_repo: Path, place: BackupPlace) -> list[KeptFile]:
    """Feast's registry; the values that are online are published again from gold."""
    file = registry_file(feature_repo)
    return [place.keep(FEATURES, file.name, file.read_bytes())] if file.exists() else []


def backup_asset() -> dg.AssetsDefinition:
    """The newest backup as an asset, on whose page its age and sizes are seen."""

    @dg.asset(
        name=BACKUP,
        group_name=OPS,
        pool=BACKUP,
        op_tags=OURS,
        description="The lake, Dagster's storage and Feast's registry, at the place that MEDALLION_BACKUP "
        "names. Every six hours; kept for seven days. `medallion restore` brings it back.\n\n"
        "Fresh while one was made in the last eight hours.",
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_WITHIN),
        check_specs=[
            dg.AssetCheckSpec(
                WHOLE.name,
                asset=WHOLE.asset_key,
                description="No file of the lake was damaged or missing as the last backup was made.",
            )
        ],
    )
    def body(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> Iterator[dg.MaterializeResult[Any]]:
        with only_attempt(context, BACKUP):
            done = _back_up_patiently(context, lakehouse)
            _tell_supervisor(context, done)
            yield dg.MaterializeResult(metadata=figures(done), check_results=[_whole_result(done)])
            if done.damaged:
                damage = TableFailure("\n".join(sentences(done)), ErrorChain(Kind.CORRUPT))
                raise report_failure(context, {BACKUP: damage})

    return body


def _whole_result(done: BackedUp) -> dg.AssetCheckResult:
    """Whether a backup has all of the lake, and of which tables it lacks files."""
    told = {table: "\n".join(texts.values()) for table, texts in done.damaged.items()}
    return dg.AssetCheckResult(check_name=WHOLE.name, passed=not told, metadata=told)


def _back_up_patiently(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> BackedUp:
    """The backup, tried again where it fails: nobody asks for another one before its next time."""

    def told(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        context.log.warning(f"the backup failed and is tried again in {_PAUSE_SECONDS} s: {error}")

    patient = Retrying(
        stop=stop_after_attempt(_ATTEMPTS), wait=wait_fixed(_PAUSE_SECONDS), before_sleep=told, reraise=True
    )
    lake, place = lakehouse.lake, BackupPlace(lakehouse.backup)
    return patient(back_up_installation, context.instance, lake, Path(lakehouse.feature_repo), place)


def _tell_supervisor(context: dg.AssetExecutionContext, done: BackedUp) -> None:
    """Write the time of the backup on this run's pod: who serves it as a metric cannot read the backups."""
    try:
        annotate_own_pod(BACKED_UP, done.backup.at.isoformat())
    except Exception as error:  # of the API server; the backup is made all the same
        context.log.warning(f"the time of the backup is not told to the supervisor: {error}")


def backup_schedule() -> dg.ScheduleDefinition:
    """Every six hours."""
    return dg.ScheduleDefinition(
        name="backup_schedule",
        job=dg.define_asset_job(BACK_UP, selection=[BACKUP]),
        cron_schedule=_EVERY_SIX_HOURS,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every six hours: copies what is new to the place that MEDALLION_BACKUP names.",
    )


def figures(done: BackedUp) -> dict[str, str | int | float]:
    """What a backup was, for people and plots."""
    backup = done.backup
    return {
        "time": backup.at.isoformat().replace("+00:00", "Z"),
        "tables": len(backup.tables),
        "rows": backup.rows,
        "files": backup.files,
        "bytes": backup.bytes,
        "copied_files": backup.copied_files,
        "copied_bytes": backup.copied_bytes,
        "damaged_files": sum(map(len, done.damaged.values())),
        "deleted_backups": done.pruned,
        "seconds": backup.seconds,
    }


def sentences(done: BackedUp) -> Sequence[str]:
    """What is damaged in the lake, and what to do."""
    return [text for texts in done.damaged.values() for text in texts.values()]
