"""Clickstream features: gold tables that models read through the feature repository."""

from __future__ import annotations

from datetime import timedelta

from medallion_platform import features
from medallion_sample.clickstream.gold import user_features

FEATURES = (features(user_features, valid_for=timedelta(days=7)),)
"""There is a row for every day on which anybody was active: a week bridges days of silence."""
