"""What runs by the clock: gold every hour, features every night."""

from datetime import timedelta

import dagster as dg

from medallion_platform.orchestration.names import key_of
from medallion_platform.orchestration.partitions import range_tags
from medallion_platform.pipeline.catalog import Catalog


def gold_by_the_hour(catalog: Catalog) -> list[dg.ScheduleDefinition]:
    """Refresh today's and yesterday's gold, whether or not an upstream change was noticed.

    None where no gold table is daily.

    Automation does this within a minute of a change; the schedule is for installations that
    switch it off. A refresh of what is up to date costs a look at the logs.
    """
    daily = [t for t in catalog.in_order if t.layer == "gold" and t.unit and t.unit.grain == "day"]
    if not daily:
        return []
    job = dg.define_asset_job(
        "gold_of_the_day",
        selection=[key_of(t.name) for t in daily],
        description="Refresh the daily gold tables.",
    )

    @dg.schedule(
        job=job,
        cron_schedule="5 * * * *",
        name="gold_by_the_hour",
        description="Refresh today's and yesterday's gold; for installations without the automation.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        """Today and yesterday: events come late."""
        today = context.scheduled_execution_time.date()
        return dg.RunRequest(
            run_key=context.scheduled_execution_time.isoformat(),
            tags=range_tags(today - timedelta(days=1), today),
        )

    return [schedule]


def features_by_night() -> dg.ScheduleDefinition:
    """Publish features at half past midnight, when the features of the day before are known."""
    job = dg.define_asset_job(
        "publish_features",
        selection=dg.AssetSelection.key_prefixes("serving"),
        description="Bring the online feature store up to date with gold.",
    )
    return dg.ScheduleDefinition(
        name="features_by_night",
        job=job,
        cron_schedule="30 0 * * *",
        description="Publish features when those of the day before are known.",
    )
