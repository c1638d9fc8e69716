"""The asset of drills: it runs them by the command that a person types, and keeps what they said in view.

Drills have processes, an environment and a Dagster of their own, so they are a command here too, and this
package need not know theirs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.installation.project import current_project
from medallion_platform.lakehouse import drill_verdicts
from medallion_platform.lakehouse.drill_verdicts import DrillVerdict, last_of_each
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import DRILL, DRILLS, OPS, asset_key
from medallion_platform.orchestration.pictures import picture_of_drills
from medallion_platform.orchestration.reports import Metadata, markdown_table
from medallion_platform.orchestration.retries import OURS, only_attempt

HEALS = dg.AssetCheckKey(dg.AssetKey(DRILLS), "no_drill_failed")
FRESH_WITHIN = timedelta(days=8)
"""How old the newest drills may be: after that, those of a week were missed."""
_SUNDAYS_AT_FIVE = "0 5 * * 0"
_OF_THE_POD = "MEDALLION_RUN_"
"""Variables that say what the pod of a run has for its work; that of a drill is none of this run."""
_WORDS = ("Resilient", "Degraded", "Failed", "Inconclusive")
_COLUMNS = ("drill", "at", "verdict", "table", "detected_after", "healed_after", "target_seconds", "reason")


class NoDrills(MedallionError):
    """The command ended before it had run the drills; the text is what it said last."""

    kind = Kind.PERMANENT


class Which(dg.Config):
    """Which drills are run."""

    drills: list[str] = Field(["all"], description="Their names, as `medallion drill list` shows them.")


def drills_asset() -> dg.AssetsDefinition:
    """What drills have shown, as an asset that runs them when it is materialized."""

    @dg.asset(
        name=DRILLS,
        group_name=OPS,
        kinds={"deltalake"},
        pool=DRILLS,
        op_tags=OURS,
        description="Real faults in a copy of this installation, and whether it healed in time and whole: "
        "docs/drills.md. What they said is kept in `_medallion/drills` of the lake, also of those that were "
        "run by command; `medallion drill trend` shows it.\n\nFresh while they were run in the last eight "
        "days. The schedule `drills_schedule` does that every Sunday, once you switch it on: a drill takes "
        "minutes, and the memory of a second Spark.",
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_WITHIN),
        check_specs=[
            dg.AssetCheckSpec(
                HEALS.name,
                asset=HEALS.asset_key,
                description="No drill, the last time that it was run, has Failed: each fault healed, and no "
                "row was lost or doubled.",
            )
        ],
    )
    def body(
        context: dg.AssetExecutionContext, config: Which, lakehouse: Lakehouse
    ) -> Iterator[dg.MaterializeResult[Any]]:
        with only_attempt(context, DRILLS):
            lake = lakehouse.lake
            for said in _run_drills(context, config.drills, _environment(os.environ, lakehouse)):
                if said["table"]:
                    context.log_event(_observation(said))
            verdicts = drill_verdicts.read(lake)
            yield dg.MaterializeResult(metadata=figures(verdicts), check_results=[heals_result(verdicts)])

    return body


def drills_schedule() -> dg.ScheduleDefinition:
    """Every Sunday, when nobody has need of the memory; not before a person says so."""
    return dg.ScheduleDefinition(
        name="drills_schedule",
        job=dg.define_asset_job(DRILL, selection=[DRILLS]),
        cron_schedule=_SUNDAYS_AT_FIVE,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Every Sunday at five: runs all drills. Off until you switch it on, since they take "
        "minutes and the memory of a second Spark.",
    )


def figures(verdicts: Sequence[DrillVerdict]) -> Metadata:
    """Numbers that Dagster plots over time, the last verdicts, and a picture; verdicts: the earliest first.
    Pure."""
    last = last_of_each(verdicts)
    told: Metadata = {word.lower(): sum(v.verdict == word for v in last) for word in _WORDS}
    if healed := [v.healed_after for v in last if v.healed_after is not None]:
        told["longest_seconds_to_heal"] = max(healed)
    rows = [[_shown(getattr(v, column)) for column in _COLUMNS] for v in last]
    told["last"] = dg.MetadataValue.md(markdown_table(_COLUMNS, rows))
    by_drill = {of.drill: [v for v in verdicts if v.drill == of.drill] for of in last}
    told["trend"] = dg.MetadataValue.md(picture_of_drills(by_drill))
    return told


def heals_result(verdicts: Sequence[DrillVerdict]) -> dg.AssetCheckResult:
    """Whether none has failed the last time that it was run; else which ones, and why. Pure."""
    failed = {v.drill: v.reason for v in last_of_each(verdicts) if v.verdict == "Failed"}
    return dg.AssetCheckResult(
        asset_key=HEALS.asset_key, check_name=HEALS.name, passed=not failed, metadata=failed
    )


def _observation(said: Mapping[str, Any]) -> dg.AssetObservation:
    """What a drill said, for the page of the table at which its fault came."""
    told = {name: _shown(said[name]) for name in _COLUMNS if name != "table" and said[name] not in (None, "")}
    metadata: Metadata = {**told, "all_drills": dg.MetadataValue.asset(HEALS.asset_key)}
    return dg.AssetObservation(
        asset_key(said["table"]), description=f"drill {said['drill']}: {said['verdict']}", metadata=metadata
    )


def _shown(value: Any) -> Any:
    return f"{value:%Y-%m-%d %H:%M:%S}Z" if hasattr(value, "strftime") else value


def _environment(own: Mapping[str, str], lakehouse: Lakehouse) -> dict[str, str]:
    """That of the command: it works for the same lake, and for no run."""
    places = {"MEDALLION_LAKE": lakehouse.lake_root, "MEDALLION_LANDING": lakehouse.landing}
    return {name: value for name, value in own.items() if not name.startswith(_OF_THE_POD)} | places


def _run_drills(
    context: dg.AssetExecutionContext, names: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Mapping[str, Any]]:
    """What each drill says, as soon as it ends.

    Raises:
        NoDrills: the command ended before.
    """
    program, last, failed = Path(sys.executable).with_name("medallion"), "", False
    with _started([str(program), "drill", "run", *names, "--json"], environment) as process:
        assert process.stdout
        for line in map(str.strip, process.stdout):
            context.log.info(line)
            if said := _said(line):
                failed = failed or said["verdict"] == "Failed"
                yield said
            else:
                last = line or last
    if process.returncode != int(failed):
        raise NoDrills(last or f"the command ended with {process.returncode}")


def _said(line: str) -> Mapping[str, Any] | None:
    """What a drill said; None where a line is of another: an error, or what is logged, be it as JSON."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "verdict" in found else None


@contextmanager
def _started(command: Sequence[str], environment: Mapping[str, str]) -> Generator[subprocess.Popen[str]]:
    """A process, which is ended with the `with` block."""
    with subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=current_project().root,
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise
