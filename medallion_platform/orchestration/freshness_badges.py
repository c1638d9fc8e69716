"""Whether assets are fresh, as Dagster shows it on their pages.

Dagster's own evaluation goes by the last event and is switched off (`runs.open_instance`): a rebuild of last
year's rows would look fresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange


def report_freshness(
    on: dg.DagsterInstance, fresh: Mapping[dg.AssetKey, FreshnessState], now: datetime
) -> None:
    """Report the freshness of these assets to Dagster where it changed."""
    known = on.get_freshness_state_records(list(fresh))
    for key, state in fresh.items():
        old = known[key].freshness_state if key in known else FreshnessState.UNKNOWN
        if state != old:
            on._report_runless_asset_event(
                FreshnessStateChange(
                    key=key, previous_state=old, new_state=state, state_change_timestamp=now.timestamp()
                )
            )
