"""Every command of the README and the docs does what is said of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.installation.project import MODULE
from medallion_platform_tests.command import REPOSITORY, medallion

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
RUN_ELSEWHERE = {
    "demo": "test_demo.py",
    "test": "this suite, and .ci/run with -m ui, integration and faults; cluster needs root",
    "stream": "kafka/test_stream.py",
    "dev": "ui/test_ui.py",
    "drill": "faults/test_drills.py",
    "bench": ".ci/run",
}
PLACEHOLDERS = {"DIR", "RUN", "..."}
"""Commands with one of these are run with a real value below."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert all(line.startswith("./medallion ") for line in lines), f"{page.name}: {lines}"
    lines += re.findall(r"`(\./medallion [^`]+)`", page.read_text())
    told = [shlex.split(line)[1:] for line in lines]
    return [c for c in told if not PLACEHOLDERS & set(c)]


def run(arguments: list[str], where: Path, home: Path | None) -> str:
    """What a command prints, or notes if that is nothing.

    home: None for that of the project which `where` lies in, as a reader has it.
    """
    environment = {**os.environ, "MEDALLION_HOME": str(home or ""), "PYTHONPATH": str(REPOSITORY)}
    if home is None:
        del environment[MODULE]
    done = medallion(*arguments, where=where, env=environment, seconds=250)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_and_of_the_daily_work(
    undisturbed: tuple[Path, list[dict[str, int]]], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(undisturbed[0], home)
    shutil.copytree(home / "landing", tmp_path / "landing")
    told = [c for page in PAGES if page.name != "add-a-source.md" for c in commands(page)]
    once = {tuple(c): c for c in told if c[0] not in RUN_ELSEWHERE}
    assert len(once) > 8
    for command in once.values():
        assert run(command, tmp_path, home).strip()


@pytest.mark.timeout(600)
def test_a_run_is_taken_back_by_the_id_that_status_names(
    undisturbed: tuple[Path, list[dict[str, int]]], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(undisturbed[0], home)
    tables = {t["table"]: t for t in json.loads(run(["status", "--json"], tmp_path, home))}
    bad = tables["gold.regional_rollups_weekly"]
    back = json.loads(run(["rollback", bad["run"], "--json"], tmp_path, home))
    mine = {name for name, t in tables.items() if t["run"] == bad["run"]}
    assert bad["table"] in mine
    assert {t["table"]: t["rows"] for t in back} == dict.fromkeys(mine, 0)
    after = {t["table"]: t for t in json.loads(run(["status", "--json"], tmp_path, home))}
    assert {after[name]["rows"] for name in mine} == {0}
    assert all(after[name]["version"] == tables[name]["version"] for name in after.keys() - mine)
    shown = json.loads(
        run(["show", bad["table"], "--version", str(bad["version"]), "--json"], tmp_path, home)
    )
    assert len(shown) == min(bad["rows"], 10)


@pytest.mark.timeout(600)
def test_a_source_is_added_as_the_page_says(tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "add-a-source.md"
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert [line for line in lines if not line.startswith("medallion ")] == ["cd weather"]
    steps = [shlex.split(line)[1:] for line in lines if line.startswith("medallion ")]
    assert [s[0] for s in steps] == (
        ["init", "test", "run", "dead-letters", "dead-letters", "show", "dead-letters", "plan", "run"]
    )
    begin, test, *steps = steps
    run(begin, tmp_path, None)
    project = tmp_path / "weather"
    tables, catalog, checked, field, filtered, personal, api = blocks(page, "python")
    domain = project / "weather" / "tables.py"
    assert tables.startswith("# weather/tables.py\n") and catalog.startswith("# weather/catalog.py\n")
    (project / "weather" / "catalog.py").write_text(catalog)
    shutil.rmtree(project / "example" / "orders")
    landed = project / "example" / "weather" / "2026-02-01.csv"
    landed.parent.mkdir()
    landed.write_text(blocks(page, "csv")[0])
    os.utime(landed, (0, 0))
    tests = project / "tests" / "test_tables.py"
    tests.write_text(tests.read_text().partition("def test_")[0] + checked)

    def answer(*arguments: str) -> Any:
        return json.loads(run([*arguments, "--json"], project, None).splitlines()[-1])

    domain.write_text(tables)
    assert "1 passed" in run(test, project, None)
    # The API is declared and not pulled: there is none.
    people = "\n\nclass People(ContractModel):\n" + textwrap.indent(personal, "    ")
    module = tables + "\n\n" + filtered
    domain.write_text(module + people + api)
    first = {r["table"]: r for r in answer(*steps[0])}
    assert [first["bronze.readings"][n] for n in ("read", "written", "dead_lettered", "duplicate")] == [
        6,
        3,
        2,
        1,
    ]
    assert {r["violates"] for r in answer(*steps[1])} == {
        "measured_at: is a timestamp",
        "temperature: at least -90",
    }
    assert len(answer(*steps[2])) == 2
    days = {r["station"]: (r["readings"], r["coldest"], r["warmest"]) for r in answer(*steps[3])}
    assert days == {"vienna": (2, 1.1, 1.5), "linz": (1, 0.2, 0.2)}

    declared = next(line for line in module.splitlines() if line.strip().startswith("temperature:"))
    domain.write_text(module.replace(declared, "    " + field.strip()))
    assert answer(*steps[4])[0]["written"] == 1
    planned = {r["table"]: (r["action"], r["partitions"]) for r in answer(*steps[5])}
    assert planned == {"gold.daily_weather": ("replace_partitions", 1), "silver.frost": ("append", 1)}
    again = {r["table"]: r for r in answer(*steps[6])}
    assert (again["silver.frost"]["read"], again["silver.frost"]["written"]) == (1, 1)
    days = {r["station"]: (r["readings"], r["coldest"], r["warmest"]) for r in answer(*steps[3])}
    assert days["linz"] == (2, -300.0, 0.2)


def test_the_page_on_own_assets_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    from medallion_platform.installation.catalog import catalog

    (code,) = blocks(REPOSITORY / "docs" / "own-assets.md", "python")
    said: dict[str, Any] = {"__name__": "documented"}
    exec(code, said)
    dg.Definitions.validate_loadable(said["defs"])
    assert "region_code" in catalog.by_name["silver.events"].contract.column_names
    used = said["countries"].required_resource_keys
    assert used <= set(said["defs"].resources)
