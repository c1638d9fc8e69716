"""What is logged, and how: nothing more than today unless it is asked for."""

import json
import logging
import os
import re
import subprocess
import sys
from datetime import datetime

import pytest

from medallion_platform.cli.logs import JsonFormatter
from medallion_platform_tests.command import REPOSITORY, medallion

INTAKE = """
import sys
from pathlib import Path
from medallion_platform.cli.logs import LogFormat, LogLevel, set_up_logging
from medallion_platform_tests.pipeline.toy import Zone, good
form, level, root = sys.argv[1:]
set_up_logging(LogFormat(form) if form else None, LogLevel(level) if level else None)
zone = Zone(Path(root))
zone.csv("events/1.csv", [good("a", email="jane.roe@example.com")])
zone.take()
"""


def logged(form: str, level: str, root: object) -> list[str]:
    command = [sys.executable, "-c", INTAKE, form, level, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "jane.roe" not in done.stderr
    return done.stderr.splitlines()


def test_an_intake_is_told_as_json_with_its_fields(tmp_path: object) -> None:
    lines = [json.loads(line) for line in logged("json", "info", tmp_path)]
    told = [line for line in lines if line["logger"] == "medallion_platform.pipeline.intake.polars_engine"]
    assert [line["message"].partition(": ")[2] for line in told] == ["planned", "staged", "committed"]
    last = told[-1]
    assert (last["level"], last["table"], last["run_id"], last["read"]) == (
        "info",
        "bronze.events",
        "test",
        1,
    )
    assert datetime.fromisoformat(last["time"]).tzinfo is not None


@pytest.mark.parametrize(("form", "level"), [("", ""), ("json", ""), ("text", "warning")])
def test_nothing_is_said_of_what_goes_well_unless_it_is_asked_for(
    form: str, level: str, tmp_path: object
) -> None:
    assert logged(form, level, tmp_path) == []


def test_text_is_one_line_each(tmp_path: object) -> None:
    lines = logged("text", "info", tmp_path)
    assert any("INFO" in line and line.endswith("bronze.events: committed") for line in lines)


def test_an_error_is_logged_by_its_type_and_not_by_its_text() -> None:
    try:
        raise ValueError("john.doe@example.com")
    except ValueError:
        record = logging.makeLogRecord(
            {"msg": "%s went\nwrong", "args": ("silver.x",), "exc_info": sys.exc_info(), "table": "silver.x"}
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["message"], told["error"], told["table"]) == (
        "silver.x went\nwrong",
        "ValueError",
        "silver.x",
    )
    assert "john.doe" not in line


def test_a_level_that_is_none_is_refused() -> None:
    done = medallion("--log-level", "loud", "status")
    assert done.returncode == 2
    assert "loud" in done.stderr


@pytest.mark.parametrize("variable", ["MEDALLION_LOG_LEVEL", "MEDALLION_LOG_FORMAT"])
def test_a_wrong_variable_is_told_as_other_settings_are(variable: str) -> None:
    done = medallion("status", env=os.environ | {variable: "a secret in the wrong place"})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"medallion: {variable}: is none of '\w+'(, '\w+')* or '\w+'\n", done.stderr)
