"""One asset per table, one intake op per source: each calls one function of `pipeline`."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from medallion_platform.orchestration import checks, partitions, reports
from medallion_platform.orchestration.begin_run import begin_run
from medallion_platform.orchestration.event_log import log_partitions_in_bulk
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import asset_key, pool_name, serving_name
from medallion_platform.orchestration.progress import report_progress
from medallion_platform.orchestration.repairs import repair_for
from medallion_platform.orchestration.retries import OURS, only_attempt, repeat_what_passes
from medallion_platform.orchestration.run_log_observer import RunLogObserver
from medallion_platform.orchestration.work import work_on
from medallion_platform.orchestration.written_tables_tag import report_written_tables
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.features import Features
from medallion_platform.pipeline.freshness import FRESH_WITHIN
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.repair import repair_what_is_met
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Table
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from medallion_platform.pipeline.intake.result import IntakeResult


_BY_ITSELF = (
    "Made by the job `catch_up`, which the sensor `catch_up_sensor` starts once the Delta logs show that "
    "this is out of date: it needs no automation of its own."
)


class IntakeConfig(dg.Config):
    """How a bronze table is materialized when it is launched by hand."""

    parse_again: bool = False
    """Validate the stored records of the chosen partitions again under today's contract, instead of taking in
    what waits."""


class IntakeOpConfig(dg.Config):
    """What a run of the job `intake` does about one source."""

    held: bool = False
    """Leave out the source: it failed a moment ago, and its next try comes later."""
    repair: str = ""
    """The incident for which damaged files are repaired, "" where none are."""


class RefreshConfig(dg.Config):
    """How a table is refreshed when launched by hand."""

    rebuild: bool = False
    """Make the requested partitions anew even where they are up to date."""
    as_of: str | None = None
    """Read the upstream tables as they were at this instant (ISO 8601), until the next refresh."""


def table_asset(table: Table, catalog: Catalog, lakehouse: Lakehouse) -> dg.AssetsDefinition:
    """A silver or gold table: refreshed for the run's partitions, checked by its own counts."""
    key = asset_key(table.name)
    partition_columns = catalog.partition_columns
    origin = catalog.origin(table.name)
    deps = [
        dg.AssetDep(
            asset_key(u.table),
            partition_mapping=partitions.partition_mapping(table, u, partition_columns[u.table] is not None),
        )
        for u in {u.table: u for u in table.inputs.values()}.values()
    ]

    @dg.asset(
        key=key,
        deps=deps,
        group_name=_asset_group(origin.domain, table.layer),
        description=f"{table.description}\n\n{_BY_ITSELF}".strip(),
        kinds={"deltalake", "spark", table.layer},
        owners=[table.owner or default_owner(origin.domain)],
        tags={"layer": table.layer, "domain": origin.domain},
        metadata={
            **reports.definition_metadata(lakehouse.lake, table.name, table.contract),
            **reports.code_reference(table.transform),
        },
        partitions_def=partitions.partitions_definition(table.partition, origin.first_day),
        op_tags=OURS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=table.fresh_within),
        code_version=reports.code_version_text(table),
        pool=pool_name(table.name),
        check_specs=[
            *checks.check_specs(key, table.contract, blocking=True, drifts=table.partition is not None),
            checks.current_spec(key),
            checks.refreshed_spec(key),
            checks.inputs_spec(key),
        ],
    )
    def body(
        context: dg.AssetExecutionContext, config: RefreshConfig, lakehouse: Lakehouse
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        with only_attempt(context, table.name):
            lake = lakehouse.lake
            report_progress(table.name, "refreshing")
            refresh_table = partial(
                refresh,
                table,
                lake,
                lakehouse.session,
                begin_run(context, RunLogObserver(context.log)),
                partitions=_requested_partitions(context),
                rebuild=config.rebuild,
                as_of=datetime.fromisoformat(config.as_of).astimezone(UTC) if config.as_of else None,
                partition_columns=partition_columns,
            )
            make = partial(repeat_what_passes, refresh_table, context.log.warning)
            done = work_on(context, lakehouse, table.name, make)
            report_progress(table.name, done.reason)
            metadata = {
                **reports.table_metadata(
                    lake, table.contract, table.name, done.version, done.record, done.reason
                ),
                **reports.column_lineage(done.lineage),
            }
            context.log.info(f"{table.name}: {metadata['what_was_done']}")
            of = None
            if table.partition:
                done_so = str(metadata["what_was_done"])
                of = reports.partition_report(
                    lake, table.name, table.partition.column, done.version, done_so, done.record
                )
            return dg.MaterializeResult(
                asset_key=key,
                metadata=_metadata_of_event(context, metadata, of),
                check_results=[
                    *checks.check_results(lake, table.name, table.contract, partition_columns[table.name]),
                    checks.current_result(lake, table, partition_columns),
                    checks.refreshed_result(table.name),
                    checks.inputs_result(table.name, ()),
                ],
            )

    return body


def bronze_asset(source: Source, lakehouse: Lakehouse) -> dg.AssetsDefinition:
    """A bronze table as an asset; materializing it takes in what is waiting, like the intake job."""
    key = asset_key(source.table)

    @dg.asset(
        key=key,
        group_name=_asset_group(source.domain, "bronze"),
        description=f"{source.contract.description}\n\nSource `{source.name}`: {source.where}. To materialize"
        " it takes in what waits, as the job `intake` does, which the sensor `catch_up_sensor` starts. With"
        " `parse_again: true` in the launchpad the stored records of the chosen partitions are validated"
        " again under today's contract.",
        kinds={"deltalake", "polars", "bronze"},
        owners=[default_owner(source.domain)],
        tags={"layer": "bronze", "domain": source.domain},
        metadata=reports.definition_metadata(lakehouse.lake, source.table, source.contract),
        partitions_def=partitions.source_partitions(source),
        op_tags=OURS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_WITHIN),
        code_version=source.contract.fingerprint,
        pool=pool_name(source.table),
        check_specs=[
            *checks.check_specs(key, source.contract, blocking=False, drifts=False),
            checks.personal_spec(key),
            checks.refreshed_spec(key),
        ],
    )
    def body(
        context: dg.AssetExecutionContext, config: IntakeConfig, lakehouse: Lakehouse
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        with only_attempt(context, source.table):
            from medallion_platform.pipeline.intake.replay import parse_table_again

            lake, run = lakehouse.lake, begin_run(context)
            partitions = _requested_partitions(context)
            if config.parse_again:
                parse_again = partial(parse_table_again, source, lake, run, partitions)
                version, record = work_on(context, lakehouse, source.table, parse_again)
                reason = "parsed again" if record else "every stored record is as it was"
            else:
                taken, pieces = _take_in_source(source, lakehouse, run, context)
                reason = reports.intake_in_words(taken, pieces)
                version, record = taken.version, taken.record if taken.pieces else None
            metadata = reports.table_metadata(
                lake, source.contract, source.table, version, record, reason, source
            )
            context.log.info(f"{source.table}: {metadata['what_was_done']}")
            of = None
            if source.partition:
                of = reports.partition_report(
                    lake, source.table, source.partition, version, str(metadata["what_was_done"]), record
                )
                for partition in sorted(of.written.keys() - (partitions or set())):
                    # It got rows, though it was not asked for.
                    context.log_event(
                        dg.AssetMaterialization(key, partition=partition, metadata=of.metadata_of(partition))
                    )
            return dg.MaterializeResult(
                asset_key=key,
                metadata=_metadata_of_event(context, metadata, of),
                check_results=[
                    *checks.check_results(lake, source.table, source.contract),
                    checks.personal_result(lake, source.table, source.contract),
                    checks.refreshed_result(source.table),
                ],
            )

    return body


def feature_asset(view: Features, lakehouse: Lakehouse, domain: str) -> dg.AssetsDefinition:
    """The online store's copy of a gold table; materializing it publishes the newest version."""
    name = serving_name(view.view)
    key = asset_key(name)

    @dg.asset(
        key=key,
        deps=[dg.AssetDep(asset_key(view.table), partition_mapping=dg.AllPartitionMapping())],
        group_name=_asset_group(domain, "serving"),
        description=f"The newest row of each entity of `{view.table}`, in Feast's online store."
        f"\n\n{_BY_ITSELF}",
        kinds={"feast", "sqlite", "serving"},
        owners=[default_owner(domain)],
        tags={"layer": "serving", "domain": domain},
        metadata={
            "features": view.references,
            "feature_repo": lakehouse.feature_repo,
            "dagster/uri": lakehouse.feature_repo,
            "dagster/column_schema": reports.feature_columns(view),
        },
        op_tags=OURS,
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_WITHIN),
        pool=pool_name(name),
        check_specs=[checks.refreshed_spec(key), checks.published_spec(key)],
    )
    def body(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:  # type: ignore[type-arg]
        with only_attempt(context, name):
            from medallion_platform.pipeline.publish import publish
            from medallion_platform.serving.feature_repository import FeatureRepository, OnlineFeatures

            report_progress(name, "publishing")
            repository = FeatureRepository(Path(lakehouse.feature_repo), lakehouse.lake, (view,))
            run = begin_run(context)
            publish_view = partial(publish, OnlineFeatures(repository, view), lakehouse.lake, run)
            publish_now = partial(repeat_what_passes, publish_view, context.log.warning)
            done = work_on(context, lakehouse, name, publish_now)
            report_progress(name, done.reason)
            return dg.MaterializeResult(
                asset_key=key,
                metadata=reports.published_metadata(done),
                check_results=[
                    checks.refreshed_result(name),
                    checks.published_result(key, done.edition.version, lakehouse.lake.version(view.table)),
                ],
            )

    return body


def intake_op_name(source: Source) -> str:
    """The name of the op that takes in a source."""
    return "intake_" + source.name.replace(".", "_")


def intake_op(source: Source) -> dg.OpDefinition:
    """An op that takes in what is waiting for one source, and reports each partition with new rows."""

    @dg.op(
        name=intake_op_name(source),
        out=dg.Out(dg.Nothing),
        description=f"Takes what is new in `{source.name}` into `{source.table}`.",
        pool=pool_name(source.table),
        tags={"domain": source.domain, **OURS},
    )
    def body(
        context: dg.OpExecutionContext, config: IntakeOpConfig, lakehouse: Lakehouse
    ) -> Iterator[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation]:
        with only_attempt(context, source.table):
            if config.held:
                why = "since its intake failed; the next try comes later"
                context.log.info(f"{source.table}: left out, {why}")
                return
            lake, run = lakehouse.lake, begin_run(context)
            take_in = partial(_take_in_source, source, lakehouse, run, context)
            if config.repair:
                alone = Catalog((source,), ())
                mend = partial(repair_for, context, lakehouse, alone, source.table, config.repair)
                taken, pieces = repair_what_is_met(take_in, mend)
            else:
                taken, pieces = take_in()
            words = reports.intake_in_words(taken, pieces)
            context.log.info(f"{source.table}: {words}, {taken.counts.outcome}")
            if taken.pieces:
                report_written_tables(context.instance, context.run.run_id, [source.table])
                untold = partitions.unreported_partitions(
                    context.instance, source.table, partitions.source_partitions(source), run.at
                )
                yield from log_partitions_in_bulk(
                    context, reports.intake_events(lake, source, taken, pieces, untold)
                )

    return body


def _take_in_source(
    source: Source,
    lakehouse: Lakehouse,
    run: Run,
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
) -> "tuple[IntakeResult, str]":
    """Take in what waits for a source; gives also what its pieces are called."""
    from medallion_platform.orchestration.intakes import look_at_arrivals, take_in_arrivals

    report_progress(source.table, "taking in what arrived")
    arrived = look_at_arrivals(source, lakehouse, run)
    take_in = partial(take_in_arrivals, arrived, lakehouse, run)
    taken = work_on(context, lakehouse, source.table, take_in)
    report_progress(source.table, reports.intake_in_words(taken, arrived.pieces))
    for note in taken.notes:
        context.log.info(note)
    return taken, arrived.pieces


def intake_job(sources: tuple[Source, ...]) -> dg.JobDefinition:
    """One job for all sources; a sensor or the command line runs all of it or one op."""
    ops = [intake_op(source) for source in sources]

    @dg.graph(name="intake", description="Take in the files that wait in the landing zone.")
    def graph() -> None:
        for op in ops:
            op()

    return graph.to_job(executor_def=dg.in_process_executor)


def _requested_partitions(context: dg.AssetExecutionContext) -> set[str] | None:
    """The partitions that this run is for; None if the asset has no partitions."""
    if not (context.has_partition_key or context.has_partition_key_range):
        return None
    return set(context.partition_keys)


def _asset_group(domain: str, layer: str) -> str:
    """The group of an asset in the graph, which labels a node only with the end of its key."""
    return f"{domain}_{layer}"


def default_owner(domain: str) -> str:
    """The owner of assets without a declared owner."""
    return f"team:{domain}"


def _metadata_of_event(
    context: dg.AssetExecutionContext, told: Mapping[str, Any], of: reports.PartitionReport | None
) -> Mapping[str, Any]:
    """The metadata of the run's event; partitions get their own metadata, the last one gets both."""
    requested = sorted(_requested_partitions(context) or ())
    if of is None or not requested:
        return told
    for name in requested:
        own = {**of.metadata_of(name), **(told if name == requested[-1] else {})}
        context.add_asset_metadata(own, partition_key=name)
    return {}
