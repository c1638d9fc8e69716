"""What a good row of each clickstream table is.

Bronze refuses only what cannot be placed: a row without an identity or a time, or text that is not
of its column's type where a number depends on it. Everything else that is wrong waits for silver,
where the row can still be looked at in full. What is odd but usable is a warning.
"""

# A model's options are data that nobody changes.
# ruff: noqa: RUF012

from __future__ import annotations

from datetime import timedelta

import pyspark.sql.types as T
from pandera.api.pyspark.model_config import BaseConfig

from medallion_platform import ContractModel, Field, expect

UNKNOWN_REGION = "UNKNOWN"
"""The region of an event that names none."""

EVENT_TYPES = ("page_view", "click", "search", "add_to_cart", "purchase", "login", "logout")

_MONEY = {"precision": 12, "scale": 2}
_SUM = {"precision": 18, "scale": 2}
_EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
_REGION = r"^[A-Z0-9]+(-[A-Z0-9]+)*$"
_A_TYPE_ONLY = {"type": "warn"}


# --- bronze ---------------------------------------------------------------------------------------


class BronzeEvents(ContractModel):
    """Events as they came, parsed."""

    event_id: T.StringType = Field(str_matches=r"^\S+$", description="unique per event")
    user_id: T.StringType = Field(nullable=True, description="the user, as the shop names it")
    event_type: T.StringType = Field(nullable=True, description="what the user did")
    event_timestamp: T.TimestampType = Field(description="when it happened, by the client")
    page: T.StringType = Field(nullable=True, description="path of the page")
    amount: T.DecimalType = Field(nullable=True, dtype_kwargs=_MONEY, description="price, in currency")
    currency: T.StringType = Field(nullable=True, description="ISO 4217 code of amount")
    session_id: T.StringType = Field(nullable=True, description="the visit that the event belongs to")
    session_start: T.TimestampType = Field(
        nullable=True, severity=_A_TYPE_ONLY, description="when the visit began"
    )
    session_end: T.TimestampType = Field(
        nullable=True, severity=_A_TYPE_ONLY, description="when the visit ended"
    )
    region_code: T.StringType = Field(nullable=True, description="the region, by its code")
    email: T.StringType = Field(
        nullable=True,
        pii="email",
        str_matches=_EMAIL,
        severity={"str_matches": "warn"},
        description="the user's e-mail address",
    )
    phone: T.StringType = Field(nullable=True, pii="phone", description="the user's phone number")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["event_id"],
            "event_time": "event_timestamp",
            "partitioned_by": ["event_date"],
            "watermark": timedelta(minutes=10),
        }


class BronzeUsers(ContractModel):
    """Change events of the shop's users; one that carries no row image need only have its key."""

    user_id: T.StringType = Field(str_length={"min_value": 1}, description="the user, as the shop names it")
    email: T.StringType = Field(nullable=True, pii="email", description="the user's e-mail address")
    phone: T.StringType = Field(nullable=True, pii="phone", description="the user's phone number")
    region_code: T.StringType = Field(nullable=True, description="the user's home region")
    segment: T.StringType = Field(nullable=True, description="marketing segment of the user")
    signed_up_on: T.DateType = Field(
        nullable=True, severity=_A_TYPE_ONLY, description="the day the user signed up"
    )


class BronzeRegions(ContractModel):
    """Change events of the shop's regions."""

    region_code: T.StringType = Field(str_length={"min_value": 1}, description="the region, by its code")
    name: T.StringType = Field(nullable=True, description="name of the region")
    country: T.StringType = Field(nullable=True, description="ISO 3166 code of the country")
    timezone: T.StringType = Field(nullable=True, description="IANA name of the time zone")


# --- silver ---------------------------------------------------------------------------------------


