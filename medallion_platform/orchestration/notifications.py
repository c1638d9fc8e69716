"""People are told of incidents: by a sensor of its own, which only looks, and threads, which send.

What each channel has told is kept in Dagster's storage, after each message. A channel that hangs holds the
thread that sends by it and nothing else.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import TYPE_CHECKING

import dagster as dg

from medallion_platform.healing.incident import known_from
from medallion_platform.healing.notices import Due, Rules, due, due_without_ledger, without_old
from medallion_platform.healing.told import Told
from medallion_platform.lakehouse import incidents
from medallion_platform.notifications.channel import Channel, deliver, reason
from medallion_platform.notifications.grafana import Grafana
from medallion_platform.notifications.mail import Mail
from medallion_platform.notifications.pagerduty import PagerDuty
from medallion_platform.notifications.slack import Slack
from medallion_platform.notifications.webhook import Webhook
from medallion_platform.orchestration.assets import default_owner
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import serving_name
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.features import Features

if TYPE_CHECKING:
    from dagster._core.instance.ref import InstanceRef

    from medallion_platform.installation.settings import Settings

_LOOK_SECONDS = 30
_TOLD = "medallion/told/"


def channels_of(settings: Settings) -> list[Channel]:
    """The channels that the settings name."""
    contacts = settings.owners.items()
    slack = {owner: to["slack"] for owner, to in contacts if "slack" in to}
    mail = {owner: to["mail"] for owner, to in contacts if "mail" in to}
    found: list[Channel] = []
    if settings.slack_token:
        token = settings.slack_token.get_secret_value()
        found.append(Slack(token, settings.slack_channel, slack, settings.slack_url))
    if settings.pagerduty_key:
        found.append(PagerDuty(settings.pagerduty_key.get_secret_value(), settings.pagerduty_url))
    if settings.grafana_token:
        found.append(Grafana(settings.grafana_token.get_secret_value(), settings.grafana_url))
    if settings.webhook_url:
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
        found.append(Webhook(settings.webhook_url.get_secret_value(), secret))
    if settings.mail_server:
        sender = settings.mail_from or f"medallion@{socket.gethostname()}"
        found.append(Mail(settings.mail_server.get_secret_value(), sender, settings.mail_to, mail))
    return found


def rules_of(settings: Settings, catalog: Catalog, features: Sequence[Features]) -> Rules:
    """From when on people are told, and whose each table is."""
    owners = {source.table: default_owner(source.domain) for source in catalog.sources}
    owners |= {t.name: t.owner or default_owner(catalog.origin(t.name).domain) for t in catalog.tables}
    owners |= {serving_name(f.view): default_owner(catalog.origin(f.table).domain) for f in features}
    return Rules(timedelta(minutes=settings.notify_after_minutes), owners, settings.dagster_url)


def notify_sensor(channels: Sequence[Channel], rules: Rules) -> dg.SensorDefinition:
    """Tell people what the ledger of incidents has for them, by each of the channels."""
    sending: dict[str, Thread] = {}
    unreadable_since: datetime | None = None

    @dg.sensor(
        name="notify_people",
        minimum_interval_seconds=_LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people of incidents that need one, or that last, as docs/healing.md says, by "
        f"{', '.join(channel.name for channel in channels)}. Without it nobody is told; healing goes on.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SkipReason:
        nonlocal unreadable_since
        on, now = context.instance, datetime.now(UTC)
        known, why = None, ""
        try:
            known, unreadable_since = known_from(incidents.read(lakehouse.lake.snapshot())), None
        except Exception as error:  # without the lake people have to be told all the more
            why, unreadable_since = reason(error), unreadable_since or now
        lines = [f"the ledger cannot be read: {why}"] if why else []
        for channel in channels:
            # Asked before what it told is read, so that this is all that it told.
            if channel.name in sending and sending[channel.name].is_alive():
                lines.append(f"{channel.name}: still sending")
                continue
            told = read_told(on, channel)
            ready: list[Due] = []
            if known is not None:
                told = without_old(told, known, now)
                ready = due(known, told, rules, now, silent=channel.silent)
            elif unreadable_since and now - unreadable_since >= rules.after:
                ready = due_without_ledger(told, why, unreadable_since, now)
            if ready:
                of_thread = (channel, ready, told, on.get_ref())
                sending[channel.name] = Thread(target=_send, args=of_thread, daemon=True)
                sending[channel.name].start()
            lines.append(_in_words(channel, told, len(ready), now))
        return dg.SkipReason("\n".join(lines))

    return sensor


def read_told(on: dg.DagsterInstance, channel: Channel) -> Told:
    """What a channel has told."""
    key = _TOLD + channel.name
    return Told.from_text(on.daemon_cursor_storage.get_cursor_values({key}).get(key))


def _send(channel: Channel, ready: Sequence[Due], told: Told, ref: InstanceRef) -> None:
    with dg.DagsterInstance.from_ref(ref) as on:  # that of a look ends with it

        def remember(told: Told) -> None:
            on.daemon_cursor_storage.set_cursor_values({_TOLD + channel.name: told.to_text()})

        deliver(channel, ready, told, remember)


def _in_words(channel: Channel, told: Told, ready: int, now: datetime) -> str:
    """What a channel does now, for the page of the sensor."""
    if told.not_before and told.not_before > now:
        return f"{channel.name}: {told.why}; tried again at {told.not_before:%H:%M:%S}Z"
    if told.why:
        return f"{channel.name}: the last try: {told.why}"
    return f"{channel.name}: {f'{ready} messages are sent' if ready else 'nothing new'}"
