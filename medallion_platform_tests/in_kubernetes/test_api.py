"""What the API server's answers mean to whoever asked."""

from __future__ import annotations

import pytest
from kubernetes.client import ApiClient, Configuration

from medallion_platform.errors import Kind
from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.api import Cluster, ClusterError
from medallion_platform_tests.test_errors import answering


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Kind.AUTH) for status in (401, 403)),
        (409, Kind.CONFLICT),
        (422, Kind.PERMANENT),
        (429, Kind.RATE_LIMIT),
        *((status, Kind.TRANSIENT) for status in (500, 503)),
    ],
)
def test_an_answer_has_the_class_of_its_status(status: int, kind: Kind) -> None:
    with answering(status) as url:
        settings = Configuration(host=url)
        settings.retries = False
        with pytest.raises(ClusterError, match=f"answered {status}") as told:
            api.list_pods(Cluster(ApiClient(settings), "here"))
    assert told.value.kind is kind
    assert ("this right" in str(told.value)) == (kind is Kind.AUTH)
