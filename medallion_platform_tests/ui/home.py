"""Make a home with the sample in bronze, and in silver what `gold.daily_user_metrics` is made from.

Gold is left to the mouse. A process of its own, since Spark lives as long as the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.location import catalog, definitions_of, lakehouse_of
from medallion_sample.sample import write_sample

WANTED = {"silver.users_history", "silver.regions_history", "silver.events", "silver.departments"}


def main(home: Path) -> None:
    settings = Settings(home=home).model_copy(update={"settle_seconds": 0.0})
    lakehouse, defs, outcome = lakehouse_of(settings), definitions_of(settings), runs.Outcome()
    write_sample(settings.landing)
    with runs.open_instance(settings.dagster_home) as on:
        runs.start_spark_early(lakehouse)
        runs._execute_job(defs.resolve_job_def("intake"), on, outcome, {})
        unwanted = {*catalog.by_name, *(f"serving.{f.view}" for f in catalog.features)} - WANTED
        runs._run_catch_up(defs, on, outcome, leave=unwanted)
    if outcome.failed:
        sys.exit(f"no home to test with: {outcome.failed}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
