"""Partitions of tables as Dagster partitions, and the mappings between those of different tables."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import dagster as dg

from medallion_platform.orchestration.names import asset_key
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import Table, TimePartition, Upstream, daily
from medallion_platform.sources.source import Source


def partitions_definition(
    partition: TimePartition | None, first: date
) -> dg.TimeWindowPartitionsDefinition | None:
    """Days, or weeks from Monday, from `first` up to and including the current one."""
    if partition is None:
        return None
    if partition.grain == "week":
        # Dagster's first week is the first whole one; ours begins on the Monday before.
        monday = first - timedelta(days=first.weekday())
        return dg.WeeklyPartitionsDefinition(str(monday), day_offset=1, end_offset=1)
    return dg.DailyPartitionsDefinition(str(first), end_offset=1)


def source_partitions(source: Source) -> dg.TimeWindowPartitionsDefinition | None:
    """The days of a bronze table, if it is partitioned by day."""
    return partitions_definition(daily(source.partition) if source.partition else None, source.first_day)


def table_partitions(catalog: Catalog, name: str) -> dg.TimeWindowPartitionsDefinition | None:
    """The partitions of any table; None if it has none."""
    source = catalog.source_of.get(name)
    return (
        source_partitions(source)
        if source
        else partitions_definition(catalog.by_name[name].partition, catalog.origin(name).first_day)
    )


def unreported_partitions(
    on: dg.DagsterInstance, table: str, definition: dg.TimeWindowPartitionsDefinition | None, now: datetime
) -> set[str]:
    """The partitions, up to the current one, that Dagster shows as missing."""
    if definition is None:
        return set()
    with dg.partition_loading_context(now):
        return {*definition.get_partition_keys()} - on.get_materialized_partitions(asset_key(table))


def current_partition(definition: dg.TimeWindowPartitionsDefinition, now: datetime) -> str:
    """The partition that contains `now`; "" if the first one is in the future."""
    with dg.partition_loading_context(now):
        return definition.get_last_partition_key() or ""


def range_tags(first: object, last: object) -> dict[str, str]:
    """The tags of a run over the partitions from `first` to `last`, both included."""
    return {
        "dagster/asset_partition_range_start": str(first),
        "dagster/asset_partition_range_end": str(last),
    }


def partition_mapping(
    table: Table, upstream: object, upstream_partitioned: bool
) -> dg.PartitionMapping | None:
    """The upstream partitions that a partition is made from; None if Dagster's default is right."""
    if table.partition is None or not upstream_partitioned:
        return dg.AllPartitionMapping() if upstream_partitioned else None
    lookback_days = upstream.lookback_days if isinstance(upstream, Upstream) else 0
    if lookback_days:
        return dg.TimeWindowPartitionMapping(
            start_offset=-lookback_days, end_offset=0, allow_nonexistent_upstream_partitions=True
        )
    return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
