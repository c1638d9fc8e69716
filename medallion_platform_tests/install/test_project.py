"""A project of one's own: made by `init`, found by its pyproject.toml, refused in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from medallion_platform import new_project
from medallion_platform.installation.project import MODULE, SAMPLE, Project, ProjectError, project_above
from medallion_platform_tests import command as commands
from medallion_platform_tests.ui.server import serving


def medallion(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it, without what this process's environment says of a project."""
    ours = {MODULE, "MEDALLION_HOME", "MEDALLION_LAKE", "MEDALLION_LANDING"}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    return commands.medallion(*arguments, where=where, env=env, seconds=200)


def refused(where: Path, *arguments: str) -> str:
    done = medallion(where, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_project_is_found_from_each_of_its_folders(tmp_path: Path) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    expected = Project("shop.catalog", tmp_path / "shop", "shop.definitions", "shop")
    assert project_above(tmp_path / "shop") == expected
    assert project_above(tmp_path / "shop" / "example" / "orders") == expected
    assert project_above(tmp_path) is None


def test_the_new_project_is_whole_and_names_itself_everywhere(tmp_path: Path) -> None:
    made = new_project.make_project("corner_shop", tmp_path / "corner_shop")
    names = {str(path.relative_to(tmp_path / "corner_shop")) for path in made}
    assert names == {
        ".dockerignore",
        ".github/workflows/ci.yml",
        ".gitignore",
        "Dockerfile",
        "README.md",
        "corner_shop/__init__.py",
        "corner_shop/catalog.py",
        "corner_shop/definitions.py",
        "corner_shop/tables.py",
        "example/orders/2026-02.csv",
        "pyproject.toml",
        "tests/test_tables.py",
    }
    assert not any(word in path.read_text() for path in made for word in ("NAME", "VERSION"))
    assert len((tmp_path / "corner_shop" / "README.md").read_text().splitlines()) <= 10
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E4,F,I", "--no-cache"]
    done = subprocess.run(ruff, cwd=tmp_path / "corner_shop", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name", ["json", "pytest", "class", "My-shop", "2shops", "", "tests", "a.b", "../up"]
)
@pytest.mark.failure("permanent")
def test_a_name_that_cannot_be_or_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError):
        new_project.make_project(name, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")
    assert "is not empty" in refused(tmp_path, "init", "shop")
    assert [p.name for p in (tmp_path / "shop").iterdir()] == ["mine.txt"]


def test_what_is_wrong_with_a_project_is_one_sentence(tmp_path: Path) -> None:
    assert "no project here" in refused(tmp_path, "status")
    assert "there is no module nowhere.catalog" in refused(tmp_path, "--module", "nowhere.catalog", "status")
    (tmp_path / "none.py").write_text("x = 1\n")
    assert "none holds no catalog" in refused(tmp_path, "--module", "none", "status")
    (tmp_path / "two.py").write_text(
        "from medallion_platform import Catalog\nold, new = Catalog((), ()), Catalog((), ())\n"
    )
    assert "several catalogs (new, old)" in refused(tmp_path, "--module", "two", "status")
    (tmp_path / "bad.py").write_text("import not_there_at_all\n")
    told = refused(tmp_path, "--module", "bad", "status")
    assert "bad does not import: ModuleNotFoundError: No module named 'not_there_at_all'" in told
    assert "bad.py, line 1" in told
    (tmp_path / "pyproject.toml").write_text("[tool.medallion]\n")
    assert "names no module" in refused(tmp_path, "status")
    (tmp_path / "pyproject.toml").write_text("[tool.medallion\n")
    assert "cannot be read" in refused(tmp_path, "status")


@pytest.mark.parametrize(
    "command", [("demo",), ("--module", "other.catalog", "run"), ("--module", SAMPLE, "plan")]
)
def test_a_home_belongs_to_a_project(tmp_path: Path, command: tuple[str, ...]) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    told = refused(tmp_path / "shop" / "example", *command)
    assert f"{tmp_path / 'shop'} is a project of its own (shop.catalog)" in told
    assert "name another folder for these, e.g. --home /tmp/" in told
    assert not (tmp_path / "shop" / ".medallion").exists()


def test_another_catalog_works_in_a_project_with_a_home_of_its_own(tmp_path: Path) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    there = tmp_path / "home"
    (there / "lake").mkdir(parents=True)
    done = medallion(tmp_path / "shop", "--module", SAMPLE, "status", "--home", str(there), "--json")
    assert done.returncode == 0, done.stderr
    assert "silver.events" in {row["table"] for row in json.loads(done.stdout)}


def test_medallion_test_runs_the_project_s_tests(tmp_path: Path) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    (tmp_path / "shop" / "tests" / "test_tables.py").write_text(
        "from shop.catalog import catalog\n\n"
        "def test_it():\n    assert catalog.names == ('bronze.orders', 'gold.daily_orders')\n"
    )
    done = medallion(tmp_path / "shop" / "example", "test", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


LOADED = """{
  workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename } } } }
  assetNodes { assetKey { path } }
}"""


def test_dev_shows_the_project_and_ends_by_sigterm(tmp_path: Path) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    begun: list[int] = []
    nothing_said = dict.fromkeys((MODULE, "MEDALLION_HOME", "MEDALLION_LAKE", "MEDALLION_LANDING"), "")
    with serving(
        lambda port: [*commands.MEDALLION, "dev", "--port", str(port)],
        tmp_path / "log",
        nothing_said,
        begun.append,
        tmp_path / "shop" / "example",
    ) as address:
        asked = urllib.request.Request(
            f"{address()}/graphql",
            json.dumps({"query": LOADED}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            told = json.load(answer)["data"]
        entries = [(e["name"], e["locationOrLoadError"]) for e in told["workspaceOrError"]["locationEntries"]]
        assert entries == [("shop", {"__typename": "RepositoryLocation"})]
        keys = {node["assetKey"]["path"][-1] for node in told["assetNodes"]}
        assert {"bronze_orders", "gold_daily_orders"} <= keys
        time.sleep(8)  # longer than a sensor waits between two looks
        said = (tmp_path / "log").read_text().splitlines()
        assert len(said) == 2, f"a line for each look of a sensor hides what matters: {said}"
        dev = psutil.Process(begun[0])
        others = dev.children(recursive=True)
        assert others
        dev.terminate()
        dev.wait(timeout=60)
        assert psutil.wait_procs(others, timeout=30)[1] == []
    assert (tmp_path / "shop" / ".medallion" / "dagster").is_dir()


@pytest.mark.parametrize("command", [["status"], ["rollback", "0d24"], ["history", "bronze.orders"]])
def test_without_a_lake_the_command_is_named_that_makes_one_here(tmp_path: Path, command: list[str]) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    told = refused(tmp_path / "shop", *command)
    assert "there is no lake at" in told
    assert "`medallion run`" in told
    assert "demo" not in told, "it is refused in a project of one's own"


def test_a_run_names_the_files_that_it_cannot_read_and_its_log_tells_what_it_took_in(tmp_path: Path) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    files = tmp_path / "shop" / "example" / "orders"
    (files / "noise.csv").write_bytes(bytes(range(256)) * 40)
    first = medallion(tmp_path / "shop", "run", "bronze.orders", "--landing", "example", "--json")
    assert first.returncode == 0, first.stderr
    assert "noise.csv cannot be read at all and is in quarantine" in first.stderr
    assert "`medallion dead-letters show bronze.orders`" in first.stderr
    (taken,) = [row for row in json.loads(first.stdout) if row["table"] == "bronze.orders"]
    (commit, *_) = json.loads(medallion(tmp_path / "shop", "history", "bronze.orders", "--json").stdout)
    told = medallion(tmp_path / "shop", "logs", commit["run"]).stdout
    assert f"bronze.orders: {taken['read']} records from 2 files, {taken['written']} written" in told
    again = medallion(tmp_path / "shop", "run", "bronze.orders", "--landing", "example", "--json")
    assert "noise.csv" not in again.stderr, "it is said of the run that met it"


def test_where_the_sample_is_meant_its_demo_is_named(tmp_path: Path) -> None:
    told = refused(tmp_path, "--module", "medallion_sample.catalog", "status")
    assert "`medallion demo` or `medallion run` creates it" in told


def test_plan_tells_what_is_to_do(tmp_path: Path) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    assert "there is no lake at" in refused(tmp_path / "shop", "plan")
    (tmp_path / "shop" / ".medallion" / "lake").mkdir(parents=True)
    done = medallion(tmp_path / "shop" / "tests", "plan", "--json")
    assert done.returncode == 0, done.stderr
    (planned,) = json.loads(done.stdout)
    assert (planned["table"], planned["action"]) == ("gold.daily_orders", "waits")


def test_dg_understands_it(tmp_path: Path) -> None:
    new_project.make_project("shop", tmp_path / "shop")
    dg = Path(sys.executable).with_name("dg")
    env = {**os.environ, "MEDALLION_HOME": str(tmp_path / "home"), "DAGSTER_HOME": str(tmp_path)}
    env |= {"PYTHONPATH": str(tmp_path / "shop"), "VIRTUAL_ENV": sys.prefix}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env.pop(MODULE)
    for command in (["check", "defs"], ["list", "defs", "--json"]):
        done = subprocess.run(
            [str(dg), *command], cwd=tmp_path / "shop", env=env, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "daily_orders" in done.stdout
