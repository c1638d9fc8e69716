"""One asset per table, one intake op per source: each calls one function of `pipeline`."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from medallion_platform.orchestration import checks, partitions, reports
from medallion_platform.orchestration.event_log import in_bulk
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.orchestration.names import key_of, pool_of, serving_of
from medallion_platform.orchestration.progress import tell
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.features import Features
from medallion_platform.pipeline.freshness import FRESH_WITHIN
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Table
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from medallion_platform.pipeline.intake.result import IntakeResult


class IntakeConfig(dg.Config):
    """What a bronze table is to do when launched by hand."""

    parse_again: bool = False
    """Validate the stored records of the chosen partitions again under today's contract, instead of taking in
    what waits."""


class RefreshConfig(dg.Config):
    """How a table is refreshed when launched by hand."""

    rebuild: bool = False
    """Make the requested partitions anew even where they are up to date."""
    as_of: str | None = None
    """Read the upstream tables as they were at this instant (ISO 8601), until the next refresh."""


def table_asset(table: Table, catalog: Catalog, lakehouse: Lakehouse) -> dg.AssetsDefinition:
    """A silver or gold table: refreshed for the run's partitions, checked by its own counts."""
    key = key_of(table.name)
    partition_columns = catalog.partition_columns
    origin = catalog.origin(table.name)
    deps = [
        dg.AssetDep(
            key_of(u.table),
            partition_mapping=partitions.mapping(table, u, partition_columns[u.table] is not None),
        )
        for u in {u.table: u for u in table.inputs.values()}.values()
    ]

    @dg.asset(
        key=key,
        deps=deps,
        group_name=_group(origin.domain, table.layer),
        description=table.description,
        kinds={"deltalake", "spark", table.layer},
        owners=[table.owner or _team(origin.domain)],
        tags={"layer": table.layer, "domain": origin.domain},
        metadata={
            **reports.definition_metadata(lakehouse.lake, table.name, table.contract),
            **reports.code_reference(table.transform),
        },
        partitions_def=partitions.definition_of(table.partition, origin.first_day),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=table.fresh_within),
        code_version=reports.code_of(table),
        pool=pool_of(table.name),
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
        lake = lakehouse.lake
        tell(table.name, "refreshing")
        done = refresh(
            table,
            lake,
            lakehouse.session,
            Run(context.run.run_id, datetime.now(UTC)),
            partitions=_requested(context),
            rebuild=config.rebuild,
            as_of=datetime.fromisoformat(config.as_of).astimezone(UTC) if config.as_of else None,
            partition_columns=partition_columns,
        )
        tell(table.name, done.reason)
        told = {
            **reports.metadata(lake, table.contract, table.name, done.version, done.record, done.reason),
            **reports.column_lineage(done.lineage),
        }
        context.log.info(f"{table.name}: {told['what_was_done']}")
        of = None
        if table.partition:
            done_so = told["what_was_done"]
            of = reports.of_partitions(
                lake, table.name, table.partition.column, done.version, done_so, done.record
            )
        return dg.MaterializeResult(
            asset_key=key,
            metadata=_told(context, told, of),
            check_results=[
                *checks.check_results(lake, table.name, table.contract, partition_columns[table.name]),
                checks.current_result(lake, table, partition_columns),
                checks.refreshed(table.name),
                checks.inputs(table.name, ()),
            ],
        )

    return body


