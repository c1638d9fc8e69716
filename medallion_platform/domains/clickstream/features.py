"""Clickstream features: gold tables that models read through the feature repository."""

from __future__ import annotations

from datetime import timedelta

from medallion_platform.domains.clickstream.gold import user_features
from medallion_platform.serving.features import features

FEATURES = (features(user_features, valid_for=timedelta(days=7)),)
"""There is a row for every day on which anybody was active: a week bridges days of silence."""
