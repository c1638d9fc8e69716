"""A driver whose executors are pods, in a process of its own: it says what it saw, once it has executors and
again for each line of its input, which says how long to wait. Each time before it works it says so.

Given are a folder (`executor.yaml`, `secrets/`), the URL of the API server, an address, how long to wait, and
how many executors to wait for.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from medallion_platform.errors import MedallionError
from medallion_platform.installation.local_spark import local_spark
from medallion_platform.spark.driver import end_spark
from medallion_platform.spark.executor_wait import with_executors
from medallion_platform.spark.kubernetes import DriverPod, Executors, KubernetesSpark

POLLED = {
    "spark.kubernetes.executor.enableApiWatcher": "false",
    "spark.kubernetes.executor.apiPollingInterval": "500ms",
    "spark.kubernetes.executor.missingPodDetectDelta": "1s",
}
"""The stand-in of the API server only answers, and pushes nothing."""


def main(folder: Path, api: str, address: str, patience: float, wanted: int) -> None:
    """Use executors, of two that are asked for."""
    spark = KubernetesSpark(
        replace(local_spark(memory="512m"), settings=POLLED),
        DriverPod("driver", "lake", address, "image", api),
        Executors(2, 2, 1 << 30, folder / "executor.yaml"),
        folder / "secrets",
    )

    def look(spark: KubernetesSpark) -> dict[str, Any]:
        session = spark.session()
        python: Any = session.sparkContext
        while python._jsc.sc().getExecutorIds().size() < wanted:
            time.sleep(0.1)
        print("works", flush=True)
        hosts = "java_method('java.lang.System', 'getenv', 'SPARK_EXECUTOR_POD_IP')"
        rows = session.range(1000, numPartitions=8).selectExpr("id % 10 AS k", "id", f"{hosts} AS host")
        sums = rows.groupBy("k").agg({"id": "sum"}).collect()
        seen = {row.host for row in rows.select("host").distinct().collect()}
        return {"sums": sorted(map(list, sums)), "hosts": sorted(seen)}

    spark.start()
    for seconds in chain([patience], map(float, sys.stdin)):
        try:
            told = with_executors(partial(look, replace(spark, patience=seconds)), seconds)
        except MedallionError as error:
            told = {"error": str(error), "kind": error.kind}
        print(json.dumps(told), flush=True)
    end_spark()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))
