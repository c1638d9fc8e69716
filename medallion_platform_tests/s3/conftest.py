"""One S3 server for all tests of this room, told to every client by the environment alone."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .server import NoGo, Server

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        started = Server.start(tmp_path_factory.mktemp("buckets"))
    except NoGo as error:
        pytest.skip(f"no S3 server: {error}")
    before = dict(os.environ)
    os.environ.update(started.environment)
    yield started
    for name in started.environment:
        os.environ.pop(name)
    os.environ.update(before)
    started.stop()


@pytest.fixture
def bucket(server: Server) -> str:
    """A new bucket. Blanks and umlauts in the prefix, because people have them."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    (server.root / name).mkdir()
    return f"s3://{name}/ein häuschen"


@pytest.fixture(scope="session")
def spark(server: Server) -> Iterator[SparkSession]:
    """One Spark for all tests of this room, as the platform sets it up for a lake in a bucket."""
    from medallion_platform.installation.local_spark import local_spark

    started = local_spark("s3://lake", topics=True, cores=2).session()
    started.sparkContext.setLogLevel("ERROR")
    yield started
    started.stop()
