"""Repairs in a run: a damaged file that work on a table met, repaired and told to the ledger."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial

from medallion_platform.errors import MedallionError
from medallion_platform.healing.incident import Action, report_of_action
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.begin_run import begin_run
from medallion_platform.orchestration.failures import Context
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.progress import report_progress
from medallion_platform.orchestration.run_log_observer import RunLogObserver
from medallion_platform.orchestration.work import work_on
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.repair import Damage, Repaired, repair


def repair_for(
    context: Context,
    lakehouse: Lakehouse,
    catalog: Catalog,
    name: str,
    incident: str,
    damage: Damage,
    kept: Collection[str] = (),
) -> Repaired:
    """Repair what work on the table `name` met, and tell the ledger of it, also if it was taken back.

    incident: for which that work is tried again. kept: tables that a person took out of automation.

    Raises:
        DamagedFile, DamagedLog: it cannot be repaired; the text says what a person does.
        CommitConflict, NotAllowed: as of a refresh.
    """
    report_progress(name, f"repairing {damage.table}")
    context.log.warning(f"{damage}; it is repaired now")
    place = BackupPlace(lakehouse.backup) if lakehouse.backup else None
    run = begin_run(context, RunLogObserver(context.log))
    started = time.monotonic()
    mend = partial(repair, damage, catalog, lakehouse.lake, lakehouse.session, run, place, kept)
    done = work_on(context, lakehouse, name, mend)
    tell = context.log.error if done.undone else context.log.info
    tell(f"{name}: {done.what}")
    _tell_ledger(context, lakehouse.lake, name, incident, done, time.monotonic() - started)
    return done


def _tell_ledger(
    context: Context, lake: Lake, name: str, incident: str, done: Repaired, seconds: float
) -> None:
    """Report what was done; where the ledger cannot be written, the log of the run says it."""
    now, run_id = datetime.now(UTC), context.run.run_id
    what = (done.table, done.what, done.files, done.bytes, done.partitions)
    action = Action(now, run_id, *what, round(seconds, 3), done.undone)
    try:
        incidents.report(lake, [report_of_action(incident, name, action, f"run {run_id}")])
    except MedallionError as error:
        context.log.warning(f"what was repaired is not in the ledger: {error}")
