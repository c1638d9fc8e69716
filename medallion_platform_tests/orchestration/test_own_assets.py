"""What a user has beside ours: assets, replacements, Spark and tables by the names of other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster_deltalake import DeltaTableResource
from dagster_pyspark import LazyPySparkResource, PySparkResource

from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse_resource import Lakehouse, lakehouse_of
from medallion_platform.orchestration.names import asset_key
from medallion_platform.orchestration.spark_resources import delta_table
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform_tests.pipeline import toy

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CATALOG = Catalog((toy.CSV,), ())
BRONZE = asset_key("bronze.events")


class Given:
    """A provider that counts who asked."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark, self.asked = spark, 0

    def session(self, *, quick: bool = True) -> SparkSession:
        self.asked += 1
        return self.spark


@pytest.fixture
def place(tmp_path: Path) -> Lakehouse:
    zone = toy.Zone(tmp_path)
    zone.csv("events/a.csv", [toy.good("one"), toy.good("two"), toy.bad()])
    return lakehouse_of(Settings(home=tmp_path, settle_seconds=0), CATALOG)


@pytest.fixture
def on() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_an_own_asset_reads_our_tables_with_the_platform_s_spark(
    place: Lakehouse, on: dg.DagsterInstance, spark: SparkSession
) -> None:
    provider = Given(spark)

    @dg.asset(deps=[BRONZE])
    def count(pyspark: PySparkResource, bronze_events: DeltaTableResource) -> dg.MaterializeResult:
        table = bronze_events.load()
        by_spark = pyspark.spark_session.read.format("delta").load(table.table_uri).count()
        assert pyspark.spark_context is spark.sparkContext
        return dg.MaterializeResult(metadata={"rust": table.to_pyarrow_table().num_rows, "spark": by_spark})

    @dg.asset
    def lazy(spark: LazyPySparkResource) -> int:
        return spark.spark_session.range(3).count()

    @dg.asset
    def asks_for_no_session(pyspark: PySparkResource) -> None:
        pass

    defs = build_defs(CATALOG, place, spark=provider, assets=[count, lazy, asks_for_no_session])
    job = defs.resolve_implicit_global_asset_job_def()
    idle = job.execute_in_process(instance=on, asset_selection=[asks_for_no_session.key])
    assert (idle.success, provider.asked) == (True, 0)
    done = job.execute_in_process(instance=on, asset_selection=[BRONZE, count.key, lazy.key])
    (told,) = done.asset_materializations_for_node("count")
    assert {name: told.metadata[name].value for name in ("rust", "spark")} == {"rust": 2, "spark": 2}
    assert done.output_for_node("lazy") == 3


def test_what_has_the_name_of_ours_takes_its_place(place: Lakehouse, spark: SparkSession) -> None:
    @dg.job(name="maintenance")
    def gentle() -> None: ...

    @dg.job
    def mine() -> None: ...

    @dg.sensor(name="surges", job=mine)
    def unlike_any_of_ours(context: dg.SensorEvaluationContext) -> None: ...

    ours = build_defs(CATALOG, place)
    names = {s.name for s in ours.sensors or ()}
    (schedule, *_) = [s for s in ours.schedules or () if "maintenance" in s.name]
    weekly = dg.ScheduleDefinition(name=schedule.name, job=gentle, cron_schedule="0 3 * * 0")
    defs = build_defs(
        CATALOG,
        place,
        jobs=[gentle, mine],
        schedules=[weekly],
        sensors=[unlike_any_of_ours],
        executor=dg.multiprocess_executor,
        resources={"bronze_events": dg.ResourceDefinition.hardcoded_resource("another table")},
    )
    assert defs.resolve_schedule_def(schedule.name).cron_schedule == "0 3 * * 0"
    assert defs.resolve_job_def("maintenance").graph.name == "maintenance"
    assert [job.name for job in defs.jobs or ()].count("maintenance") == 1
    assert {"catch_up", "intake", "mine"} <= {job.name for job in defs.jobs or ()}
    assert names | {"surges"} == {s.name for s in defs.sensors or ()}
    assert len(list(defs.schedules or ())) == len(list(ours.schedules or ()))
    assert defs.executor is dg.multiprocess_executor
    dg.Definitions.validate_loadable(defs)


def test_without_more_than_a_catalog_settings_say_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_HOME", str(tmp_path / "home"))
    dg.Definitions.validate_loadable(build_defs(CATALOG))


def test_the_session_of_our_own_is_set_up_by_the_settings(tmp_path: Path) -> None:
    place = lakehouse_of(Settings(home=tmp_path, spark_memory="1500m", spark_cores=3), CATALOG)
    provider = place.spark
    assert (provider.memory, provider.cores) == ("1500m", 3)  # type: ignore[attr-defined]


def test_a_table_in_a_bucket_is_found_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Lake("s3://bucket/lake").path("silver.events")
    assert delta_table(path).client_options is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    found = delta_table(path)
    assert (found.url, found.client_options and found.client_options.allow_http) == (path, True)