class SilverEvents(ContractModel):
    """Events: typed, trimmed, enriched as of their own time, personal data masked."""

    event_id: T.StringType = Field(description="unique per event")
    user_id: T.StringType = Field(description="the user, as the shop names it")
    event_type: T.StringType = Field(
        nullable=True, isin=list(EVENT_TYPES), severity={"isin": "warn"}, description="what the user did"
    )
    event_timestamp: T.TimestampType = Field(description="when it happened, by the client")
    event_date: T.DateType = Field(description="the day of event_timestamp in UTC")
    page: T.StringType = Field(nullable=True, description="path of the page")
    amount: T.DecimalType = Field(
        nullable=True, ge=0, le=1_000_000, dtype_kwargs=_MONEY, description="price, in currency"
    )
    currency: T.StringType = Field(nullable=True, description="ISO 4217 code of amount")
    amount_usd: T.DecimalType = Field(
        nullable=True, dtype_kwargs=_SUM, description="amount at the shop's fixed rates"
    )
    session_id: T.StringType = Field(nullable=True, description="the visit that the event belongs to")
    session_start: T.TimestampType = Field(nullable=True, description="when the visit began")
    session_end: T.TimestampType = Field(nullable=True, description="when the visit ended")
    session_seconds: T.LongType = Field(nullable=True, description="null where out of order")
    region_code: T.StringType = Field(
        str_matches=_REGION, description="upper case; UNKNOWN where the event names none"
    )
    region_name: T.StringType = Field(nullable=True, description="name of the region")
    country: T.StringType = Field(nullable=True, description="country of the region, ISO 3166")
    region_known: T.BooleanType = Field(description="whether the region was known then")
    email: T.StringType = Field(nullable=True, pii="email", description="the user's e-mail address")
    phone: T.StringType = Field(nullable=True, pii="phone", description="the user's phone number")
    user_segment: T.StringType = Field(nullable=True, description="marketing segment of the user then")
    user_region_code: T.StringType = Field(nullable=True, description="the user's home region")
    user_known: T.BooleanType = Field(description="whether the user was known then")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["event_id"],
            "event_time": "event_timestamp",
            "partitioned_by": ["event_date", "region_code"],
            "rows": {
                "user is known": expect("user_known = true", severity="warn"),
                "region is known": expect("region_known = true", severity="warn"),
                "session in order": expect("session_end >= session_start", severity="warn"),
                "currency has a rate": expect("amount is null or amount_usd is not null", severity="warn"),
            },
        }


class SilverUsersHistory(ContractModel):
    """Every version of every user (SCD2), valid in [effective_from, effective_to)."""

    user_id: T.StringType = Field(description="the user, as the shop names it")
    email: T.StringType = Field(nullable=True, pii="email", description="the user's e-mail address")
    phone: T.StringType = Field(nullable=True, pii="phone", description="the user's phone number")
    region_code: T.StringType = Field(nullable=True, description="the user's home region")
    segment: T.StringType = Field(nullable=True, description="marketing segment of the user")
    signed_up_on: T.DateType = Field(nullable=True, description="the day the user signed up")
    effective_from: T.TimestampType = Field(description="since when the version is valid")
    effective_to: T.TimestampType = Field(nullable=True, description="null: still valid")
    is_current: T.BooleanType = Field(description="whether it is the newest version")
    source_position: T.StringType = Field(description="of the change that began the version")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["user_id", "source_position"],
            "rows": {"ends after it begins": expect("effective_to >= effective_from", severity="fail")},
        }


class SilverRegionsHistory(ContractModel):
    """Every version of every region (SCD2), valid in [effective_from, effective_to)."""

    region_code: T.StringType = Field(description="the region, by its code")
    name: T.StringType = Field(nullable=True, description="name of the region")
    country: T.StringType = Field(nullable=True, description="ISO 3166 code of the country")
    timezone: T.StringType = Field(nullable=True, description="IANA name of the time zone")
    effective_from: T.TimestampType = Field(description="since when the version is valid")
    effective_to: T.TimestampType = Field(nullable=True, description="null: still valid")
    is_current: T.BooleanType = Field(description="whether it is the newest version")
    source_position: T.StringType = Field(description="of the change that began the version")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["region_code", "source_position"],
            "rows": {"ends after it begins": expect("effective_to >= effective_from", severity="fail")},
        }


