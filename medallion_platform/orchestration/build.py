"""One function that builds the code location from a catalog."""

from __future__ import annotations

import warnings

import dagster as dg

from medallion_platform.orchestration.assets import (
    bronze_asset,
    feature_asset,
    intake_job,
    table_asset,
)
from medallion_platform.orchestration.catch_up import catch_up_job
from medallion_platform.orchestration.event_log import take_batches_at_once
from medallion_platform.orchestration.lakehouse import Lakehouse, lakehouse_of, resources
from medallion_platform.orchestration.maintenance import maintenance_job, maintenance_schedule
from medallion_platform.orchestration.names import key_of, serving_of
from medallion_platform.orchestration.pools import sleep_while_waiting
from medallion_platform.orchestration.schedules import catch_up_by_the_hour
from medallion_platform.orchestration.sensors import catch_up_sensor, code_sensor, surge_sensor
from medallion_platform.orchestration.states import state_sensor
from medallion_platform.pipeline.catalog import Catalog


def build_defs(catalog: Catalog, lakehouse: Lakehouse | None = None) -> dg.Definitions:
    """Assets, checks, jobs and sensors of everything in the catalog, for Dagster to load.

    lakehouse: where tables, landing zone and features lie; by the settings of the environment unless given.

    Example:
        >>> from medallion_platform import Catalog, build_defs
        >>> defs = build_defs(Catalog(sources=(), tables=()))
        >>> [job.name for job in defs.jobs]
        ['intake', 'catch_up', 'maintenance']
    """
    if lakehouse is None:
        from medallion_platform.settings import Settings

        lakehouse = lakehouse_of(Settings(), catalog)
    features = catalog.features
    # Single-run backfills and freshness policies are marked beta in Dagster; one warning per asset
    # would hide what matters.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    sleep_while_waiting()
    take_batches_at_once()
    bronze = [bronze_asset(s, lakehouse) for s in catalog.sources]
    made = [table_asset(t, catalog, lakehouse) for t in catalog.in_order]
    published = [feature_asset(f, lakehouse, catalog.origin(f.table).domain) for f in features]
    intake = intake_job(catalog.sources)
    catch_up = catch_up_job(catalog, features)
    maintenance = maintenance_job(catalog)
    return dg.Definitions(
        assets=[*bronze, *made, *published],
        jobs=[intake, catch_up, maintenance],
        schedules=[catch_up_by_the_hour(catch_up), maintenance_schedule(maintenance)],
        resources=resources(lakehouse),
        executor=dg.in_process_executor,
        sensors=[
            catch_up_sensor(catalog, features, intake, catch_up),
            surge_sensor(catalog),
            code_sensor(catalog),
            state_sensor(catalog, {key_of(serving_of(view.view)): view.table for view in features}),
        ],
    )
