"""PagerDuty: an alert for each message, triggered and resolved by the same key.

Events API v2: https://developer.pagerduty.com/docs/send-alert-event
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medallion_platform.healing.told import Message, Notice
from medallion_platform.notifications.http import request

_LONGEST_SUMMARY = 1024
_SEVERITY = {"trying": "warning", "person": "error", "lost": "critical"}


@dataclass(frozen=True)
class PagerDuty:
    """key: of an integration of type "Events API v2". url: of the service region."""

    key: str = field(repr=False)
    url: str
    name: str = "pagerduty"
    silent: bool = False

    def send(self, notice: Notice, message: Message) -> str:
        """Trigger the alert, make it worse, or resolve it; sent twice it is one.

        Raises:
            Undelivered: it was not accepted.
        """
        request("POST", f"{self.url}/v2/enqueue", {"routing_key": self.key, **_event(notice)})
        return notice.key


def _event(notice: Notice) -> dict[str, Any]:
    key = f"medallion/{notice.key}"
    if notice.state == "ended":
        return {"event_action": "resolve", "dedup_key": key}
    return {
        "event_action": "trigger",
        "dedup_key": key,
        "client": "medallion",
        "links": [{"href": notice.link, "text": "the run"}] if notice.link else [],
        "payload": {
            "summary": notice.title[:_LONGEST_SUMMARY],
            "source": notice.tables[0] if notice.tables else "medallion",
            "severity": _SEVERITY[notice.state],
            "timestamp": notice.began.isoformat(),
            "component": ", ".join(notice.tables[:3]),
            "group": notice.owner,
            "class": notice.kind,
            "custom_details": dict(notice.facts),
        },
    }
