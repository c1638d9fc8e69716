"""Launches each run as a pod whose size follows from what the run works on.

`dagster.yaml` names `Launcher`, which is Dagster's `K8sRunLauncher` with the same options. Every way to begin
a run leads here: a click, a backfill, a sensor, a schedule, a request. It works in the daemon, which has
neither the user's code nor the lake; what tables need it reads in Dagster's storage (`needs.py`).

What is decided stands in the run's tags and in its log. Of Kubernetes' settings for the pod, the more special
ones win: those of the installation (`run_launcher` in dagster.yaml), what is decided here, those of the code
location, of a table (`@table(kubernetes=...)`), of the run (its tag `dagster-k8s/config`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import reduce
from typing import Any

from dagster import DagsterRun
from dagster._core.events import EngineEventData
from dagster._core.launcher import LaunchRunContext
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from dagster._record import copy
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from medallion_platform.installation.settings import Settings
from medallion_platform.kubernetes.shape import Shape, Work, decide_shape
from medallion_platform.orchestration.names import BRING_UP, CATCH_UP, INTAKE, table_of
from medallion_platform.orchestration.needs import limits_of, read_needs
from medallion_platform.pipeline.need import Need

SHAPE_TAG = "medallion/shape"
REASON_TAG = "medallion/shape_reason"
DECIDED_TAG = ".dagster/medallion_shape"
"""The same for programs; the UI hides tags with this beginning."""


class Launcher(K8sRunLauncher):
    """Dagster's launcher, which also decides how large each pod is."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Decide the shape of the run, put it into its tags, and start its pod.

        Raises:
            WrongSetting: a setting of the daemon has a value that it cannot have.
        """
        run, needs = context.dagster_run, read_needs(self._instance).by(datetime.now(UTC))
        work = work_of(run, self._steps(run), needs)
        shape = decide_shape(work, needs, None, limits_of(Settings()))
        tags = shape_tags(shape, [dict(needs[name].config) for name in work.tables if name in needs])
        self._instance.add_run_tags(run.run_id, tags)
        # The pod is made of the run in hand, to which tags in the storage do not come by themselves.
        shaped = run.with_tags({**run.tags, **tags})
        told = EngineEventData({name: str(value) for name, value in asdict(shape).items()})
        self._instance.report_engine_event(f"Shape of the run: {shape.reason}", run, told, cls=type(self))
        super().launch_run(context._replace(dagster_run=shaped))

    def get_container_context_for_run(self, dagster_run: DagsterRun) -> K8sContainerContext:
        """Everything that is given for the run's pod, the more special over the more general."""
        bare = copy(dagster_run, job_code_origin=None)
        installation = K8sContainerContext.create_for_run(bare, self, include_run_tags=False)
        decided = json.loads(dagster_run.tags.get(DECIDED_TAG, "{}"))
        shape = [container_config(Shape(**decided["shape"]), self._image(dagster_run))] if decided else []
        location = K8sContainerContext.create_for_run(dagster_run, None, include_run_tags=False)
        tables = _merged(location, decided.get("config", ()))
        given = tables.merge(K8sContainerContext.create_for_run(bare, None, include_run_tags=True))
        allowed = given.validate_user_k8s_config_for_run(
            self.only_allow_user_defined_k8s_config_fields, self.only_allow_user_defined_env_vars
        )
        return _merged(installation, shape).merge(allowed)

    def _steps(self, run: DagsterRun) -> Sequence[str]:
        """The steps of a run: those that it was asked for, or those of its job."""
        if run.step_keys_to_execute or not run.execution_plan_snapshot_id:
            return run.step_keys_to_execute or ()
        return self._instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).step_keys_to_execute

    def _image(self, run: DagsterRun) -> str:
        """The image of the code server that described the run, and of its pod."""
        origin = run.job_code_origin
        return (origin and origin.repository_origin.container_image) or self.job_image or ""


