"""Builds Dagster's definitions from a catalog."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import dagster as dg

from medallion_platform.contracts import options
from medallion_platform.orchestration.assets import (
    bronze_asset,
    feature_asset,
    intake_job,
    table_asset,
)
from medallion_platform.orchestration.backups import backup_asset, backup_schedule
from medallion_platform.orchestration.catch_up import catch_up_job, published_features, start_spark_early
from medallion_platform.orchestration.drills import drills_asset, drills_schedule
from medallion_platform.orchestration.event_log import store_events_in_batches
from medallion_platform.orchestration.lakehouse_resource import Lakehouse, lakehouse_of
from medallion_platform.orchestration.lakehouse_resource import run_resources as resources_of
from medallion_platform.orchestration.maintenance_job import maintenance_job, maintenance_schedule
from medallion_platform.orchestration.notifications import channels_of, notify_sensor, rules_of
from medallion_platform.orchestration.ops import ops_assets, ops_checks
from medallion_platform.orchestration.pools import sleep_while_waiting
from medallion_platform.orchestration.schedules import catch_up_by_the_hour
from medallion_platform.orchestration.sensors import catch_up_sensor, code_sensor, surge_sensor
from medallion_platform.orchestration.states import served, state_sensor
from medallion_platform.orchestration.work import RUN_SPARK
from medallion_platform.pipeline.catalog import Catalog

if TYPE_CHECKING:
    from medallion_platform.spark.provider import SparkProvider


class _Object(Protocol):
    @property
    def name(self) -> str: ...


_Named = TypeVar("_Named", bound=_Object)


def build_defs(
    catalog: Catalog,
    lakehouse: Lakehouse | None = None,
    *,
    spark: SparkProvider | None = None,
    executor: dg.ExecutorDefinition | None = None,
    resources: Mapping[str, Any] | None = None,
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec] = (),
    asset_checks: Sequence[dg.AssetChecksDefinition] = (),
    jobs: Sequence[dg.JobDefinition] = (),
    schedules: Sequence[dg.ScheduleDefinition] = (),
    sensors: Sequence[dg.SensorDefinition] = (),
) -> dg.Definitions:
    """Assets, checks, jobs and sensors for everything in the catalog, together with your own.

    Your assets and checks are added. A resource, job, schedule or sensor with the name of one of the
    platform's replaces it; any other is added.

    lakehouse: where the data is; by default from the settings in the environment. spark: where Spark runs; by
    default on this machine. executor: for assets that are materialized by hand; by default one process with
    one JVM per run.

    Example:
        >>> from medallion_platform import Catalog, build_defs
        >>> defs = build_defs(Catalog(sources=(), tables=()))
        >>> [job.name for job in defs.jobs]
        ['intake', 'catch_up', 'maintenance']
    """
    from medallion_platform.installation.settings import Settings

    options.instance("build_defs: catalog", catalog, Catalog, "a catalog")
    # Single-run backfills and freshness policies are marked beta in Dagster; one warning per asset
    # would hide what matters.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    sleep_while_waiting()
    store_events_in_batches()
    settings = Settings()
    place = lakehouse or lakehouse_of(settings, catalog)
    place = place.on(spark) if spark else place
    if executor is None and RUN_SPARK in os.environ:
        # The run of this process needs it, and executors; meanwhile the rest of it is made ready. Where the
        # steps have processes of their own, it is these that need it.
        start_spark_early(place)
    features = published_features(catalog, place)
    bronze = [bronze_asset(s, place) for s in catalog.sources]
    made = [table_asset(t, catalog, place) for t in catalog.in_order]
    published = [feature_asset(f, place, catalog.origin(f.table).domain) for f in features]
    intake = intake_job(catalog.sources)
    catch_up = catch_up_job(catalog, features)
    maintenance = maintenance_job(catalog)
    tables = [*(s.table for s in catalog.sources), *(t.name for t in catalog.tables)]
    our_sensors = [
        catch_up_sensor(catalog, features, intake, catch_up),
        surge_sensor(catalog),
        code_sensor(catalog),
        state_sensor(catalog, served(features)),
    ]
    if channels := channels_of(settings):
        our_sensors.append(notify_sensor(channels, rules_of(settings, catalog, features)))
    backups = [backup_asset()] if place.backup else []
    drills = [drills_asset()] if catalog.file_sources else []  # of other sources there is nothing to copy
    return dg.Definitions(
        assets=[*bronze, *made, *published, *backups, *drills, *ops_assets(), *assets],
        asset_checks=[*ops_checks(), *asset_checks],
        jobs=_replace_by_name([intake, catch_up, maintenance], jobs),
        schedules=_replace_by_name(
            [
                catch_up_by_the_hour(catch_up),
                maintenance_schedule(maintenance),
                *([backup_schedule()] if backups else []),
                *([drills_schedule()] if drills else []),
            ],
            schedules,
        ),
        resources={**resources_of(place, tables), **(resources or {})},
        executor=executor or dg.in_process_executor,
        sensors=_replace_by_name(our_sensors, sensors),
    )


def _replace_by_name(ours: Sequence[_Named], theirs: Sequence[_Named]) -> list[_Named]:
    """Our objects without those whose name is in theirs, then theirs."""
    taken = {one.name for one in theirs}
    return [*(one for one in ours if one.name not in taken), *theirs]
