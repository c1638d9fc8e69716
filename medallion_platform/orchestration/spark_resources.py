"""The platform's Spark and its tables as resources of dagster-pyspark and dagster-deltalake.

Your own assets request them as the manuals of these libraries say. Both are slow to import, so this module is
imported only when a run needs it.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_deltalake import DeltaTableResource, LocalConfig, S3Config
from dagster_deltalake.config import ClientConfig
from dagster_pyspark import LazyPySparkResource, PySparkResource
from pydantic import PrivateAttr

from medallion_platform import storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from medallion_platform.spark.provider import SparkProvider


class PlatformSpark(PySparkResource, LazyPySparkResource):
    """A provider's session as a resource of dagster-pyspark; it starts on first use."""

    spark_config: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it
    """Without meaning here: the session is set up by its provider."""
    _provider: "SparkProvider" = PrivateAttr()

    def __init__(self, provider: "SparkProvider") -> None:
        super().__init__(spark_config={})
        self._provider = provider

    @classmethod
    def _is_dagster_maintained(cls) -> bool:
        return False

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Start nothing: a run may never ask for the session."""

    @property
    def spark_session(self) -> "SparkSession":
        """The session that the platform's own tables are refreshed with."""
        return self._provider.session()


def delta_table(path: str) -> DeltaTableResource:
    """A table for reading, as dagster-deltalake's resource; `load()` opens its newest version."""
    if not storage.in_bucket(path):
        return DeltaTableResource(url=path, storage_options=LocalConfig())
    plain = ClientConfig(allow_http=True) if storage.uses_plain_http() else None
    # Keys, region and endpoint are read from the environment by the client itself.
    return DeltaTableResource(url=path, storage_options=S3Config(), client_options=plain)