def work_of(run: DagsterRun, steps: Collection[str], needs: Mapping[str, Need]) -> Work:
    """What a run was asked for. Pure.

    steps: their keys; the step of an asset is named like it. needs: of all tables.
    """
    config: Mapping[str, Any] = run.run_config
    ops: Mapping[str, Any] = config.get("ops", {})
    if run.job_name == CATCH_UP:
        given = ops.get(BRING_UP, {}).get("config", {})
        if only := given.get("only"):
            return Work(dict.fromkeys(only))
        left = {*given.get("leave", ()), *given.get("held", ())}
        due = [name for name, need in needs.items() if need.layer != "bronze" and need.due_bytes]
        return Work(dict.fromkeys(name for name in due if name not in left))
    if run.job_name == INTAKE:
        return Work(dict.fromkeys(name for name, need in needs.items() if need.layer == "bronze"))
    names = [table_of(step) for step in steps]
    asked = [op.get("config", {}) for op in ops.values()]
    # Who reads the inputs as they were at some other time may read all of them.
    rebuild = any(asked_for.get("rebuild") or asked_for.get("as_of") for asked_for in asked)
    return Work(dict.fromkeys(names, _partitions_asked_for(run.tags)), rebuild)


def _partitions_asked_for(tags: Mapping[str, str]) -> int | None:
    """The number of partitions that a run is for, by its tags; of weeks it may be as many as their days."""
    if PARTITION_NAME_TAG in tags:
        return 1
    if ASSET_PARTITION_RANGE_START_TAG not in tags:
        return None
    ends = (tags[ASSET_PARTITION_RANGE_START_TAG], tags[ASSET_PARTITION_RANGE_END_TAG])
    try:
        first, last = map(date.fromisoformat, ends)
    except ValueError:  # of an asset of one's own
        return None
    return (last - first).days + 1


def shape_tags(shape: Shape, configs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What a run's tags say of its shape, and of what its tables want of their pod. Pure."""
    words = shape.reason.rpartition(": ")[2]
    decided = {"shape": asdict(shape), "config": [config for config in configs if config]}
    return {SHAPE_TAG: words, REASON_TAG: shape.reason, DECIDED_TAG: json.dumps(decided)}


def container_config(shape: Shape, image: str) -> dict[str, Any]:
    """What the shape of a run means for its pod, in the form of `dagster-k8s/config`. Pure.

    image: of the run's pod, which is that of its executors. As much memory may be used as is reserved, and
    more cores where nobody else uses them.
    """
    memory = f"{shape.memory >> 20}Mi"
    variables = {"MEDALLION_RUN_EXECUTORS": str(shape.executors)}
    read: dict[str, Any] = {
        # Not the shape's own number: settings of the table or of the run may ask for others.
        "MEDALLION_SPARK_CORES": {"resource_field_ref": {"resource": "requests.cpu"}},
    }
    if shape.executors:
        variables |= {
            "MEDALLION_RUN_EXECUTOR_CORES": str(shape.executor_cores),
            "MEDALLION_RUN_EXECUTOR_MEMORY": str(shape.executor_memory),
            "MEDALLION_RUN_IMAGE": image,
        }
        read |= {
            "MEDALLION_RUN_POD": {"field_ref": {"field_path": "metadata.name"}},
            "MEDALLION_RUN_NAMESPACE": {"field_ref": {"field_path": "metadata.namespace"}},
            "MEDALLION_RUN_ADDRESS": {"field_ref": {"field_path": "status.podIP"}},
        }
    return {
        "container_config": {
            "resources": {
                "requests": {"cpu": str(shape.cores), "memory": memory},
                "limits": {"memory": memory},
            },
            "env": [
                *({"name": name, "value": value} for name, value in variables.items()),
                *({"name": name, "value_from": source} for name, source in read.items()),
            ],
        }
    }


def _merged(context: K8sContainerContext, configs: Sequence[Mapping[str, Any]]) -> K8sContainerContext:
    """The context with what each of these adds to it or replaces of it."""

    def more(onto: K8sContainerContext, config: Mapping[str, Any]) -> K8sContainerContext:
        return onto.merge(K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(config)))

    return reduce(more, configs, context)
