"""The Spark that this platform starts: its Java, its jars, its session, and what makes it start sooner.

Nothing here knows a table or a setting: `runtime.py` says with which settings a session starts. A further
provider, such as Kubernetes or Spark Connect, belongs here.
"""
