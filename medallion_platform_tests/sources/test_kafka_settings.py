"""What the Kafka client refuses of its settings is told without their values; no broker is needed."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.connectors.kafka.client import KafkaClient, count_group_members
from medallion_platform.sources.connectors.kafka.on_spark import NotForSpark, java_settings
from medallion_platform.sources.connectors.kafka.settings import hide_setting_values
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform_tests.pipeline.toy import EVENTS

SECRET = "hunter2-hunter2"


def source(**settings: Any) -> KafkaSource:
    named = {name.replace("_", "."): value for name, value in settings.items()}
    told = {"bootstrap.servers": "127.0.0.1:1", **named}
    return KafkaSource("a", "bronze.a", EVENTS, JsonLines(), "toy", topics=("x",), settings=told)


@pytest.mark.parametrize(
    ("named", "further"),
    [
        ("session_timeout_ms", {}),
        ("security_protocol", {}),
        ("ssl_ca_location", {"security_protocol": "ssl"}),
        ("ssl_key_pem", {"security_protocol": "ssl"}),
        ("sasl_mechanism", {"security_protocol": "sasl_ssl"}),
        ("plugin_library_paths", {}),
        ("debug", {}),
    ],
)
@pytest.mark.failure("permanent")
def test_a_value_that_the_client_refuses_is_not_told(named: str, further: dict[str, str]) -> None:
    given = source(**{named: SECRET}, **further)
    for ask in (KafkaClient, lambda s: count_group_members(s, "group")):
        with pytest.raises(
            Unavailable, match=f"its settings of Kafka, {named.replace('_', '.')} has"
        ) as caught:
            ask(given)
        assert caught.value.__context__ is None
        assert SECRET not in repr(given) + "".join(traceback.format_exception(caught.value))


def test_what_a_client_says_of_its_values_is_left_out() -> None:
    given = source(sasl_password="pw", ssl_ca_location=SECRET, client_id="lake")
    said = f"pw was refused for lake: {SECRET} cannot be opened, ask 127.0.0.1:1"
    assert (
        hide_setting_values(given, said) == "*** was refused for lake: *** cannot be opened, ask 127.0.0.1:1"
    )


def test_a_password_in_the_place_of_a_file_is_not_told_by_the_spark_engine() -> None:
    with pytest.raises(NotForSpark, match=r"the file that ssl\.ca\.location names: No such") as caught:
        java_settings({"bootstrap.servers": "a:1", "security.protocol": "SSL", "ssl.ca.location": SECRET})
    assert caught.value.__context__ is None
