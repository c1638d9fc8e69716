"""The schedules."""

import dagster as dg


def catch_up_by_the_hour(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Refresh everything that is out of date once an hour; off by default."""
    return dg.ScheduleDefinition(
        name="catch_up_by_the_hour",
        job=job,
        cron_schedule="5 * * * *",
        description="Off, since `catch_up_sensor` does the same within seconds. For who switches "
        "the sensor off, because rows are taken in by `medallion stream`, or to refresh less often.",
    )