class SilverUsers(ContractModel):
    """Users as they are now (SCD1)."""

    user_id: T.StringType = Field(description="the user, as the shop names it")
    email: T.StringType = Field(nullable=True, pii="email", description="the user's e-mail address")
    phone: T.StringType = Field(nullable=True, pii="phone", description="the user's phone number")
    region_code: T.StringType = Field(nullable=True, description="the user's home region")
    segment: T.StringType = Field(nullable=True, description="marketing segment of the user")
    signed_up_on: T.DateType = Field(nullable=True, description="the day the user signed up")
    changed_at: T.TimestampType = Field(description="since when the user is as this row says")
    source_position: T.StringType = Field(description="place of the change in the source's log")

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["user_id"]}


class SilverRegions(ContractModel):
    """Regions as they are now (SCD1)."""

    region_code: T.StringType = Field(description="the region, by its code")
    name: T.StringType = Field(nullable=True, description="name of the region")
    country: T.StringType = Field(nullable=True, description="ISO 3166 code of the country")
    timezone: T.StringType = Field(nullable=True, description="IANA name of the time zone")
    changed_at: T.TimestampType = Field(description="since when the region is as this row says")
    source_position: T.StringType = Field(description="place of the change in the source's log")

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["region_code"]}


# --- gold -----------------------------------------------------------------------------------------


class GoldDailyUserMetrics(ContractModel):
    """What a user did on a day in a region."""

    event_date: T.DateType = Field(description="the day in UTC")
    user_id: T.StringType = Field(description="the user, as the shop names it")
    region_code: T.StringType = Field(description="the region, by its code")
    region_name: T.StringType = Field(nullable=True, description="name of the region")
    event_count: T.LongType = Field(ge=1, description="events counted")
    page_views: T.LongType = Field(ge=0, description="events of type page_view")
    clicks: T.LongType = Field(ge=0, description="events of type click")
    searches: T.LongType = Field(ge=0, description="events of type search")
    cart_adds: T.LongType = Field(ge=0, description="events of type add_to_cart")
    purchases: T.LongType = Field(ge=0, description="events of type purchase")
    sessions: T.LongType = Field(ge=0, description="different visits")
    longest_session_seconds: T.LongType = Field(nullable=True, ge=0, description="longest visit, in seconds")
    spend: T.DecimalType = Field(ge=0, dtype_kwargs=_SUM, description="in US dollars")
    spend_percentile: T.DoubleType = Field(
        ge=0, le=1, description="percentile rank of spend among all rows of the day"
    )
    first_event_at: T.TimestampType = Field(description="time of the first event")
    last_event_at: T.TimestampType = Field(description="time of the last event")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["event_date", "user_id", "region_code"],
            "partitioned_by": ["event_date"],
            "row_count_column": "event_count",
        }


class GoldRegionalRollupsHourly(ContractModel):
    """What happened in a region in an hour."""

    event_date: T.DateType = Field(description="the day in UTC")
    hour: T.TimestampType = Field(description="the hour's first instant")
    region_code: T.StringType = Field(description="the region, by its code")
    region_name: T.StringType = Field(nullable=True, description="name of the region")
    event_count: T.LongType = Field(ge=1, description="events counted")
    active_users: T.LongType = Field(ge=1, description="different users with an event")
    sessions: T.LongType = Field(ge=0, description="different visits")
    purchases: T.LongType = Field(ge=0, description="events of type purchase")
    revenue: T.DecimalType = Field(ge=0, dtype_kwargs=_SUM, description="in US dollars")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["hour", "region_code"],
            "partitioned_by": ["event_date"],
            "row_count_column": "event_count",
        }


class GoldRegionalRollupsDaily(ContractModel):
    """What happened in a region on a day."""

    event_date: T.DateType = Field(description="the day in UTC")
    region_code: T.StringType = Field(description="the region, by its code")
    region_name: T.StringType = Field(nullable=True, description="name of the region")
    event_count: T.LongType = Field(ge=1, description="events counted")
    active_users: T.LongType = Field(ge=1, description="different users with an event")
    sessions: T.LongType = Field(ge=0, description="different visits")
    purchases: T.LongType = Field(ge=0, description="events of type purchase")
    revenue: T.DecimalType = Field(ge=0, dtype_kwargs=_SUM, description="in US dollars")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["event_date", "region_code"],
            "partitioned_by": ["event_date"],
            "row_count_column": "event_count",
        }


