"""Which servers `dagster.yaml` and `feature_store.yaml` name, read as Dagster and Feast read them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from medallion_platform.errors import Kind, MedallionError

_RUNS_AT_ONCE = 10
"""How many runs Dagster lets work at a time where nothing is said of it."""


class WrongConfiguration(MedallionError):
    """A file of settings cannot be read, or needs a variable that is not set; the text says which one."""

    kind = Kind.PERMANENT
    remedy = "correct it"


def read_yaml(file: Path) -> dict[str, Any]:
    """What a file of settings says, nothing if it does not exist.

    Raises:
        WrongConfiguration: it cannot be read, or is no mapping.
    """
    try:
        found = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise WrongConfiguration(f"{file} cannot be read: {error}") from None
    except yaml.YAMLError as error:  # its text quotes the line, which may hold a password
        mark = getattr(error, "problem_mark", None)
        raise WrongConfiguration(f"{file} is no YAML" + (f", line {mark.line + 1}" if mark else "")) from None
    if not isinstance(found, dict | None):
        raise WrongConfiguration(f"{file} holds no settings by their names")
    return found or {}


def postgres_url(dagster: Mapping[str, Any]) -> URL | None:
    """The Postgres that a `dagster.yaml` names as Dagster's storage, None if it names none.

    Raises:
        WrongConfiguration: a variable that it names is not set, or its URL is none.
    """
    given = dagster.get("storage", {}).get("postgres")
    if not given:
        return None
    if "postgres_url" in given:
        try:
            return make_url(_sourced(given["postgres_url"]))
        except ArgumentError:  # its text quotes the URL
            raise WrongConfiguration("postgres_url in dagster.yaml is no URL") from None
    named = {name: _sourced(value) for name, value in given["postgres_db"].items() if name != "params"}
    return URL.create(
        "postgresql",
        username=named.get("username"),
        password=named.get("password"),
        host=named.get("hostname"),
        port=int(named.get("port") or 5432),
        database=named.get("db_name"),
        query={name: str(value) for name, value in given["postgres_db"].get("params", {}).items()},
    )


def _sourced(value: Any) -> str:
    """A value, or that of the variable that it names (`{env: NAME}`)."""
    if not isinstance(value, dict):
        return str(value)
    name = str(value.get("env", ""))
    if name not in os.environ:
        raise WrongConfiguration(
            f"dagster.yaml takes a value from the variable {name}, which is not set", remedy=f"set {name}"
        )
    return os.environ[name]


def runs_at_once(dagster: Mapping[str, Any]) -> int | None:
    """How many runs a `dagster.yaml` lets work at a time, None if it sets no limit."""
    by_coordinator = (dagster.get("run_coordinator") or {}).get("config") or {}
    by_runs = (dagster.get("concurrency") or {}).get("runs") or {}
    most = by_runs.get("max_concurrent_runs", by_coordinator.get("max_concurrent_runs", _RUNS_AT_ONCE))
    return int(most) if int(most) >= 0 else None


def redis_nodes(feast: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to connect with to each Redis that a `feature_store.yaml` names as the online store.

    Its text is `host:port,host:port,ssl=true,password=...`, where values are JSON or plain, and `$NAME` is a
    variable of the environment.
    """
    online = feast.get("online_store") or {}
    if not isinstance(online, dict) or online.get("type") != "redis":
        return []
    parts = os.path.expandvars(str(online.get("connection_string", "localhost:6379"))).split(",")
    options = {name: _json_or_text(value) for name, _, value in (p.partition("=") for p in parts) if value}
    nodes = [part.partition(":") for part in parts if "=" not in part]
    return [{"host": host, "port": int(port or 6379), **options} for host, _, port in nodes]


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
