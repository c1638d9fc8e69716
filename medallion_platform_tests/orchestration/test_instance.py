"""Dagster's processes do less while nothing happens, on the same databases."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from alembic.script import ScriptDirectory
from dagster._core.errors import DagsterCodeLocationLoadError
from dagster._daemon import controller
from dagster._daemon.auto_run_reexecution import auto_run_reexecution
from dagster._grpc.server_watcher import watch_grpc_server_thread
from dagster._time import get_current_timestamp

from medallion_platform.orchestration import instance, runs


def ask(on: dg.DagsterInstance) -> None:
    """One question to each of Dagster's databases."""
    on.get_run_ids(limit=1)
    on.all_instigator_state()
    on.get_latest_materialization_event(dg.AssetKey("nobody"))


def test_a_question_makes_no_engine(tmp_path: Path) -> None:
    with runs.open_instance(tmp_path) as on:
        ask(on)
        before = instance._kept_engine.cache_info()
        ask(on)
        after = instance._kept_engine.cache_info()
    assert after.misses == before.misses
    assert after.hits >= before.hits + 3


def test_migrations_are_read_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runs.open_instance(tmp_path) as on:
        ask(on)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the migrations are read again")

    monkeypatch.setattr(ScriptDirectory, "from_config", refuse)
    with dg.DagsterInstance.from_config(str(tmp_path)) as again:
        ask(again)


@pytest.mark.parametrize("away", [0, 3])
def test_a_retry_waits_for_its_code_location(away: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def retry(run: str) -> str:
        asked.append(run)
        if len(asked) <= away:
            raise DagsterCodeLocationLoadError("it is on a node that is gone", load_error_infos=[])
        return run

    monkeypatch.setattr(auto_run_reexecution, "retry_run", retry)
    monkeypatch.setattr(instance, "_ASK_AGAIN_SECONDS", 0)
    for _ in range(2):
        instance.wait_with_retries()
    assert auto_run_reexecution.retry_run("a run") == "a run"
    assert len(asked) == away + 1


def test_a_retry_fails_at_once_for_any_other_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def retry(run: str) -> None:
        asked.append(run)
        raise LookupError(run)

    monkeypatch.setattr(auto_run_reexecution, "retry_run", retry)
    instance.wait_with_retries()
    with pytest.raises(LookupError):
        auto_run_reexecution.retry_run("a run")
    assert asked == ["a run"]


@pytest.mark.parametrize("former", sorted(runs._FORMER_SETTINGS))
def test_a_home_of_a_former_version_keeps_its_runs(tmp_path: Path, former: str) -> None:
    settings = tmp_path / "dagster.yaml"
    settings.write_text(former)
    with dg.DagsterInstance.from_config(str(tmp_path)) as on:
        assert type(on) is dg.DagsterInstance
        run = on.create_run_for_job(dg.GraphDefinition("nothing").to_job())
    with runs.open_instance(tmp_path) as on:
        assert isinstance(on, instance.Instance)
        assert on.get_run_by_id(run.run_id)
        assert on.root_directory == str(tmp_path)


def test_settings_that_somebody_changed_are_kept(tmp_path: Path) -> None:
    settings = tmp_path / "dagster.yaml"
    settings.write_text("telemetry:\n  enabled: false\n")
    with runs.open_instance(tmp_path) as on:
        assert type(on) is dg.DagsterInstance
    assert settings.read_text() == "telemetry:\n  enabled: false\n"


def test_another_release_of_dagster_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_STORAGES", ("dagster.no_such_module", "dagster"))
    with runs.open_instance(tmp_path) as on:
        ask(on)
    assert not hasattr(dg, "create_engine")


def test_an_engine_with_options_of_its_own_is_made(tmp_path: Path) -> None:
    before = instance._kept_engine.cache_info()
    assert instance._engine(f"sqlite:///{tmp_path}/x.db", echo=True).echo
    assert instance._kept_engine.cache_info() == before


def test_the_daemon_asks_for_all_assets_every_few_minutes() -> None:
    instance.ask_less_often()
    asked: list[str] = []
    daemon: Any = SimpleNamespace(
        _grpc_server_registry=None,
        _workspace_process_context=SimpleNamespace(refresh_workspace=lambda: asked.append("all")),
    )
    look, now = controller.DagsterDaemonController.check_workspace_freshness, get_current_timestamp()
    assert look(daemon, now - instance.DESCRIPTION_SECONDS + 5) < now
    assert not asked
    assert look(daemon, now - instance.DESCRIPTION_SECONDS - 5) >= now
    assert asked == ["all"]


def test_the_daemon_lives_on_while_the_description_fails_for_some_minutes() -> None:
    instance.ask_less_often()

    def fail() -> None:
        raise ConnectionError

    daemon: Any = SimpleNamespace(
        _grpc_server_registry=None,
        _workspace_process_context=SimpleNamespace(refresh_workspace=fail),
        _logger=logging.getLogger(__name__),
    )
    look, last = controller.DagsterDaemonController.check_workspace_freshness, get_current_timestamp()
    last -= instance.DESCRIPTION_SECONDS
    assert look(daemon, last - instance._PATIENCE_SECONDS + 10) == last - instance._PATIENCE_SECONDS + 10
    with pytest.raises(ConnectionError):
        look(daemon, last - instance._PATIENCE_SECONDS - 10)


def test_the_daemon_asks_every_few_seconds_for_other_definitions() -> None:
    instance.ask_less_often()
    waits: list[float] = []
    ended: Any = SimpleNamespace(wait=waits.append, is_set=lambda: bool(waits))
    client = SimpleNamespace(get_server_id=lambda timeout: "the same")
    nobody: Any = lambda *_: None  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dagster._grpc.server_watcher.DagsterGrpcClient", SimpleNamespace)
        watch_grpc_server_thread(
            "location",
            client,  # type: ignore[arg-type]
            ended,
            get_location_entry=nobody,
            refresh_code_location=nobody,
            on_disconnect=nobody,
            on_reconnected=nobody,
            on_updated=nobody,
            on_error=nobody,
        )
    assert waits == [instance.WATCH_SECONDS]
