"""Launches each run as a pod whose size follows from what the run works on.

`dagster.yaml` names `Launcher`, which is Dagster's `K8sRunLauncher` with the same options. Every way to begin
a run leads here: a click, a backfill, a sensor, a schedule, a request. It works in the daemon, which has
neither the user's code nor the lake; what tables need it reads in Dagster's storage (`needs.py`).

What is decided stands in the run's tags and in its log, and so does what ended its pod. Of Kubernetes'
settings for the pod, the more special ones win: those of the installation (`run_launcher` in dagster.yaml),
what is decided here, those of the code location, of a table (`@table(kubernetes=...)`), of the run (its tag
`dagster-k8s/config`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import cached_property, reduce
from time import monotonic
from typing import Any

from dagster import DagsterRun
from dagster._core.errors import DagsterRunNotFoundError
from dagster._core.events import EngineEventData
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    MAX_RETRIES_TAG,
    PARTITION_NAME_TAG,
)
from dagster._record import copy
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig, get_job_name_from_run_id

from medallion_platform.errors import Kind
from medallion_platform.installation.settings import Settings
from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.api import Cluster, ClusterError
from medallion_platform.kubernetes.pod_end import PodEnd, pod_end, why_not_begun
from medallion_platform.kubernetes.shape import Limits, Shape, Work, after_kill, decide_shape
from medallion_platform.orchestration.failures import CLASS, INCIDENT, NEXT_TRY, class_of_end
from medallion_platform.orchestration.heartbeats import BEATS
from medallion_platform.orchestration.hung_runs import Silences, hung_run
from medallion_platform.orchestration.launch_phases import LAUNCH
from medallion_platform.orchestration.made_with import MADE_WITH
from medallion_platform.orchestration.memory_reports import (
    ENDED_BY,
    MEMORY_LIMIT,
    WORKING_ON,
    NotEnoughMemory,
)
from medallion_platform.orchestration.names import BRING_UP, CATCH_UP, INTAKE, table_of
from medallion_platform.orchestration.needs import limits_of, read_needs
from medallion_platform.pipeline.need import Need

SHAPE_TAG = "medallion/shape"
REASON_TAG = "medallion/shape_reason"
DECIDED_TAG = ".dagster/medallion_shape"
"""The same for programs; the UI hides tags with this beginning."""
_OF_A_DRIVER = "500m"
"""The processor that a run's pod asks for where executors do the work: it plans, waits and commits."""
_SAID_BY_RUNS = (BEATS, CLASS, ENDED_BY, INCIDENT, LAUNCH, MADE_WITH, MEMORY_LIMIT, NEXT_TRY, WORKING_ON)
"""Tags that say what became of a run; Dagster gives them to the run that retries it, too."""


