"""Settings: what follows from what, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from medallion_platform.installation import settings as settings_module
from medallion_platform.installation.settings import (
    Profile,
    Settings,
    WrongSetting,
    bytes_of_memory,
    misspelt,
)

from .test_wrapper import REPOSITORY, load


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "LAKE", "LANDING", "PROFILE", "SETTLE_SECONDS", "CACHE", "KAFKA", "KAFKA_ENGINE"):
        monkeypatch.delenv(f"MEDALLION_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_everything_lies_below_home(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.profile is Profile.LOCAL
    home = tmp_path / ".medallion"
    assert (settings.home, settings.landing, settings.lake) == (home, home / "landing", home / "lake")
    assert Settings(home=Path("other")).landing == tmp_path / "other" / "landing"


def test_the_environment_counts_and_an_argument_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDALLION_LANDING", "/in")
    monkeypatch.setenv("MEDALLION_SETTLE_SECONDS", "0.5")
    monkeypatch.setenv("MEDALLION_HOME", "")
    settings = Settings(settle_seconds=2)
    assert (settings.landing, settings.settle_seconds) == (Path("/in"), 2.0)
    assert settings.home.name == ".medallion"


def test_java_has_more_of_a_pod_that_is_a_run_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a person sets counts more."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 << 30))
    monkeypatch.setattr(settings_module, "memory_limit", lambda: None)
    assert Settings().spark_memory == "4096m"
    monkeypatch.setattr(settings_module, "memory_limit", lambda: 2 << 30)
    assert Settings().spark_memory == "1024m"
    monkeypatch.setenv("MEDALLION_RUN_EXECUTORS", "0")
    assert Settings().spark_memory == "1228m"
    monkeypatch.setenv("MEDALLION_SPARK_MEMORY", "1500m")
    assert bytes_of_memory(Settings().spark_memory) == 1500 << 20


@pytest.mark.parametrize(("given", "bytes"), [("1k", 1 << 10), ("1500M", 1500 << 20), ("16g", 16 << 30)])
def test_memory_is_as_java_reads_it(given: str, bytes: int) -> None:
    assert bytes_of_memory(given) == bytes


def test_sizes_are_written_as_people_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDALLION_LOCAL_BYTES", "1.5 GB")
    assert Settings().local_bytes == 1_500_000_000


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("MEDALLION_SPARK_CORE", "MEDALLION_SPARK_CORES"),
        ("MEDALLION_TOKENKEY", "MEDALLION_TOKEN_KEY"),
        ("MEDALLION_KEEP_RUN_DAYS", "MEDALLION_KEEP_RUNS_DAYS"),
        ("MEDALLION_LOGLEVEL", "MEDALLION_LOG_LEVEL"),
        ("MEDALLION_QWERTY", ""),
        ("MEDALLION_SPARK_CORES", None),
        ("MEDALLION_MODULE", None),
        ("MEDALLION_DEBUG", None),
        ("MEDALLION_TEST_SEED", None),
        ("MEDALLION_RUN_EXECUTORS", None),
        ("MEDALLION_API_SERVICE_HOST", None),
        ("MEDALLION_API_SERVICE_PORT_HTTP", None),
        ("MEDALLION_API_PORT_80_TCP_ADDR", None),
        ("MEDALLION", None),
        ("SPARK_CORE", None),
    ],
)
def test_a_variable_that_no_setting_has_is_told_with_the_nearest_name(
    variable: str, told: str | None
) -> None:
    found = misspelt([variable, "PATH"])
    if told is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"no setting is named {variable}, ")
        assert line.endswith(f"did you mean {told}?" if told else "no effect")


def test_lake_and_landing_zone_may_each_lie_in_a_bucket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDALLION_LAKE", "s3a://bucket/a lake/")
    settings = Settings()
    assert (settings.lake, settings.landing) == ("s3://bucket/a lake", tmp_path / ".medallion" / "landing")
    assert Settings(landing="s3://bucket").landing == "s3://bucket"


@pytest.mark.parametrize(
    "place",
    ["a%20b", "100%", "who?", "x[1]", "y=2026", "back\\slash", "a|b", "a^b", "tab\t"],
)
@pytest.mark.parametrize("name", ["home", "lake"])
def test_a_place_that_a_library_would_take_for_another_is_refused_by_its_character(
    tmp_path: Path, name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongSetting, match=rf"^MEDALLION_{name.upper()}: has '(.|\\.)' in its path[^\n]+$"):
        Settings(**{name: tmp_path / place / "in"})
    (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / place)
    with pytest.raises(WrongSetting):
        Settings(**{name: "relative"})
    assert Settings(home=tmp_path / "other").lake == tmp_path / "other" / "lake"
    assert Settings(home=tmp_path / "other", landing=tmp_path / place).landing == tmp_path / place


@pytest.mark.parametrize(
    "place",
    [
        "a b",
        "haeuschen",
        "h\u00e4uschen",
        "\u65e5",
        "a+b",
        "a&b",
        "it's",
        "(x)",
        "@a,b;!$~",
        "c#",
        "8:00",
        "*",
        "{a}",
    ],
)
def test_a_place_of_usual_names_is_taken(tmp_path: Path, place: str) -> None:
    assert Settings(home=tmp_path / place).home == tmp_path / place


@pytest.mark.parametrize("prefix", ["a%20b", "a#b", "a?b"])
def test_a_prefix_that_would_be_a_part_of_a_url_is_refused(prefix: str) -> None:
    for name in ("lake", "landing"):
        with pytest.raises(WrongSetting, match=f"^MEDALLION_{name.upper()}: has "):
            Settings(**{name: f"s3://bucket/{prefix}"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("PROFILE", "cloud"), ("SETTLE_SECONDS", "-1"), ("LAKE", "gs://bucket"), ("LANDING", "s3://")],
)
@pytest.mark.failure("permanent")
def test_bad_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MEDALLION_{name}", value)
    with pytest.raises(WrongSetting, match=rf"^MEDALLION_{name}: [^\n]+$"):
        Settings()


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_what_is_wrong_with_a_value_is_said_of_every_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for value in ("much", "-1", "1.5", "\0", "nan", "1e999"):
        try:
            Settings(**{name: value})
        except WrongSetting as error:
            assert str(error).startswith(f"MEDALLION_{name.upper()}: ")
            assert "a value that it cannot have" not in str(error), (value, str(error))


SECRET = "hunter2-hunter2"
BROKER = {"bootstrap.servers": "broker:9092"}


def shown(error: BaseException) -> str:
    """All that a log, a page or a debugger may show of an error, whatever hangs on it."""
    chain: list[BaseException] = [error]
    while (further := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(further)
    texts = [*map(repr, chain), *("".join(traceback.format_exception(e)) for e in chain)]
    return "\n".join([*texts, *(repr(vars(e)) for e in chain)])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (SECRET, "is no JSON object"),
        (json.dumps(SECRET), "is no JSON object"),
        (f'{{"bootstrap.servers": "a:1", "sasl.password": {SECRET}}}', "is no JSON object"),
        ({**BROKER, "sasl.password": [SECRET]}, "sasl.password has to be text, in quotes"),
        ({**BROKER, "sasl.password": {"of": SECRET}}, "sasl.password has to be text, in quotes"),
        ({**BROKER, "sasl.oauthbearer.client.secret": 4711}, "secret has to be text, in quotes"),
        ({**BROKER, SECRET: "sasl.password"}, "has 1 name that no setting"),
        ({"bootstrap.servers": f"me:{SECRET}@broker:9092"}, "bootstrap.servers has to be host:port"),
        ({"sasl.password": SECRET}, "bootstrap.servers has to be host:port"),
        ({**BROKER, "auto.offset.reset": SECRET}, "auto.offset.reset cannot be set"),
    ],
)
@pytest.mark.failure("permanent")
def test_a_secret_in_a_wrong_place_is_told_by_its_setting_alone(
    monkeypatch: pytest.MonkeyPatch, value: Any, said: str
) -> None:
    monkeypatch.setenv("MEDALLION_KAFKA", value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(WrongSetting, match=rf"^MEDALLION_KAFKA: [^\n]*{said}") as caught:
        Settings()
    assert SECRET not in shown(caught.value)
    assert "4711" not in shown(caught.value)


def test_good_settings_do_not_show_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDALLION_KAFKA", json.dumps({**BROKER, "sasl.password": SECRET}))
    assert Settings().kafka["sasl.password"] == SECRET
    assert SECRET not in f"{Settings()!r} {Settings()}"


@pytest.mark.parametrize(
    ("command", "debug"),
    [("medallion_platform.cli", "1"), ("medallion_platform.installation.local_spark", "")],
)
def test_each_problem_is_one_sentence_wherever_settings_are_read(
    tmp_path: Path, command: str, debug: str
) -> None:
    wrong = {
        "MEDALLION_KAFKA": json.dumps({**BROKER, "sasl.password": [SECRET], "debug": {"a": SECRET}}),
        "MEDALLION_SETTLE_SECONDS": SECRET,
        "MEDALLION_LANDING": f"gs://{SECRET}",
        "MEDALLION_DEBUG": debug,
        "MEDALLION_HOME": str(tmp_path),
    }
    main = f"from {command} import main; import sys; sys.argv[1:] = ['status']; main()"
    done = subprocess.run([sys.executable, "-c", main], env=wrong, capture_output=True, text=True)
    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr
    lines = [line.removeprefix("medallion: ") for line in done.stderr.splitlines()]
    assert [line.partition(":")[0] for line in lines] == [
        *("MEDALLION_LANDING", "MEDALLION_SETTLE_SECONDS", "MEDALLION_KAFKA", "MEDALLION_KAFKA")
    ]
    assert "Error" not in done.stderr


def test_a_code_location_says_the_same(tmp_path: Path) -> None:
    wrong = {"MEDALLION_KAFKA": f'{{"sasl.password": {SECRET}', "MEDALLION_HOME": str(tmp_path)}
    command = ["-m", "dagster", "definitions", "validate", "-m", "medallion_platform.definitions"]
    env = {**wrong, "DAGSTER_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True)
    assert done.returncode
    assert "MEDALLION_KAFKA: is no JSON object" in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_the_key_of_tokens_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDALLION_TOKEN_KEY", "sixteen letters!")
    settings = Settings()
    assert "sixteen" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    monkeypatch.setenv("MEDALLION_TOKEN_KEY", "fifteen letters")
    with pytest.raises(WrongSetting, match=r"^MEDALLION_TOKEN_KEY: .*16") as caught:
        Settings()
    assert "fifteen" not in shown(caught.value)


TOLD_TO = {
    "SLACK_TOKEN": SECRET,
    "PAGERDUTY_KEY": SECRET,
    "GRAFANA_TOKEN": SECRET,
    "WEBHOOK_URL": f"https://hooks.example/{SECRET}",
    "WEBHOOK_SECRET": SECRET,
    "MAIL_SERVER": f"smtp://me:{SECRET}@mail.example:587",
}


def test_the_secrets_of_channels_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TOLD_TO.items():
        monkeypatch.setenv(f"MEDALLION_{name}", value)
    settings = Settings()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WEBHOOK_URL", SECRET, "https://"),
        ("MAIL_SERVER", SECRET, "smtp://"),
        ("MAIL_SERVER", f"http://me:{SECRET}@mail.example", "smtp://"),
        ("MAIL_SERVER", f"smtp://me:{SECRET}@mail.example:port", "smtp://"),
        ("MAIL_SERVER", f"smtp://me:{SECRET}@\u2100.example", "smtp://"),
        ("SLACK_URL", f"http://{SECRET}.example", "https://"),
        ("GRAFANA_URL", f"http://localhost.{SECRET}", "https://"),
        ("PAGERDUTY_URL", f"ftp://{SECRET}", "https://"),
        ("DAGSTER_URL", SECRET, "https://"),
        ("OWNERS", SECRET, "is no JSON object"),
        ("OWNERS", json.dumps({"team:shop": SECRET}), "is no JSON object"),
        ("OWNERS", json.dumps({"team:shop": {"pager": SECRET}}), "is no JSON object"),
        ("OWNERS", json.dumps({"team:shop": {"slack": [SECRET]}}), "is no JSON object"),
    ],
)
def test_a_channel_that_cannot_be_meant_is_told_by_its_setting_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"MEDALLION_{name}", value)
    with pytest.raises(WrongSetting, match=rf"^MEDALLION_{name}: [^\n]*{said}") as caught:
        Settings()
    assert SECRET not in shown(caught.value)


def test_they_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().home = Path("x")  # type: ignore[misc]


@pytest.mark.parametrize("given", ["MEDALLION_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_the_wrapper_and_the_settings_agree_on_the_cache(
    given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("MEDALLION_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(given, str(tmp_path / "there"))
    assert load(REPOSITORY).cache_folder() == Settings().cache
