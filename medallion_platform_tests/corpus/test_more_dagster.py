"""Further failures of runs, of storage and of code locations, as Dagster tells them."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.autodiscovery import loadable_targets_from_python_file
from sqlalchemy import create_engine, text

from medallion_platform.orchestration import runs
from medallion_platform_tests.corpus.causes import ROW, fails
from medallion_platform_tests.corpus.test_dagster import failed, job_of, nothing
from medallion_platform_tests.test_errors import closed

__all__ = ["closed"]


@pytest.fixture
def on(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with runs.open_instance(tmp_path / "dagster") as instance:
        yield instance


# how runs end ---------------------------------------------------------------------------------------


@pytest.mark.failure("network")
def test_a_step_whose_retries_are_used_up(on: dg.DagsterInstance, closed: str) -> None:
    host, port = closed.split(":")

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
    def asks() -> None:
        socket.create_connection((host, int(port)))

    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        asks()

    assert failed(on, job.execute_in_process(instance=on, raise_on_error=False).run_id)


@pytest.mark.failure("network")
def test_a_resource_whose_server_is_away(on: dg.DagsterInstance, closed: str) -> None:
    host, port = closed.split(":")

    @dg.resource
    def store(_: dg.InitResourceContext) -> object:
        return socket.create_connection((host, int(port)))

    done = job_of(nothing, store=store).execute_in_process(instance=on, raise_on_error=False)
    assert failed(on, done.run_id)


@pytest.mark.failure("data")
def test_a_check_that_stops_what_comes_after_it(on: dg.DagsterInstance) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("whole", asset="rows", blocking=True)])
    def rows() -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
        yield dg.Output(None)
        yield dg.AssetCheckResult(passed=False, metadata={"of": ROW})

    assert failed(on, dg.materialize([rows], instance=on, raise_on_error=False).run_id)


@pytest.mark.failure("corrupt")
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_what_another_step_left_is_damaged(on: dg.DagsterInstance, tmp_path: Path, damage: str) -> None:
    @dg.asset
    def first() -> list[int]:
        return list(range(1000))

    @dg.asset
    def second(first: list[int]) -> int:
        return len(first)

    kept = {"io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "kept"))}
    assert dg.materialize([first], resources=kept, instance=on).success
    file = tmp_path / "kept/first"
    file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:100])
    both = dg.materialize(
        [first, second], resources=kept, selection="second", instance=on, raise_on_error=False
    )
    assert not both.success


@pytest.mark.failure("unknown")
def test_a_step_that_says_itself_that_it_failed(on: dg.DagsterInstance) -> None:
    def gives_up(_: dg.OpExecutionContext) -> None:
        raise dg.Failure(ROW, allow_retries=False)

    assert failed(on, job_of(gives_up).execute_in_process(instance=on, raise_on_error=False).run_id)


@pytest.mark.failure("permanent")
def test_a_step_that_gives_back_nothing_of_what_it_names(on: dg.DagsterInstance) -> None:
    @dg.op(out={"a": dg.Out(), "b": dg.Out()})
    def half() -> Iterator[dg.Output[int]]:
        yield dg.Output(1, "a")

    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        half()

    assert failed(on, job.execute_in_process(instance=on, raise_on_error=False).run_id)


PROGRAMS = {"unknown": "exit 3", "evicted": "kill -KILL $$"}


@pytest.mark.failure(of="kind")
@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_of_a_step_that_ends(on: dg.DagsterInstance, kind: str) -> None:
    def pipes(context: dg.OpExecutionContext) -> None:
        client = dg.PipesSubprocessClient()
        client.run(command=["sh", "-c", PROGRAMS[kind]], context=context)

    assert failed(on, job_of(pipes).execute_in_process(instance=on, raise_on_error=False).run_id)


@dg.op(config_schema={"by": str})
def dies(context: dg.OpExecutionContext) -> None:
    os.kill(os.getpid(), signal.Signals[context.op_config["by"]])


@dg.job
def in_processes() -> None:
    dies()


@pytest.mark.faults
@pytest.mark.failure(of="kind")
@pytest.mark.parametrize(("kind", "by"), [("evicted", "SIGKILL"), ("poison", "SIGSEGV")])
def test_a_process_of_a_step_that_ends(on: dg.DagsterInstance, kind: str, by: str) -> None:
    told = {"ops": {"dies": {"config": {"by": by}}}}
    job = dg.reconstructable(in_processes)
    assert failed(on, dg.execute_job(job, on, run_config=told, raise_on_error=False).run_id)


# what Dagster refuses -------------------------------------------------------------------------------


def of_file(text: str) -> Callable[[Path], object]:
    """The code of a project."""

    def load(folder: Path) -> object:
        (folder / "location.py").write_text(text)
        return loadable_targets_from_python_file(str(folder / "location.py"))

    return load


def of_partitions(_: Path) -> object:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a"]))
    def rows() -> None: ...

    return dg.materialize([rows], partition_key="b")


def cycle(_: Path) -> object:
    @dg.asset(deps=["b"])
    def a() -> None: ...

    @dg.asset(deps=["a"])
    def b() -> None: ...

    return dg.Definitions([a, b]).resolve_all_job_defs()


def twice(_: Path) -> object:
    @dg.asset
    def a() -> None: ...

    return dg.Definitions([a, dg.AssetSpec("a")]).resolve_all_job_defs()


def variable(_: Path) -> object:
    class Needs(dg.ConfigurableResource):  # type: ignore[type-arg]
        of: str

    @dg.asset
    def rows(needs: Needs) -> None: ...

    return dg.materialize([rows], resources={"needs": Needs(of=dg.EnvVar("NO_SUCH_VARIABLE"))})


REFUSED: dict[str, Callable[[Path], object]] = {
    "syntax": of_file("def ("),
    "import": of_file("import no_such_module"),
    "nothing in it": of_file("a = 1"),
    "its own error": of_file("raise RuntimeError"),
    "no file": lambda folder: loadable_targets_from_python_file(str(folder / "none.py")),
    "partition": of_partitions,
    "cycle": cycle,
    "twice": twice,
    "variable": variable,
}


@pytest.mark.failure("permanent")
@pytest.mark.parametrize("wrong", REFUSED)
def test_code_of_a_project_that_cannot_be(tmp_path: Path, wrong: str) -> None:
    fails(REFUSED[wrong], tmp_path)


# its storage ----------------------------------------------------------------------------------------


def kept_run(folder: Path) -> Path:
    """The database of runs of an installation."""
    with runs.open_instance(folder / "dagster") as instance:
        instance.create_run_for_job(job_of(nothing))
    return next(iter((folder / "dagster").rglob("runs.db")))


def read_runs(folder: Path) -> object:
    with runs.open_instance(folder / "dagster") as instance:
        return instance.get_runs()


@pytest.mark.failure("corrupt")
def test_a_storage_that_is_damaged(tmp_path: Path) -> None:
    place = kept_run(tmp_path)
    place.write_bytes(place.read_bytes()[:4096] + os.urandom(place.stat().st_size - 4096))
    fails(read_runs, tmp_path)


@pytest.mark.failure("permanent")
def test_a_storage_of_another_version(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{kept_run(tmp_path)}")
    with engine.begin() as store:
        store.execute(text("UPDATE alembic_version SET version_num = 'of-tomorrow'"))
        store.execute(text("ALTER TABLE runs RENAME COLUMN run_body TO body"))
    fails(read_runs, tmp_path)


@pytest.mark.failure("conflict")
def test_a_run_that_there_is(on: dg.DagsterInstance) -> None:
    run = on.create_run_for_job(job_of(nothing))
    fails(lambda: on.add_run(run))


@pytest.mark.failure("conflict")
def test_a_storage_that_another_one_holds(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{kept_run(tmp_path)}", connect_args={"timeout": 0})
    with engine.connect() as one, engine.connect() as other:
        one.exec_driver_sql("BEGIN EXCLUSIVE")
        fails(lambda: other.exec_driver_sql("DELETE FROM runs"))
