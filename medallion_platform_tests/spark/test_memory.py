"""What is told of the memory that Spark holds, and when it began, by a real JVM."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from pyspark.sql import SparkSession

from medallion_platform.spark.memory import Heap, executor_heap, heap
from medallion_platform.spark.started import spark_instants
from medallion_platform_tests.waiting import until

MIB = 1 << 20


def after_collection(spark: SparkSession) -> Heap:
    """The heap as soon as a collection finds nothing more: after one, Spark's own threads let go of what else
    tests of this JVM have left."""
    jvm: Any = spark._jvm
    last: list[Heap] = []
    for _ in range(40):
        jvm.java.lang.System.gc()
        found = heap()
        assert found
        last = [*last[-3:], found]
        if len(last) == 4 and all(abs(found.live - one.live) < 4 * MIB for one in last):
            return found
        time.sleep(0.2)
    raise AssertionError("what lives in the heap never settles")


def test_of_a_heap_what_lives_in_it_is_told_and_not_what_fills_it(spark: SparkSession) -> None:
    gateway: Any = spark.sparkContext._gateway
    jvm: Any = spark._jvm
    before = after_collection(spark)
    assert before.live <= before.taken <= before.most
    # Of longs, since py4j would hand one of bytes back as text.
    held = gateway.new_array(jvm.long, 25 * MIB)
    grown = after_collection(spark)
    assert 190 * MIB < grown.live - before.live < 260 * MIB
    del held
    spark.range(1 << 20).selectExpr("sum(id)").collect()
    # py4j lets go of it in its own time.
    until(lambda: after_collection(spark).live < grown.live - 150 * MIB, 60)
    assert after_collection(spark).most == before.most


def test_without_executors_nothing_is_told_of_them(spark: SparkSession) -> None:
    spark.range(10).count()
    assert executor_heap() == 0


def test_who_has_no_jvm_loads_nothing_to_ask() -> None:
    code = "from medallion_platform.spark.memory import heap; print(heap()); import sys"
    code += "; print('pyspark' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["None", "False"]


def test_spark_says_when_it_was_ready_and_when_it_began_to_work(spark: SparkSession) -> None:
    spark.range(10).count()
    told = spark_instants()
    assert list(told) == ["session", "first_task"]
    assert told["session"] <= told["first_task"]
    assert spark_instants() == told, "later work changes nothing"