class Launcher(K8sRunLauncher):
    """Dagster's launcher, which also decides how large each pod is, says what ended it, and ends it if it
    hangs."""

    @cached_property
    def _silences(self) -> Silences:
        """What was heard of the runs that it looks after."""
        return {}

    def launch_run(self, context: LaunchRunContext) -> None:
        """Decide the shape of the run, put it into its tags, and start its pod.

        Raises:
            WrongSetting: a setting of the daemon has a value that it cannot have.
        """
        run, needs = context.dagster_run, read_needs(self._instance).by(datetime.now(UTC))
        work, limits = work_of(run, self._steps(run), needs), limits_of(Settings())
        shape = decide_shape(work, needs, least_shape(self._tried_before(run), limits), limits)
        configs = [dict(needs[name].config) for name in work.tables if name in needs]
        tags = shape_tags(shape, configs, self._owned_by_release(run))
        tags |= dict.fromkeys(run.tags.keys() & set(_SAID_BY_RUNS), "")
        self._instance.add_run_tags(run.run_id, tags)
        # The pod is made of the run in hand, to which tags in the storage do not come by themselves.
        shaped = run.with_tags({**run.tags, **tags})
        told = EngineEventData({name: str(value) for name, value in asdict(shape).items()})
        self._instance.report_engine_event(f"Shape of the run: {shape.reason}", run, told, cls=type(self))
        super().launch_run(context._replace(dagster_run=shaped))

    def _owned_by_release(self, run: DagsterRun) -> dict[str, Any]:
        """Let the Job of a run be deleted with the ConfigMap that describes the instance, which helm deletes.

        Helm leaves what it has not made itself.
        """
        if not self.instance_config_map:
            return {}
        try:
            owner = api.owner_reference(self._pods_of(run)[0], self.instance_config_map)
        except ClusterError as error:
            told = f"The run's Job stays when the installation is deleted: {error}"
            self._instance.report_engine_event(told, run, cls=type(self))
            return {}
        return {"owner_references": [owner]}

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the pod of a run still works; what ended it from outside is told, also by a tag of the run.

        One that hangs is ended. While the API server answers nobody, the pod may well work; then the run is
        left as it is.
        """
        health = super().check_run_worker_health(run)
        if health.status is WorkerStatus.RUNNING:
            return self._end_if_hung(run) or health
        self._silences.pop(run.run_id, None)
        if health.status is WorkerStatus.SUCCESS:
            return health
        try:
            end = pod_end(api.list_pods(*self._pods_of(run)))
        except ClusterError as error:
            unknown = CheckRunHealthResult(WorkerStatus.RUNNING, f"whether it works is not known: {error}")
            return health if error.kind is Kind.AUTH else unknown
        if end is None:  # it works, and only the question failed, or it ended by itself
            running = CheckRunHealthResult(WorkerStatus.RUNNING)
            return health if health.status is WorkerStatus.FAILED else running
        self._tag(run, end)
        if end.by != Kind.OOM or _memory_of(run) < limits_of(Settings()).most_memory:
            return CheckRunHealthResult(WorkerStatus.FAILED, end.text)
        # Another try would have no more, and end like this one.
        self._instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: "0"})
        said = f"{end.text}, the most that a run may have; {NotEnoughMemory.remedy}"
        return CheckRunHealthResult(WorkerStatus.FAILED, said)

    def _end_if_hung(self, run: DagsterRun) -> CheckRunHealthResult | None:
        """End the pod of a run that hangs; None if it does not."""
        end = hung_run(self._instance, run, self._silences, monotonic())
        if end is None:
            return None
        self._tag(run, end)  # before its pod is asked to end, which would tell that it was deleted
        self._api_client.delete_job(self._job_name(run), self._pods_of(run)[0].namespace)
        del self._silences[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, f"the run hung: {end.text}")

    def get_run_worker_debug_info(
        self, run: DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """What Dagster tells of a run that it gives up; of one that never began, first why."""
        told = super().get_run_worker_debug_info(run, include_container_logs)
        if run.status not in (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING):
            return told
        cluster, selector = self._pods_of(run)
        pods = api.list_pods(cluster, selector)
        events = api.list_events(cluster, self._job_name(run))
        end = why_not_begun(pods, events) or pod_end(pods)
        if end is None:
            return told
        self._tag(run, end)
        return f"The run did not begin: {end.text}\n\n{told or ''}"

    def _tag(self, run: DagsterRun, end: PodEnd) -> None:
        tags = {ENDED_BY: end.by, CLASS: class_of_end(run.run_id, end.by).value}
        self._instance.add_run_tags(run.run_id, tags)

    def _pods_of(self, run: DagsterRun) -> tuple[Cluster, str]:
        """Where the pods of a run are, and the label that they have."""
        namespace = self.get_container_context_for_run(run).namespace or self.job_namespace
        client = self._api_client.core_api.api_client
        return Cluster(client, namespace), f"job-name={self._job_name(run)}"

    def _job_name(self, run: DagsterRun) -> str:
        resumed = self._get_resume_attempt_number(run)
        return get_job_name_from_run_id(run.run_id, resume_attempt_number=resumed)

    def _tried_before(self, run: DagsterRun) -> Sequence[DagsterRun]:
        """The runs that a run retries, directly or not."""
        if run.root_run_id is None:
            return ()
        try:
            _, group = self._instance.get_run_group(run.run_id) or ("", ())
        except DagsterRunNotFoundError:  # the first of them was deleted
            return ()
        return [other for other in group if other.run_id != run.run_id]

    def get_container_context_for_run(self, dagster_run: DagsterRun) -> K8sContainerContext:
        """Everything that is given for the run's pod, the more special over the more general."""
        bare = copy(dagster_run, job_code_origin=None)
        installation = K8sContainerContext.create_for_run(bare, self, include_run_tags=False)
        decided = json.loads(dagster_run.tags.get(DECIDED_TAG, "{}"))
        location = K8sContainerContext.create_for_run(dagster_run, None, include_run_tags=False)
        tables = _merged(location, decided.get("config", ()))
        given = tables.merge(K8sContainerContext.create_for_run(bare, None, include_run_tags=True))
        allowed = given.validate_user_k8s_config_for_run(
            self.only_allow_user_defined_k8s_config_fields, self.only_allow_user_defined_env_vars
        )
        if not decided:
            return installation.merge(allowed)
        image = self._image(dagster_run, installation.merge(allowed))
        job = {"job_metadata": decided.get("job_metadata", {})}
        ours = [container_config(Shape(**decided["shape"]), image), job]
        return _merged(installation, ours).merge(allowed)

    def _steps(self, run: DagsterRun) -> Sequence[str]:
        """The steps of a run: those that it was asked for, or those of its job."""
        if run.step_keys_to_execute or not run.execution_plan_snapshot_id:
            return run.step_keys_to_execute or ()
        return self._instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).step_keys_to_execute

    def _image(self, run: DagsterRun, given: K8sContainerContext) -> str:
        """The image of the run's pod: the one given for it, else that of the code server that described it.

        Dagster's tag `docker/image` only tells it afterwards; a run that is tried again has the former's.
        """
        origin = run.job_code_origin
        named: str | None = given.run_k8s_config.container_config.get("image")
        return named or (origin and origin.repository_origin.container_image) or self.job_image or ""


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


def least_shape(tried: Iterable[DagsterRun], limits: Limits) -> Shape | None:
    """What a run gets at the least that retries these, by the one that was killed with the most memory. Pure.

    None if none of them was killed for its memory.
    """
    killed = [(_memory_of(run), run) for run in tried if run.tags.get(ENDED_BY) == Kind.OOM]
    if not killed:
        return None
    memory, run = max(killed, key=lambda found: found[0])
    return after_kill(memory, limits, run.run_id[:8])


def _memory_of(run: DagsterRun) -> int:
    """The bytes that the pod of a run could use, as it said itself; else those that it was to have."""
    if said := run.tags.get(MEMORY_LIMIT):
        return int(said)
    decided = json.loads(run.tags.get(DECIDED_TAG, "{}"))
    return Shape(**decided["shape"]).memory if decided else 0


def shape_tags(
    shape: Shape, configs: Sequence[Mapping[str, Any]], job_metadata: Mapping[str, Any]
) -> dict[str, str]:
    """What a run's tags say of its shape, of what its tables want of their pod, and of its Job. Pure."""
    words = shape.reason.rpartition(": ")[2]
    wanted = [config for config in configs if config]
    decided = {"shape": asdict(shape), "config": wanted, "job_metadata": dict(job_metadata)}
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
    if shape.spark:
        variables["MEDALLION_RUN_SPARK"] = "1"
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
                "requests": {"cpu": _OF_A_DRIVER if shape.executors else str(shape.cores), "memory": memory},
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
