"""A Lease that a real API server keeps: one leads; a former record cannot be written; another follows."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from medallion_platform.kubernetes.api import ClusterLease, connect, own_name
from medallion_platform.kubernetes.lease import TURN_EVERY, Lease, LeaseChanged
from medallion_platform_tests.cluster.kube import Kube

pytestmark = pytest.mark.cluster


def test_the_api_server_keeps_it(admin: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(admin.config))
    cluster, name = connect(), f"medallion-test-{uuid4().hex[:8]}"
    other = Lease(ClusterLease(cluster, name), own_name())
    stale = ClusterLease(cluster, name)
    with Lease(ClusterLease(cluster, name), own_name()) as one:
        assert one.term() == 1
        old = stale.read()
        time.sleep(TURN_EVERY + 1)
        other.turn()
        assert (one.term(), other.term()) == (1, None)
        with pytest.raises(LeaseChanged):
            stale.write(old)
    other.turn()
    assert other.term() == 1
