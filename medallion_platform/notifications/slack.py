"""Slack: one message for each incident, which is changed as the incident goes on.

Only a bot can change its messages (https://docs.slack.dev/reference/methods/chat.update), an incoming webhook
cannot. When people have to look again, a reply in the message's thread says so in the channel, since a change
notifies nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medallion_platform.healing.told import Message, Notice
from medallion_platform.notifications.channel import Undelivered
from medallion_platform.notifications.http import request

_EVENT = "medallion_incident"
_ICONS = {"ended": ":white_check_mark:", "trying": ":hourglass:", "person": ":rotating_light:", "lost": ":x:"}
_OF_ALL = re.compile(
    "not_authed|invalid_auth|account_inactive|token_(revoked|expired)|no_permission|missing_scope|rate_?limited"
    "|(internal|fatal)_error|service_unavailable|request_timeout|ekm_access_denied|team_.*|accesslimited"
)
"""Slack's errors that no other message would be spared."""
_GONE = frozenset(("message_not_found", "channel_not_found", "cant_update_message", "edit_window_closed"))
_NOT_ALLOWED = frozenset(("missing_scope", "no_permission", "not_in_channel", "channel_not_found"))
_LONGEST_TEXT, _LONGEST_FACT, _LOOKED_THROUGH = 2900, 1900, 200


@dataclass(frozen=True)
class Slack:
    """token: of a bot. channel: the id of where messages go whose owner has no channel in `channels`."""

    token: str = field(repr=False)
    channel: str
    channels: Mapping[str, str] = field(default_factory=dict[str, str])
    url: str = "https://slack.com/api"
    name: str = "slack"
    silent: bool = True

    def send(self, notice: Notice, message: Message) -> str:
        """Post the message or change it; one that nobody remembers having posted is searched for.

        Raises:
            Undelivered: Slack did not take it.
        """
        channel = self.channels.get(notice.owner) or self.channel
        if not channel:
            raise Undelivered(f"no channel is known for {notice.owner or 'what nobody owns'}", only_this=True)
        content = _content(notice)
        if posted := message.handle or self._posted_before(channel, notice.key):
            where, _, ts = posted.partition("/")
            try:
                self._ask("chat.update", {"channel": where, "ts": ts, **content})
            except _Refused as error:
                if error.word not in _GONE:
                    raise
            else:
                if message.state and notice.is_worse_than(message.state):
                    text = f"{_ICONS[notice.state]} {_escaped(notice.title)}"
                    reply = {"channel": where, "thread_ts": ts, "text": text, "reply_broadcast": True}
                    self._ask("chat.postMessage", reply)
                return posted
        made = self._ask("chat.postMessage", {"channel": channel, **content})
        return f"{made.get('channel', channel)}/{made.get('ts', '')}"

    def _posted_before(self, channel: str, key: str) -> str:
        """The message that a process posted which could not remember it, if the bot may look for it."""
        params = {"channel": channel, "limit": _LOOKED_THROUGH, "include_all_metadata": True}
        try:
            found = self._ask("conversations.history", params=params)
        except _Refused as error:
            if error.word in _NOT_ALLOWED:
                return ""
            raise
        for one in found.get("messages", []):
            told = one.get("metadata", {})
            if told.get("event_type") == _EVENT and told.get("event_payload", {}).get("key") == key:
                return f"{channel}/{one['ts']}"
        return ""

    def _ask(
        self, method: str, body: dict[str, Any] | None = None, params: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.token}"}
        verb = "GET" if body is None else "POST"
        answer = request(verb, f"{self.url}/{method}", body, headers=headers, params=params)
        if not isinstance(answer, dict):
            raise Undelivered(f"{method} does not answer as Slack does")
        if not answer.get("ok"):
            raise _Refused(method, str(answer.get("error", "")))
        return answer


class _Refused(Undelivered):
    """Slack refuses something, by this word of it."""

    def __init__(self, method: str, word: str) -> None:
        self.word = word if re.fullmatch(r"[a-z_]{1,60}", word) else "unknown"
        super().__init__(f"{method} answers {self.word}", only_this=not _OF_ALL.fullmatch(self.word))


def _content(notice: Notice) -> dict[str, Any]:
    """A message in blocks, and its text for where these are not shown.

    https://docs.slack.dev/reference/block-kit/blocks
    """
    title = f"{_ICONS[notice.state]} *{_escaped(notice.title)}*"
    facts = [
        f"*{name}*\n{_escaped(fact)[:_LONGEST_FACT]}"
        for name, fact in notice.facts.items()
        if name != "to do"
    ]
    ends = [f"`{_escaped(notice.facts['to do'])}`"] if "to do" in notice.facts else []
    ends += [f"<{notice.link}|the run>"] if notice.link else []
    blocks: list[dict[str, Any]] = [{"type": "section", "text": _text(title[:_LONGEST_TEXT])}]
    if facts:
        blocks.append({"type": "section", "fields": [_text(fact) for fact in facts[:10]]})
    if ends:
        blocks.append({"type": "context", "elements": [_text(end) for end in ends]})
    return {
        "text": _escaped(notice.title)[:_LONGEST_TEXT],
        "blocks": blocks,
        "metadata": {"event_type": _EVENT, "event_payload": {"key": notice.key}},
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text}


def _escaped(text: str) -> str:
    """What Slack shows as it is: neither a link nor a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
