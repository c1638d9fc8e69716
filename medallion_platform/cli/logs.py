"""The platform's own log lines: text for people, or JSON for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum

from medallion_platform.cli.exits import USAGE, Stop
from medallion_platform.cli.terminal import LineFormatter, json_value

PLATFORM = "medallion_platform"
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes of every log record; all others are fields passed with `extra`."""


class LogFormat(StrEnum):
    """The format of log lines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


FORMAT_VARIABLE, LEVEL_VARIABLE = "MEDALLION_LOG_FORMAT", "MEDALLION_LOG_LEVEL"


def refuse_wrong_variables() -> None:
    """Tell a wrong variable as those of the settings are told, without its value.

    Raises:
        Stop: a variable says what there is not.
    """
    for variable, words in ((FORMAT_VARIABLE, LogFormat), (LEVEL_VARIABLE, LogLevel)):
        given = os.environ.get(variable)
        if given and given not in set(words):
            *first, last = (repr(str(word)) for word in words)
            raise Stop(f"{variable}: is none of {', '.join(first)} or {last}", USAGE)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time` (UTC), `level`, `logger`, `message`, then the record's own fields.

    Of an exception only the type is logged: its text could contain values of rows.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            entry["error"] = record.exc_info[0].__name__
        further = {k: v for k, v in vars(record).items() if k not in _KNOWN and k not in entry}
        return json.dumps(json_value(entry | further))


def set_up_logging(form: LogFormat | None, level: LogLevel | None) -> None:
    """Send log lines to stderr, as asked for; where nothing is asked for, Python's own way stays.

    That is: warnings and errors, by their text.
    """
    if form is None and level is None:
        return
    lines = logging.StreamHandler(sys.stderr)
    text = LineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    lines.setFormatter(JsonFormatter() if form is LogFormat.JSON else text)
    logging.basicConfig(handlers=[lines])
    logging.getLogger(PLATFORM).setLevel((level or LogLevel.WARNING).upper())
