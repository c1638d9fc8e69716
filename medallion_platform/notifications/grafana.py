"""Grafana: an annotation for each message, on all dashboards that show its tags, from begin to end.

HTTP API: https://grafana.com/docs/grafana/latest/developers/http_api/annotations/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any

from medallion_platform.healing.told import Message, Notice
from medallion_platform.notifications.channel import Undelivered
from medallion_platform.notifications.http import request

_MOST_TAGS = 20


@dataclass(frozen=True)
class Grafana:
    """token: of a service account that may read and write annotations. url: where Grafana is."""

    token: str = field(repr=False)
    url: str
    name: str = "grafana"
    silent: bool = True

    def send(self, notice: Notice, message: Message) -> str:
        """Make the annotation or change it; one that nobody remembers having made is found by its tag.

        Raises:
            Undelivered: Grafana did not take it.
        """
        content = _content(notice)
        if id := message.handle or self._made_before(notice.key):
            try:
                self._ask("PATCH", f"annotations/{id}", content)
                return id
            except Undelivered as error:
                if error.code != 404:  # somebody has deleted it
                    raise
        made = self._ask("POST", "annotations", {**content, "time": _milliseconds(notice.began)})
        return str(made.get("id", "")) if isinstance(made, dict) else ""

    def _made_before(self, key: str) -> str:
        found = self._ask("GET", "annotations", params={"tags": _tag(key), "limit": 1})
        return str(found[0].get("id", "")) if isinstance(found, list) and found else ""

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, params: dict[str, Any] | None = None
    ) -> Any:
        headers = {"authorization": f"Bearer {self.token}"}
        return request(method, f"{self.url}/api/{path}", body, headers=headers, params=params)


def _content(notice: Notice) -> dict[str, Any]:
    of = [f"table:{table}" for table in notice.tables[:_MOST_TAGS]]
    tags = ["medallion", _tag(notice.key), notice.state, notice.kind, notice.owner, *of]
    facts = "".join(f"<br>{escape(name)}: {escape(fact)}" for name, fact in notice.facts.items())
    link = f'<br><a href="{escape(notice.link)}">the run</a>' if notice.link else ""
    content = {"text": f"{escape(notice.title)}{facts}{link}", "tags": [tag for tag in tags if tag]}
    return {**content, "timeEnd": _milliseconds(notice.ended)} if notice.ended else content


def _tag(key: str) -> str:
    return f"incident:{key}"


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
