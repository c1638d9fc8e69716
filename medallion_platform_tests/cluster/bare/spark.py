"""The driver of a Job of Kubernetes: Spark with two executors, by Spark's own defaults."""

from __future__ import annotations

import os

from append import append

from medallion_platform.installation.local_spark import local_spark

pod = os.environ
spark = local_spark(pod["LAKE"]).start(
    {
        "spark.master": f"k8s://https://{pod['KUBERNETES_SERVICE_HOST']}:{pod['KUBERNETES_SERVICE_PORT']}",
        "spark.driver.host": pod["ADDRESS"],
        "spark.driver.bindAddress": pod["ADDRESS"],
        "spark.kubernetes.namespace": pod["NAMESPACE"],
        "spark.kubernetes.driver.pod.name": pod["POD"],
        "spark.kubernetes.container.image": pod["IMAGE"],
        "spark.kubernetes.executor.podTemplateFile": "/code/executor.yaml",
        "spark.kubernetes.executor.podTemplateContainerName": "executor",
        "spark.kubernetes.executor.disableConfigMap": "true",
        "spark.kubernetes.executor.request.cores": "200m",
        "spark.executor.instances": "2",
        "spark.executor.cores": "1",
        "spark.executor.memory": "1g",
    },
    cores=2,
    quick=True,
)
append(spark, pod["TABLE"], int(pod["MEGABYTES"]))
spark.stop()
