"""The sensors: what arrived, what is out of date, a surge of dead letters, changed code."""

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg

from medallion_platform.errors import MedallionError
from medallion_platform.healing.decide import Held
from medallion_platform.kubernetes.shape import needs_own_run
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.orchestration import checks
from medallion_platform.orchestration.assets import intake_op_name
from medallion_platform.orchestration.catch_up import UNFINISHED
from medallion_platform.orchestration.healing import Memory, decide_and_record
from medallion_platform.orchestration.hung_runs import Silences, end_hung_runs
from medallion_platform.orchestration.intakes import waiting_arrivals
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.memory_reports import keep_kills
from medallion_platform.orchestration.names import (
    BRING_UP,
    CATCH_UP,
    CATCH_UP_SENSOR,
    INTAKE,
    asset_key,
    pool_name,
)
from medallion_platform.orchestration.needs import Published, are_read, limits_of, publish_needs
from medallion_platform.orchestration.pools import close_dead_runs
from medallion_platform.orchestration.retries import NEVER_AGAIN
from medallion_platform.orchestration.wanted import digest_of_texts, wanted_now
from medallion_platform.pipeline.answer_cache import AnswerCache
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.code import changed_files, loaded_files
from medallion_platform.pipeline.features import Features
from medallion_platform.pipeline.need import needs_of_tables
from medallion_platform.pipeline.out_of_date import made_by_other_code, out_of_date_tables
from medallion_platform.pipeline.refresh.plan import code_version
from medallion_platform.queries import findings
from medallion_platform.sources.source import Source

_LOG = logging.getLogger(__name__)
ONLY_TAG = "medallion/only"
"""The tag of a run of `catch_up` for one table, which it names."""
_LOOK_SECONDS = 5
_RELOAD = (
    "Runs use the new code, but nothing is made anew because of it, and no table that its breaker leaves out "
    "is tried, before Dagster has loaded it: Deployment, Reload in the UI, or start `medallion dev` anew"
)