def bronze_asset(source: Source, lakehouse: Lakehouse) -> dg.AssetsDefinition:
    """A bronze table as an asset: to materialize it is to take in what waits, as the intake job does."""
    key = key_of(source.table)

    @dg.asset(
        key=key,
        group_name=_group(source.domain, "bronze"),
        description=f"{source.contract.description}\n\nSource `{source.name}`: {source.where}. To materialize"
        " it takes in what waits, as the intake job does by itself. With `parse_again: true` in the launchpad"
        " the stored records of the chosen partitions are validated again under today's contract.",
        kinds={"deltalake", "polars", "bronze"},
        owners=[_team(source.domain)],
        tags={"layer": "bronze", "domain": source.domain},
        metadata=reports.definition_metadata(lakehouse.lake, source.table, source.contract),
        partitions_def=partitions.of_source(source),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_WITHIN),
        code_version=source.contract.fingerprint,
        pool=pool_of(source.table),
        check_specs=[
            *checks.check_specs(key, source.contract, blocking=False, drifts=False),
            checks.personal_spec(key),
        ],
    )
    def body(
        context: dg.AssetExecutionContext, config: IntakeConfig, lakehouse: Lakehouse
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from medallion_platform.pipeline.intake.replay import reparse

        lake, run = lakehouse.lake, Run(context.run.run_id, datetime.now(UTC))
        partitions = _requested(context)
        if config.parse_again:
            version, record = reparse(source, lake, run, partitions)
            reason = "parsed again" if record else "every stored record is as it was"
        else:
            taken, pieces = _take_in(source, lakehouse, run, context.log)
            reason = reports.taken_in_words(taken, pieces)
            version, record = taken.version, taken.record if taken.pieces else None
        told = reports.metadata(lake, source.contract, source.table, version, record, reason, source)
        context.log.info(f"{source.table}: {told['what_was_done']}")
        of = None
        if source.partition:
            of = reports.of_partitions(
                lake, source.table, source.partition, version, told["what_was_done"], record
            )
            for partition in sorted(of.written.keys() - (partitions or set())):
                # It got rows, though it was not asked for.
                context.log_event(
                    dg.AssetMaterialization(key, partition=partition, metadata=of.told(partition))
                )
        return dg.MaterializeResult(
            asset_key=key,
            metadata=_told(context, told, of),
            check_results=[
                *checks.check_results(lake, source.table, source.contract),
                checks.personal_result(lake, source.table, source.contract),
            ],
        )

    return body


def feature_asset(view: Features, lakehouse: Lakehouse, domain: str) -> dg.AssetsDefinition:
    """The online store's copy of a gold table, brought up to its newest version."""
    name = serving_of(view.view)
    key = key_of(name)

    @dg.asset(
        key=key,
        deps=[dg.AssetDep(key_of(view.table), partition_mapping=dg.AllPartitionMapping())],
        group_name=_group(domain, "serving"),
        description=f"The newest row of each entity of `{view.table}`, in Feast's online store.",
        kinds={"feast", "sqlite", "serving"},
        owners=[_team(domain)],
        tags={"layer": "serving", "domain": domain},
        metadata={
            "features": view.references,
            "feature_repo": lakehouse.feature_repo,
            "dagster/uri": lakehouse.feature_repo,
            "dagster/column_schema": reports.feature_columns(view),
        },
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_WITHIN),
        pool=pool_of(name),
        check_specs=[checks.refreshed_spec(key), checks.published_spec(key)],
    )
    def body(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from medallion_platform.pipeline.publish import publish
        from medallion_platform.serving.features import FeatureRepository, OnlineFeatures

        tell(name, "publishing")
        repository = FeatureRepository(Path(lakehouse.feature_repo), lakehouse.lake, (view,))
        run = Run(context.run.run_id, datetime.now(UTC))
        done = publish(OnlineFeatures(repository, view), lakehouse.lake, run)
        tell(name, done.reason)
        return dg.MaterializeResult(
            asset_key=key,
            metadata=reports.published_metadata(done),
            check_results=[
                checks.refreshed(name),
                checks.published(key, done.edition.version, lakehouse.lake.version(view.table)),
            ],
        )

    return body


def op_of(source: Source) -> str:
    """What the op is called that takes a source in."""
    return "intake_" + source.name.replace(".", "_")


def intake_op(source: Source) -> dg.OpDefinition:
    """Takes in what waits for one source, and reports each partition that got rows."""

    @dg.op(
        name=op_of(source),
        out=dg.Out(dg.Nothing),
        description=f"Takes what is new in `{source.name}` into `{source.table}`.",
        pool=pool_of(source.table),
        tags={"domain": source.domain},
    )
    def body(
        context: dg.OpExecutionContext, lakehouse: Lakehouse
    ) -> Iterator[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation]:
        lake, run = lakehouse.lake, Run(context.run.run_id, datetime.now(UTC))
        taken, pieces = _take_in(source, lakehouse, run, context.log)
        words = reports.taken_in_words(taken, pieces)
        context.log.info(f"{source.table}: {words}, {taken.counts.written} written to the table")
        if taken.pieces:
            untold = partitions.untold(context.instance, source.table, partitions.of_source(source), run.at)
            yield from in_bulk(context, reports.intake_events(lake, source, taken, pieces, untold))

    return body


def _take_in(
    source: Source, lakehouse: Lakehouse, run: Run, log: dg.DagsterLogManager
) -> "tuple[IntakeResult, str]":
    """Take in what waits for a source; gives also what its pieces are called."""
    from medallion_platform.orchestration.arrivals import arrivals_of, take_in

    tell(source.table, "taking in what arrived")
    arrived = arrivals_of(source, lakehouse, run)
    taken = take_in(arrived, lakehouse, run)
    tell(source.table, reports.taken_in_words(taken, arrived.pieces))
    for note in taken.notes:
        log.info(note)
    return taken, arrived.pieces


def intake_job(sources: tuple[Source, ...]) -> dg.JobDefinition:
    """One job for all sources; a sensor or the command line runs all of it or one op."""
    ops = [intake_op(source) for source in sources]

    @dg.graph(name="intake", description="Take in the files that wait in the landing zone.")
    def graph() -> None:
        for op in ops:
            op()

    return graph.to_job(executor_def=dg.in_process_executor)


def _requested(context: dg.AssetExecutionContext) -> set[str] | None:
    """The partitions that this run is for; None where the asset has none."""
    if not (context.has_partition_key or context.has_partition_key_range):
        return None
    return set(context.partition_keys)


def _group(domain: str, layer: str) -> str:
    """The box that an asset is drawn in: the graph names a node by the end of its key alone."""
    return f"{domain}_{layer}"


def _team(domain: str) -> str:
    """Who owns what nobody is named for."""
    return f"team:{domain}"


def _told(
    context: dg.AssetExecutionContext, told: Mapping[str, Any], of: reports.PartitionReport | None
) -> Mapping[str, Any]:
    """The metadata of the run's one event; where it has partitions, each gets its own, the last one both."""
    requested = sorted(_requested(context) or ())
    if of is None or not requested:
        return told
    for name in requested:
        own = {**of.told(name), **(told if name == requested[-1] else {})}
        context.add_asset_metadata(own, partition_key=name)
    return {}
