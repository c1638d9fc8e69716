"""What the pod of the driver runs: a query on two executors, then it waits to be deleted."""

import json
import time

from medallion_platform.installation.cluster_spark import spark_of_process

session = spark_of_process().session()
node = "java_method('java.lang.System', 'getenv', 'NODE')"
rows = session.range(1000, numPartitions=8).selectExpr("id % 10 AS k", "id", f"{node} AS node")
until = time.monotonic() + 120
nodes: set[str] = set()
while len(nodes) < 2 and time.monotonic() < until:  # the second executor comes while the first one works
    nodes = {row.node for row in rows.select("node").distinct().collect()}
sums = sorted(map(list, rows.groupBy("k").agg({"id": "sum"}).collect()))
print(json.dumps({"nodes": sorted(nodes), "sums": sums}), flush=True)
time.sleep(3600)
