"""What the platform asks of a Kubernetes cluster: sizes of runs, leaders, numbers of workers, leftovers.

Decisions are pure functions of numbers and of states that were read; few modules talk to the API
server. How Spark starts on executors belongs to `spark`, when something runs to `orchestration`,
manifests to `helm-values`, of whose values one can be proposed to people. Nothing here knows Dagster, a
catalog or rows.
"""