def catch_up_sensor(
    catalog: Catalog, features: Sequence[Features], intake: dg.JobDefinition, catch_up: dg.JobDefinition
) -> dg.SensorDefinition:
    """Take in what is waiting, and refresh what is out of date, from the state of the sources and Delta logs.

    An intake and the following run are requested together, so that the process and JVM of the second start
    while the first one works. Where runs are pods, the second is requested once the first one has ended: its
    size follows from what that brought.
    """

    cache = AnswerCache()
    published: Published | None = None
    told: set[str] = set()
    silences: Silences = {}
    loaded = loaded_files()
    bronze = {source.table for source in catalog.sources}

    @dg.sensor(
        name=CATCH_UP_SENSOR,
        jobs=[intake, catch_up],
        minimum_interval_seconds=_LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks for complete, unknown files, new messages and tables that are out of date, "
        "and starts what brings them up. What fails is tried again as docs/healing.md says for its class; "
        f"meanwhile its check `{checks.REFRESHED}` says why, and when.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult | dg.SkipReason:
        from medallion_platform.installation.settings import Settings

        nonlocal published
        now, on, memory = datetime.now(UTC), context.instance, Memory.from_text(context.cursor)
        at_work, own_runs = _jobs_at_work(on, silences)
        in_pods = are_read(on)
        if in_pods:
            keep_kills(on, lakehouse.lake, now)
        lake = lakehouse.lake.snapshot()
        late = out_of_date_tables(catalog, lake, cache)
        if changed := changed_files(loaded):
            # Runs load the new code. What it made seems out of date here, and would be asked for without end.
            late = {n: of for n, of in late.items() if not made_by_other_code(catalog.by_name[n], lake)}
            _warn_once(told, f"{', '.join(changed)}: changed after Dagster loaded it. {_RELOAD}")
        apart: set[str] = set()
        if in_pods:  # before this look's own requests, which are launched by them
            needs = needs_of_tables(catalog, lake, late, cache)
            published, limits = publish_needs(on, needs, now, published), limits_of(Settings())
            apart = {name for name, need in needs.items() if needs_own_run(need, limits)}
        waiting = waiting_arrivals(catalog, lakehouse, now, lake, cache)
        wanted = wanted_now(catalog, features, lakehouse, lake, late, waiting)
        made = wanted.keys() - bronze
        busy = made | (memory.asked.keys() - bronze) if CATCH_UP in at_work else _busy_tables(on, made)
        busy |= (bronze if INTAKE in at_work else set()) | own_runs
        try:
            turn = decide_and_record(on, lakehouse.lake, wanted, busy, memory, now)
        except CommitConflict as error:
            return dg.SkipReason(f"nothing is asked for: {error}")
        except MedallionError as error:  # without the ledger nothing is tried
            _warn_once(told, f"nothing runs by itself any more: {error}")
            return dg.SkipReason(f"nothing is asked for: {error}")
        ask, held, repair = turn.decisions.try_now.keys(), turn.decisions.held, turn.decisions.repair
        requests: dict[frozenset[str], dg.RunRequest] = {}
        key = digest_of_texts([*sorted(ask), now.isoformat()])
        if landed := frozenset(ask & bronze):
            left_out = [catalog.source_of[table] for table in sorted(held.keys() & bronze)]
            mended = [(catalog.source_of[table], id) for table, id in repair.items() if table in bronze]
            pieces = sum(len(waiting[t]) for t in landed)
            requests[landed] = _intake_request(key, pieces, left_out, mended)
        for name in turn.decisions.try_now:
            if name in apart:
                config = _repairs(repair, [name], held)
                request = _catch_up_request(f"{key} {name}", {ONLY_TAG: name}, only=[name], **config)
                requests[frozenset({name})] = request
        together = frozenset(ask - apart - landed)
        if (together or (landed and not in_pods)) and CATCH_UP not in at_work:
            taken_back = {name: found.state for name, found in late.items() if found.taken_back}
            leave = sorted((busy | apart | held.keys()) - bronze)
            config = _repairs(repair, together, held)
            requests[together] = _catch_up_request(key, {}, held=taken_back, leave=leave, **config)
        asked_by = {t: str(request.run_key) for tables, request in requests.items() for t in tables}
        return dg.SensorResult(
            run_requests=list(requests.values()) or None,
            skip_reason=None if requests else dg.SkipReason(_skip_reason(held.values(), at_work, own_runs)),
            cursor=turn.memory.asking(asked_by).to_text(),
            asset_events=[checks.check_evaluation(result) for result in turn.pages],
        )

    return sensor


def _warn_once(told: set[str], text: str) -> None:
    """Say something in the terminal, for who looks at no page."""
    if text not in told:
        _LOG.warning("%s", text)
    told.add(text)


def _repairs(repair: Mapping[str, str], tables: Iterable[str], held: Mapping[str, Held]) -> dict[str, object]:
    """What a run of `catch_up` is told of the tables for which it repairs; nothing without any."""
    found = {table: repair[table] for table in sorted(tables) if table in repair}
    paused = sorted(table for table, why in held.items() if why.state == "paused")
    return {"repair": found, "paused": paused} if found else {}


def _intake_request(
    key: str, pieces: int, held: Iterable[Source], repair: Iterable[tuple[Source, str]]
) -> dg.RunRequest:
    """A run of `intake` that takes in what waits, but leaves out sources that failed a moment ago.

    repair: sources whose damaged files it repairs, with the incident for which.
    """
    ops: dict[str, object] = {intake_op_name(source): {"config": {"held": True}} for source in held}
    ops |= {intake_op_name(source): {"config": {"repair": id}} for source, id in repair}
    tags = {"files": str(pieces), **NEVER_AGAIN}
    return dg.RunRequest(f"{INTAKE} {key}", job_name=INTAKE, run_config={"ops": ops}, tags=tags)


def _catch_up_request(key: str, tags: Mapping[str, str], **config: object) -> dg.RunRequest:
    """A run of `catch_up` that leaves what others work on to them."""
    ops = {BRING_UP: {"config": {**config, "patient": False}}}
    tags = {**tags, **NEVER_AGAIN}
    return dg.RunRequest(f"{CATCH_UP} {key}", job_name=CATCH_UP, run_config={"ops": ops}, tags=tags)


def _jobs_at_work(on: dg.DagsterInstance, silences: Silences) -> tuple[set[str], set[str]]:
    """The jobs with an active run, and the tables with a run of their own, which is no active run of a job.

    Runs that hang are ended first, and those closed whose process died.
    """

    def look() -> tuple[set[str], set[str]]:
        active = on.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        tables = {run.tags[ONLY_TAG] for run in active if ONLY_TAG in run.tags}
        return {run.job_name for run in active if ONLY_TAG not in run.tags}, tables

    jobs, tables = look()
    if not tables and not jobs:
        return set(), set()
    end_hung_runs(on, silences)
    close_dead_runs(on)
    return look()


def _busy_tables(on: dg.DagsterInstance, names: set[str]) -> set[str]:
    """The tables among these that another run is working on (a backfill, maintenance)."""
    pools = {pool_name(name): name for name in names}
    found = on.event_log_storage.get_concurrency_infos(list(pools))
    return {pools[pool] for pool, info in found.items() if info.claimed_slots}


def _skip_reason(held: Collection[Held], at_work: set[str], own_runs: set[str]) -> str:
    """Why nothing is started."""
    if own_runs or {INTAKE, CATCH_UP} & at_work:
        return "a run is working on it"
    if held:
        return "\n".join(map(str, held))
    return "nothing has arrived and nothing is out of date"


def surge_sensor(catalog: Catalog) -> dg.SensorDefinition:
    """Fail a table's check `dead_letters_as_usual` when its last write rejected unusually many rows."""

    @dg.sensor(
        name="dead_letters_surge",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compares the share of rejected rows of each table's newest write with those before.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult:
        seen: dict[str, int] = json.loads(context.cursor or "{}")
        events, lake = [], lakehouse.lake.snapshot()
        for name in catalog.names:
            version, key = lake.version(name), asset_key(name).to_user_string()
            if version < 0 or seen.get(key) == version:
                continue
            seen[key] = version
            events.append(
                checks.check_evaluation(
                    checks.surge_result(name, findings.rejection_surge(findings.writes(lake, name)))
                )
            )
        return dg.SensorResult(asset_events=events, cursor=json.dumps(seen))

    return sensor


def code_sensor(catalog: Catalog) -> dg.SensorDefinition:
    """Fail a table's check `made_by_current_code` when its transform or contract has changed."""

    @dg.sensor(
        name="code_changed",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells which partitions a former transform or contract made, once the code changed.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult:
        seen: dict[str, int] = json.loads(context.cursor or "{}")
        lake, columns = lakehouse.lake.snapshot(), catalog.partition_columns
        tables = {asset_key(t.name).to_user_string(): t for t in catalog.tables if lake.exists(t.name)}
        codes = {key: code_version(t) for key, t in tables.items()}
        changed = [t for key, t in tables.items() if codes[key] != seen.get(key)]
        events = [checks.check_evaluation(checks.current_result(lake, t, columns)) for t in changed]
        return dg.SensorResult(asset_events=events, cursor=json.dumps(codes))

    return sensor
