"""What all channels have in common: how messages are delivered by them, and what is remembered of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.healing.notices import Due
from medallion_platform.healing.told import Message, Notice, Told

_LOG = logging.getLogger(__name__)


class Undelivered(MedallionError):
    """A channel did not take a message; the text says why, without what may be secret.

    only_this: others it may take. code: the status of HTTP or SMTP, 0 without one. after: seconds after which
    it asks to be tried again.
    """

    kind = Kind.NETWORK

    def __init__(self, why: str, *, only_this: bool = False, code: int = 0, after: float = 0.0) -> None:
        super().__init__(why)
        self.only_this = only_this
        self.code = code
        self.after = after


class Channel(Protocol):
    """A way to people.

    name: of it, in settings and logs. silent: an update of a message disturbs nobody.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def silent(self) -> bool: ...  # noqa: D102

    def send(self, notice: Notice, message: Message) -> str:
        """Tell people, by a new message or in the one that was sent before; gives the message's handle.

        It may have been sent before without anybody remembering it: once more is to be noticed by nobody, as
        far as the channel allows that.

        Raises:
            Undelivered: the channel did not take it within a few seconds.
        """
        ...


def deliver(channel: Channel, due: Sequence[Due], told: Told, remember: Callable[[Told], None]) -> Told:
    """Send messages one after the other, until the channel cannot be reached.

    remember: is called after each one, so that no more than one is sent again after this process was killed.
    """
    for message, notice in due:
        try:
            handle = channel.send(notice, message)
        except Exception as error:  # whatever it is, other channels and the next look are not concerned
            why, now = reason(error), datetime.now(UTC)
            _LOG.warning("%s does not tell people of %s: %s", channel.name, notice.key, why)
            if isinstance(error, Undelivered) and error.only_this:
                told = replace(told.refused(message, now), why=why)
            else:
                told = told.unreachable(why, now, error.after if isinstance(error, Undelivered) else 0.0)
        else:
            told = told.sent(message, notice, handle)
        remember(told)
        if told.failures:
            break
    return told


def send_test(channel: Channel, owner: str, now: datetime) -> None:
    """Tell people of an owner that this is a test, and that it is over.

    Raises:
        Undelivered: the channel did not take it.
    """
    key, facts = f"test-{now:%Y%m%d%H%M%S}", {"what it means": "nothing has failed"}
    begin = Notice(key, "trying", "A test of this channel by `medallion`", facts, now, owner=owner)
    handle = channel.send(begin, Message((key,), owner))
    end = replace(begin, state="ended", title="The test of this channel is over", ended=datetime.now(UTC))
    channel.send(end, Message((key,), owner, state="trying", handle=handle))


def reason(error: Exception) -> str:
    """Why a message was not delivered, without a library's words, which may hold an address with a secret."""
    return str(error) if isinstance(error, MedallionError) else type(error).__name__