class GoldRegionalRollupsWeekly(ContractModel):
    """What happened in a region in a week, Monday to Sunday."""

    week: T.DateType = Field(description="the week's Monday")
    region_code: T.StringType = Field(description="the region, by its code")
    region_name: T.StringType = Field(nullable=True, description="name of the region")
    event_count: T.LongType = Field(ge=1, description="events counted")
    active_users: T.LongType = Field(ge=1, description="different users with an event")
    active_days: T.LongType = Field(ge=1, le=7, description="days with an event")
    sessions: T.LongType = Field(ge=0, description="one over midnight counts on both days")
    purchases: T.LongType = Field(ge=0, description="events of type purchase")
    revenue: T.DecimalType = Field(ge=0, dtype_kwargs=_SUM, description="in US dollars")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["week", "region_code"],
            "partitioned_by": ["week"],
            "row_count_column": "event_count",
        }


class GoldUserFeatures(ContractModel):
    """A user's last 7 and 30 days as of the end of a day; zeros on the first day after the 30."""

    event_date: T.DateType = Field(description="the last day of the windows")
    user_id: T.StringType = Field(description="the user, as the shop names it")
    feature_timestamp: T.TimestampType = Field(
        description="when the features were known: the first instant after event_date"
    )
    events_7d: T.LongType = Field(ge=0, description="events of the last 7 days")
    events_30d: T.LongType = Field(ge=0, description="events of the last 30 days")
    sessions_7d: T.LongType = Field(ge=0, description="different visits of the last 7 days")
    sessions_30d: T.LongType = Field(ge=0, description="different visits of the last 30 days")
    purchases_7d: T.LongType = Field(ge=0, description="purchases of the last 7 days")
    purchases_30d: T.LongType = Field(ge=0, description="purchases of the last 30 days")
    spend_7d: T.DecimalType = Field(
        ge=0, dtype_kwargs=_SUM, description="US dollars spent in the last 7 days"
    )
    spend_30d: T.DecimalType = Field(
        ge=0, dtype_kwargs=_SUM, description="US dollars spent in the last 30 days"
    )
    active_days_7d: T.LongType = Field(ge=0, le=7, description="days with an event, of the last 7")
    active_days_30d: T.LongType = Field(ge=0, le=30, description="days with an event, of the last 30")
    days_since_active: T.LongType = Field(
        ge=0, le=30, description="days since the last event; 30: none in the window"
    )

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["event_date", "user_id"],
            "event_time": "feature_timestamp",
            "partitioned_by": ["event_date"],
            "rows": {
                "the longer window holds the shorter": expect(
                    "events_30d >= events_7d and spend_30d >= spend_7d", severity="fail"
                ),
                "zeros stand for a user who left": expect(
                    "(active_days_30d = 0) = (days_since_active = 30)", severity="fail"
                ),
            },
        }


class GoldUsersHistory(ContractModel):
    """Every version of every user, with the name and country of the home region."""

    user_id: T.StringType = Field(description="the user, as the shop names it")
    email: T.StringType = Field(nullable=True, pii="email", description="the user's e-mail address")
    phone: T.StringType = Field(nullable=True, pii="phone", description="the user's phone number")
    region_code: T.StringType = Field(nullable=True, description="the user's home region")
    region_name: T.StringType = Field(nullable=True, description="name of the home region")
    country: T.StringType = Field(nullable=True, description="country of the home region")
    segment: T.StringType = Field(nullable=True, description="marketing segment of the user")
    signed_up_on: T.DateType = Field(nullable=True, description="the day the user signed up")
    effective_from: T.TimestampType = Field(description="since when the version is valid")
    effective_to: T.TimestampType = Field(nullable=True, description="null: still valid")
    is_current: T.BooleanType = Field(description="whether it is the newest version")
    version: T.IntegerType = Field(ge=1, description="1 for the user's first version")
    source_position: T.StringType = Field(description="place of the change in the source's log")

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["user_id", "version"]}
