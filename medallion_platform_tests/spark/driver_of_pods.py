"""A driver whose executors are pods, in a process of its own: it says what it saw, and ends with its input.

Given are a folder (`executor.yaml`, `secrets/`), the URL of the API server, an address, and how long to wait.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from medallion_platform.installation.local_spark import local_spark
from medallion_platform.spark.driver import SparkDidNotStart, end_spark
from medallion_platform.spark.kubernetes import DriverPod, Executors, KubernetesSpark

POLLED = {
    "spark.kubernetes.executor.enableApiWatcher": "false",
    "spark.kubernetes.executor.apiPollingInterval": "500ms",
    # The hosts of both executors are wanted, so none begins before the other one.
    "spark.scheduler.minRegisteredResourcesRatio": "1",
}
"""The stand-in of the API server only answers, and pushes nothing."""


def main(folder: Path, api: str, address: str, patience: float) -> None:
    """Use two executors."""
    spark = KubernetesSpark(
        replace(local_spark(memory="512m"), settings=POLLED),
        DriverPod("driver", "lake", address, "image", api),
        Executors(2, 1, 1 << 30, folder / "executor.yaml"),
        folder / "secrets",
        patience,
    )
    try:
        session = spark.session()
    except SparkDidNotStart as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    hosts = "java_method('java.lang.System', 'getenv', 'SPARK_EXECUTOR_POD_IP')"
    rows = session.range(1000, numPartitions=8).selectExpr("id % 10 AS k", "id", f"{hosts} AS host")
    sums = rows.groupBy("k").agg({"id": "sum"}).collect()
    seen = {row.host for row in rows.select("host").distinct().collect()}
    print(json.dumps({"sums": sorted(map(list, sums)), "hosts": sorted(seen)}), flush=True)
    sys.stdin.read()
    end_spark()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
