"""Partitions of tables as Dagster partitions, and the mappings between those of different tables."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import dagster as dg

from medallion_platform.orchestration.names import key_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import Table, TimePartition, Upstream, daily
from medallion_platform.sources.source import Source


def definition_of(partition: TimePartition | None, first: date) -> dg.TimeWindowPartitionsDefinition | None:
    """Days, or weeks from Monday, from `first` up to and including the current one."""
    if partition is None:
        return None
    if partition.grain == "week":
        # Dagster's first week is the first whole one; ours begins on the Monday before.
        monday = first - timedelta(days=first.weekday())
        return dg.WeeklyPartitionsDefinition(str(monday), day_offset=1, end_offset=1)
    return dg.DailyPartitionsDefinition(str(first), end_offset=1)


def of_source(source: Source) -> dg.TimeWindowPartitionsDefinition | None:
    """Days by event date where the bronze table is partitioned so."""
    return definition_of(daily(source.partition) if source.partition else None, source.first_day)


def of_table(catalog: Catalog, name: str) -> dg.TimeWindowPartitionsDefinition | None:
    """The partitions of any table; None where it has none."""
    source = catalog.source_of.get(name)
    return (
        of_source(source)
        if source
        else definition_of(catalog.by_name[name].partition, catalog.origin(name).first_day)
    )


def untold(
    on: dg.DagsterInstance, table: str, definition: dg.TimeWindowPartitionsDefinition | None, now: datetime
) -> set[str]:
    """The partitions, up to the current one, that Dagster takes for missing."""
    if definition is None:
        return set()
    with dg.partition_loading_context(now):
        return {*definition.get_partition_keys()} - on.get_materialized_partitions(key_of(table))


def current(definition: dg.TimeWindowPartitionsDefinition, now: datetime) -> str:
    """The partition that `now` lies in; "" where the first one is still to come."""
    with dg.partition_loading_context(now):
        return definition.get_last_partition_key() or ""


def range_tags(first: object, last: object) -> dict[str, str]:
    """What makes a run one over the partitions from `first` to `last`, both included."""
    return {
        "dagster/asset_partition_range_start": str(first),
        "dagster/asset_partition_range_end": str(last),
    }


def mapping(table: Table, upstream: object, upstream_partitioned: bool) -> dg.PartitionMapping | None:
    """Which upstream partitions a partition is made from; None where Dagster's default is right."""
    if table.partition is None or not upstream_partitioned:
        return dg.AllPartitionMapping() if upstream_partitioned else None
    lookback_days = upstream.lookback_days if isinstance(upstream, Upstream) else 0
    if lookback_days:
        return dg.TimeWindowPartitionMapping(
            start_offset=-lookback_days, end_offset=0, allow_nonexistent_upstream_partitions=True
        )
    return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
