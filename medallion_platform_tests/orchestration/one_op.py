"""A run of a job with one op, as short as one can be."""

from collections.abc import Callable

import dagster as dg


def run_one_op(on: dg.DagsterInstance, do: Callable[[dg.OpExecutionContext], object]) -> dg.DagsterRun:
    """The run of a job whose one op does this; it may fail."""

    @dg.op(out=dg.Out(dg.Nothing))
    def body(context: dg.OpExecutionContext) -> None:
        do(context)

    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        body()

    done = job.execute_in_process(instance=on, raise_on_error=False)
    found = on.get_run_by_id(done.run_id)
    assert found
    return found
