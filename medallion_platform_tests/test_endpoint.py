"""An endpoint that cannot be meant is told, before a client sees it."""

from __future__ import annotations

import pytest

from medallion_platform.storage import Unusable, store


@pytest.mark.parametrize("endpoint", ["store.example:9000", "s3.example", "http://", "ftp://s3.example"])
@pytest.mark.failure("permanent")
def test_an_endpoint_that_is_no_url_is_told(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(Unusable, match="AWS_ENDPOINT_URL is no URL") as told:
        store("s3://endpoint-that-is-no-url/lake")
    assert "example:9000" not in str(told.value)
