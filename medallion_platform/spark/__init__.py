"""How Spark starts: its Java, its jars, its session, and the cache that makes it start faster.

Nothing here knows a table or a setting: `runtime.py` has the settings of a session. A further provider, such
as Kubernetes or Spark Connect, belongs here.
"""
