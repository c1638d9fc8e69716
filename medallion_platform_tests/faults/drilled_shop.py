"""The catalog of a project in which every drill finds its target."""

from __future__ import annotations

from medallion_platform.pipeline.catalog import Catalog
from medallion_platform_tests.pipeline.shop import EVENTS, USERS, days, events, history, users

catalog = Catalog((EVENTS, USERS), (history, users, events, days))
