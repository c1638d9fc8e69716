"""The needs of tables, kept in Dagster's storage for whoever launches runs.

The launcher decides how large a run's pod is, and it has neither the user's code nor the lake. The code
location has both and looks at all tables anyway, so it keeps there what they need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from medallion_platform.kubernetes.shape import Limits
from medallion_platform.pipeline.need import Need

if TYPE_CHECKING:
    from medallion_platform.installation.settings import Settings

LAUNCHER = ("medallion_platform.orchestration.launcher", "Launcher")
"""The module and the class that `dagster.yaml` names where runs are pods."""
FRESH = timedelta(minutes=5)
"""Older needs do not say what is due: the sensor that keeps them is off."""
_AGAIN = timedelta(minutes=1)
"""Needs that stay the same are kept again after this time, so that they do not look old."""
_NEEDS = "medallion/needs"


@dataclass(frozen=True)
class Published:
    """The needs of all tables at an instant."""

    at: datetime
    needs: Mapping[str, Need]

    def by(self, now: datetime) -> dict[str, Need]:
        """The needs as they are known at a later instant: of old ones, all may be due."""
        if now - self.at < FRESH:
            return dict(self.needs)
        return {name: replace(need, due_bytes=need.whole_bytes) for name, need in self.needs.items()}


def limits_of(settings: Settings) -> Limits:
    """What a cluster has for one run, by the settings."""
    from medallion_platform.installation.settings import bytes_of_memory

    return Limits(
        local_bytes=settings.local_bytes,
        own_run_bytes=settings.own_run_bytes,
        most_memory=bytes_of_memory(settings.most_memory),
        most_executors=settings.most_executors,
    )


def are_read(on: dg.DagsterInstance) -> bool:
    """Whether runs are pods of their own, whose launcher reads the needs; elsewhere nobody does."""
    launcher = on.get_ref().run_launcher_data if on.is_persistent else None
    return launcher is not None and (launcher.module_name, launcher.class_name) == LAUNCHER


def publish_needs(
    on: dg.DagsterInstance, needs: Mapping[str, Need], now: datetime, before: Published | None
) -> Published:
    """Keep the needs where they changed, or were last kept a while ago; gives what is kept now.

    before: what the last call gave. Nothing is asked of the storage while nothing changes.
    """
    if before is not None and before.needs == needs and now - before.at < _AGAIN:
        return before
    text = json.dumps({"at": now.isoformat(), "needs": {name: asdict(need) for name, need in needs.items()}})
    on.daemon_cursor_storage.set_cursor_values({_NEEDS: text})
    return Published(now, needs)


def read_needs(on: dg.DagsterInstance) -> Published:
    """The needs that were kept last; none if there are none, or none that this version can read."""
    text = on.daemon_cursor_storage.get_cursor_values({_NEEDS}).get(_NEEDS, "")
    try:
        found = json.loads(text)
        needs = {name: Need(**told) for name, told in found["needs"].items()}
        return Published(datetime.fromisoformat(found["at"]), needs)
    except (ValueError, TypeError, KeyError):
        return Published(datetime.min.replace(tzinfo=UTC), {})
