"""How Spark starts: its Java, its jars, its session, and the cache that makes it start faster.

This package knows no table and no setting: `installation/local_spark.py` gives a session its settings.
Further providers, such as Kubernetes or Spark Connect, belong here.
"""
