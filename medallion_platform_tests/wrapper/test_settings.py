"""Settings: what follows from what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from medallion_platform.settings import Profile, Settings

from .test_wrapper import REPOSITORY, load


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "LAKE", "LANDING", "PROFILE", "SETTLE_SECONDS", "CACHE"):
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


def test_lake_and_landing_zone_may_each_lie_in_a_bucket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDALLION_LAKE", "s3a://bucket/a lake/")
    settings = Settings()
    assert (settings.lake, settings.landing) == ("s3://bucket/a lake", tmp_path / ".medallion" / "landing")
    assert Settings(landing="s3://bucket").landing == "s3://bucket"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PROFILE", "cloud"), ("SETTLE_SECONDS", "-1"), ("LAKE", "gs://bucket"), ("LANDING", "s3://")],
)
def test_bad_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MEDALLION_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


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
