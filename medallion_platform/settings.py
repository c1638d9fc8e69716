"""What differs between installations. A profile changes values here, never a code path.

Every field is read from the environment as `MEDALLION_<FIELD>`. Import this module inside the
function that needs it where start-up time counts: pydantic costs half a second.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from medallion_platform.storage import SCHEME


class Profile(StrEnum):
    """Where the platform runs: one process tree on one machine, or Kubernetes."""

    LOCAL = "local"
    CLUSTER = "cluster"


def cache_home() -> Path:
    """Where downloads shared by all checkouts lie; the wrapper script says the same."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "medallion"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _location(given: Path | str) -> Path | str:
    """A folder by its absolute path, or `s3://bucket/prefix`."""
    scheme, mark, rest = str(given).partition("://")
    if not mark:
        return _absolute(Path(given))
    if scheme not in ("s3", "s3a") or not rest.strip("/"):
        raise ValueError(f"{given} is neither a folder nor s3://bucket/prefix")
    return SCHEME + rest.strip("/")


Folder = Annotated[Path, AfterValidator(_absolute)]
Location = Annotated[Path | str, BeforeValidator(_location)]


class Settings(BaseSettings):
    """The settings of one installation; bad values are refused when it is made."""

    model_config = SettingsConfigDict(
        env_prefix="MEDALLION_", frozen=True, env_ignore_empty=True, validate_default=True
    )

    profile: Profile = Profile.LOCAL
    home: Folder = Path(".medallion")
    """Everything that the platform keeps."""
    lake: Location = Path()
    """All tables, a folder or `s3://bucket/prefix`; `lake` below home unless given."""
    landing: Location = Path()
    """The landing zone, one folder a source, in a bucket as well; `landing` below home unless given."""
    settle_seconds: Annotated[float, Field(ge=0)] = 5.0
    """A file in the landing zone is complete when it has not changed for this long."""
    kafka: dict[str, str] = Field(default_factory=dict, repr=False)
    """Settings of the Kafka client, as JSON: `{"bootstrap.servers": "...", "sasl.password": "..."}`.
    Clickstream comes from topics where it is given, from files where not."""
    kafka_engine: Literal["lean", "spark"] = "lean"
    """Who takes clickstream's topics in: one small process, or Spark's executors."""
    cache: Folder = Field(default_factory=cache_home)
    """Downloads that are kept, such as the Delta jars."""
    ivy_settings: Folder | None = None
    """An ivysettings.xml to fetch jars by, where a company has its own mirror."""

    def model_post_init(self, _: object) -> None:
        """Derive what follows from home and was not given."""
        for name in ("lake", "landing"):
            if name not in self.model_fields_set:
                object.__setattr__(self, name, self.home / name)

    @property
    def dagster_home(self) -> Path:
        """Dagster's own storage."""
        return self.home / "dagster"

    @property
    def feature_repo(self) -> Path:
        """The Feast repository."""
        return self.home / "features"
