"""Dagster's GraphQL, as the UI and other programs use it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from medallion_platform_tests.waiting import until

ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_RUN = "runId jobName status startTime endTime tags { key value }"


@dataclass(frozen=True)
class Run:
    """A run, as Dagster tells it."""

    id: str
    job: str
    status: str
    tags: Mapping[str, str]
    start: float | None
    end: float | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class Dagster:
    """The web server of an installation."""

    url: str
    says: Callable[[], str]
    location: str = "medallion_platform"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """What a query gives."""
        # Only connecting is tried again: kubectl may just be forwarding anew (see `web_server`).
        with httpx.Client(transport=httpx.HTTPTransport(retries=4), timeout=60) as client:
            asked = {"query": query, "variables": variables}
            answer = client.post(f"{self.url}/graphql", json=asked).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def reloaded(self) -> bool:
        """Load the code location again; whether that succeeded."""
        told = self.ask(
            """mutation($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) {
                ... on WorkspaceLocationEntry { locationOrLoadError { __typename } } } }""",
            name=self.location,
        )["reloadRepositoryLocation"]
        return (told.get("locationOrLoadError") or {}).get("__typename") == "RepositoryLocation"

    def launch(
        self,
        job: str,
        assets: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        pod: Mapping[str, Any] | None = None,
        **tags: str,
    ) -> str:
        """Begin a run of a job, or (`__ASSET_JOB`) of assets; returns its id.

        pod: what its pod is given beside, as Dagster's `dagster-k8s/config`. `__` in the name of a tag stands
        for `/`.
        """
        named = {k.replace("__", "/"): v for k, v in tags.items()}
        if pod:
            named["dagster-k8s/config"] = json.dumps(pod)
        told = self.ask(
            """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
                __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            params={
                "selector": {
                    "repositoryLocationName": self.location,
                    "repositoryName": "__repository__",
                    "jobName": job,
                    "assetSelection": [{"path": [name]} for name in assets] or None,
                    "assetCheckSelection": None,
                },
                "runConfigData": dict(config or {}),
                "executionMetadata": {
                    "tags": [{"key": k, "value": v} for k, v in named.items()],
                },
            },
        )["launchRun"]
        assert told["__typename"] == "LaunchRunSuccess", told
        return told["run"]["runId"]

    def backfill(
        self, assets: Sequence[str], partitions: Sequence[str], config: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a backfill; returns its id."""
        told = self.ask(
            """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
                __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            params={
                "assetSelection": [{"path": [name]} for name in assets],
                "partitionNames": partitions,
                "runConfigData": dict(config or {}),
            },
        )["launchPartitionBackfill"]
        assert told["__typename"] == "LaunchBackfillSuccess", told
        return told["backfillId"]

    def end(self, run_id: str) -> None:
        """End a run for Dagster at once, whether its worker hears of it or not."""
        told = self.ask(
            """mutation($id: String!) { terminateRun(
                runId: $id, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) {
                __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }""",
            id=run_id,
        )["terminateRun"]
        assert told["__typename"] == "TerminateRunSuccess", told

    def runs(self, **tags: str) -> list[Run]:
        """Runs with these tags, the newest first. `__` in a tag stands for `/`."""
        told = self.ask(
            f"query($filter: RunsFilter) {{ runsOrError(filter: $filter, limit: 200) {{ __typename"
            f" ... on Runs {{ results {{ {_RUN} }} }} }} }}",
            filter={"tags": [{"key": k.replace("__", "/"), "value": v} for k, v in tags.items()]},
        )["runsOrError"]
        return [_run(found) for found in told["results"]]

    def run(self, run_id: str) -> Run:
        """A run."""
        told = self.ask(
            f"query($id: ID!) {{ runOrError(runId: $id) {{ __typename ... on Run {{ {_RUN} }} }} }}",
            id=run_id,
        )["runOrError"]
        return _run(told)

    def messages(self, run_id: str) -> list[str]:
        """What the log of a run says."""
        told = self.ask(
            """query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection {
                events { __typename ... on MessageEvent { message }
                ... on RunFailureEvent { error { message causes { message } } }
                ... on EngineEvent { error { message causes { message } } }
                ... on ExecutionStepFailureEvent { error { message causes { message } } } } } } }""",
            id=run_id,
        )["logsForRun"]
        return ["\n".join((event["message"], *_errors(event.get("error")))) for event in told["events"]]

    def ended(self, run_id: str, seconds: float = 300) -> Run:
        """A run, as soon as it has ended."""
        return until(lambda: self._ended(run_id), seconds, lambda: self._why(run_id))

    def succeeded(self, run_id: str, seconds: float = 300) -> Run:
        """A run that has ended well."""
        run = self.ended(run_id, seconds)
        assert run.status == "SUCCESS", self._why(run_id)
        return run

    def is_loaded(self) -> bool:
        """Whether the web server has the definitions of the code location."""
        return bool(self.ask("{ assetNodes { id } }")["assetNodes"])

    def quiet(self, seconds: float = 300) -> None:
        """Return when every run has ended, of those in the queue also."""
        until(lambda: all(run.ended for run in self.runs()), seconds, self.says, pause=1)

    def up_to_date(self, seconds: float = 300) -> None:
        """Return when a look of the sensor that begins from now on finds nothing to do."""
        since = time.time()

        def found_nothing() -> bool:
            look = self._newest_look()
            return look["timestamp"] > since and "nothing is out of date" in (look["skipReason"] or "")

        until(found_nothing, seconds, lambda: f"{self._newest_look()} {self.says()}", pause=1)

    def _newest_look(self) -> dict[str, Any]:
        """The newest tick of the sensor that asks for runs."""
        told = self.ask(
            """query($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { __typename
                ... on Sensor { sensorState { ticks(limit: 1) { timestamp status skipReason } } } } }""",
            sensor={
                "repositoryLocationName": self.location,
                "repositoryName": "__repository__",
                "sensorName": "catch_up_sensor",
            },
        )["sensorOrError"]
        (tick,) = told["sensorState"]["ticks"]
        return tick

    def _ended(self, run_id: str) -> Run | None:
        run = self.run(run_id)
        return run if run.ended else None

    def _why(self, run_id: str) -> str:
        return "\n".join([str(self.run(run_id)), *self.messages(run_id)[-30:], self.says()])


def _errors(error: Mapping[str, Any] | None) -> Iterator[str]:
    """What an error says, and what it comes from."""
    if error:
        yield error["message"]
        yield from (cause["message"] for cause in error["causes"])


def _run(told: Mapping[str, Any]) -> Run:
    tags = {tag["key"]: tag["value"] for tag in told["tags"]}
    return Run(told["runId"], told["jobName"], told["status"], tags, told["startTime"], told["endTime"])
