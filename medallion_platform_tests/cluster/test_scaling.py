"""The web server gets a second pod while its processor is busy, and gives it back when it is calm again.

How the number of stream workers follows their lag is in test_streams.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

import httpx
import pytest

from medallion_platform_tests.cluster import local
from medallion_platform_tests.cluster.installation import RELEASE, Installation
from medallion_platform_tests.cluster.kube import CommandFailed, Kube
from medallion_platform_tests.cluster.test_faults import figure, seconds_since
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1800)]

WEB = f"{RELEASE}-web"
"""The Deployment, and its autoscaler."""
PEOPLE = 4
"""Who look at the web server at once, each after the answer to what he asked before."""
MOST_LOOKS = 10_000
"""Of each of them."""
LOOK = "{ runsOrError(limit: 50) { ... on Runs { results { runId status tags { key value } } } } }"
"""The list of runs, as its page asks for it."""


@pytest.fixture(scope="module")
def measured(admin: Kube) -> Iterator[None]:
    """What pods use is known: the cluster of `KUBECONFIG` may say it; one on this machine gets what does."""
    with ExitStack() as ends:
        given = os.environ.get("KUBECONFIG")
        if not given:
            ends.enter_context(local.measuring(admin))
        try:
            admin.run("top", "nodes")
        except CommandFailed as error:
            (pytest.skip if given else pytest.fail)(f"no metrics of pods: {error}")
        yield


@dataclass(frozen=True)
class Web:
    """The web server of an installation, as its autoscaler sees it."""

    installed: Installation

    def wanted(self) -> int:
        return self._one("deployments")["spec"]["replicas"]

    def ready(self) -> int:
        return self._one("deployments")["status"].get("readyReplicas", 0)

    def pods(self) -> int:
        return len(self.installed.admin.get("pods", "--selector=app.kubernetes.io/component=web"))

    def is_measured(self) -> bool:
        return bool(self._one("horizontalpodautoscalers")["status"].get("currentMetrics"))

    def says(self) -> str:
        told = self.installed.admin.run("describe", "horizontalpodautoscaler", WEB)
        return f"{told}\n{self.installed.says()}"

    def _one(self, kind: str) -> dict[str, Any]:
        (found,) = self.installed.admin.get(kind, f"--field-selector=metadata.name={WEB}")
        return found


@pytest.mark.usefixtures("arrival", "measured")
def test_a_second_pod_comes_while_the_first_is_busy_and_goes_when_it_is_calm(installed: Installation) -> None:
    web = Web(installed)
    until(lambda: web.is_measured() and web.wanted() == web.ready() == 1, 600, web.says, pause=2)
    with installed.web() as url, _busy(url):
        since = time.time()
        until(lambda: web.wanted() == 2, 300, web.says, pause=1)
        figure("a busy web server, until a second pod is asked for", seconds_since(since), 1)
        until(lambda: web.ready() == 2, 200, web.says, pause=1)
        figure("a busy web server, until the second pod is ready", seconds_since(since), 1)
    calm = time.time()
    until(lambda: web.wanted() == 1, 700, web.says, pause=2)
    figure("calm, until one pod of the web server is sent away", seconds_since(calm), 1)
    until(lambda: web.pods() == 1, 150, web.says, pause=2)


@contextmanager
def _busy(url: str) -> Generator[None]:
    """People look in the `with` block; each of their requests is answered."""
    stop = Event()
    with ThreadPoolExecutor(PEOPLE) as pool:
        looks = [pool.submit(_look, url, stop) for _ in range(PEOPLE)]
        try:
            yield
        finally:
            stop.set()
    print(f"answered: {sum(look.result() for look in looks):,} requests")


def _look(url: str, stop: Event) -> int:
    """Look again and again; returns how often."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(MOST_LOOKS):
            if stop.is_set():
                return number
            answer = client.post("/graphql", json={"query": LOOK})
            assert "errors" not in answer.raise_for_status().json(), answer.text
    return MOST_LOOKS
