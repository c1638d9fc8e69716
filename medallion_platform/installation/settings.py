"""What differs between installations. A profile changes values here, never a code path.

Every field is read from the environment as `MEDALLION_<FIELD>`. Import this module inside the
function that needs it where start-up time counts: pydantic costs half a second.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from medallion_platform.container import memory_limit
from medallion_platform.contracts.masking import SHORTEST_KEY
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.installation.project import ProjectError, project_above
from medallion_platform.storage import SCHEME


class Profile(StrEnum):
    """Where the platform runs: one process tree on one machine, or Kubernetes."""

    LOCAL = "local"
    CLUSTER = "cluster"


def cache_home() -> Path:
    """The folder of downloads that all checkouts share; the same as in the wrapper script."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "medallion"


def default_home() -> Path:
    """`.medallion` in the folder of the current project, or else in the current folder."""
    try:
        project = project_above(Path.cwd())
    except ProjectError:  # whoever needs the project is told
        project = None
    return Path((project and project.root) or "", ".medallion")


def _absolute_path(path: Path) -> Path:
    return path.expanduser().absolute()


def _folder_or_bucket(given: Path | str) -> Path | str:
    """A folder by its absolute path, or `s3://bucket/prefix`."""
    scheme, mark, rest = str(given).partition("://")
    if not mark:
        return _absolute_path(Path(given))
    if scheme not in ("s3", "s3a") or not rest.strip("/"):
        raise ValueError("is neither a folder nor s3://bucket/prefix")
    return SCHEME + _held(rest.strip("/"), _NO_PREFIX)


_NO_PREFIX = "%?#"
"""What clients of a bucket take for a part of a URL, each otherwise."""
_NO_TABLES = "%?=[]|^\\"
"""What delta-rs, Polars or Spark take for a part of a URL, a pattern or a partition in a table's path."""


def _held(place: str, unheld: str) -> str:
    if wrong := next((c for c in place if c in unheld or not c.isprintable()), None):
        raise ValueError(
            f"has {wrong!r} in its path (or in that of the current folder, if it is relative), which the "
            "libraries that read and write there do not take as it is: choose a path without it"
        )
    return place


def _for_tables(place: Path | str) -> Path | str:
    scheme, mark, rest = str(place).partition("://")
    _held(rest if mark else scheme, _NO_TABLES)
    return place


class WrongSetting(MedallionError):
    """A setting has an invalid value; the text has one line for each, with its variable and the problem.

    The value itself is never part of the error, because it may be a password that was put in the wrong place.
    """

    kind = Kind.PERMANENT


PREFIX = "MEDALLION_"
_READ_ELSEWHERE = ("MODULE", "ROLE", "LOG_FORMAT", "LOG_LEVEL", "DEBUG", "SHARED_DATA")
"""By the command line, and by the suites, whose others begin with `TEST_`."""
OF_A_RUN = f"{PREFIX}RUN_EXECUTORS"
"""This and others that begin with `RUN_` are set in the pod of a run, by who launches it."""
_OF_SERVICES = re.compile(r"\w+_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)")
"""What Kubernetes tells a container of services named `medallion-...`."""


def misspelt(variables: Iterable[str]) -> list[str]:
    """A sentence for each of these variables of the environment that is named like a setting and is none."""
    known = [PREFIX + name.upper() for name in (*Settings.model_fields, *_READ_ELSEWHERE)]
    odd = sorted(v for v in variables if v.startswith(PREFIX) and v not in known)
    return [
        f"no setting is named {variable}, so it has no effect" + _meant(variable, known)
        for variable in odd
        if not variable.startswith((f"{PREFIX}TEST_", f"{PREFIX}RUN_"))
        and not _OF_SERVICES.fullmatch(variable)
    ]


def _meant(variable: str, known: Iterable[str]) -> str:
    """The nearest name; what all names begin with makes no two of them alike."""
    names = [name.removeprefix(PREFIX) for name in known]
    near = get_close_matches(variable.removeprefix(PREFIX), names, 1)
    return f"; did you mean {PREFIX}{near[0]}?" if near else ""


_PROPERTY = r"[a-z][a-z0-9]*([._][a-z0-9]+)+|debug|acks|retries"
"""What a name of the Kafka client's settings looks like; anything else may be a value."""
_BROKER = r"([A-Za-z_]+://)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?"


def _from_json(given: Any) -> Any:
    """What a text of JSON says, None where it is none; anything else as it is."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError:
        return None


def _kafka_settings(given: Any) -> Any:
    """Settings of the Kafka client, from JSON; all values are text."""
    given = _from_json(given)
    if not isinstance(given, dict):
        raise ValueError('is no JSON object such as {"bootstrap.servers": "broker:9092"}')
    if given and (wrong := list(_wrong_kafka_settings(given))):
        raise ValueError("\n".join(wrong))
    return given


def _wrong_kafka_settings(given: dict[str, Any]) -> Iterator[str]:
    from medallion_platform.sources.connectors.kafka.settings import reserved_settings

    if odd := sum(not re.fullmatch(_PROPERTY, name) for name in given):
        yield f"has {odd} {'names' if odd > 1 else 'name'} that no setting of the client has"
        return
    for name, value in given.items():
        if not isinstance(value, str):
            yield f"{name} has to be text, in quotes"
    for name in reserved_settings(given):
        yield f"{name} cannot be set"
    brokers = str(given.get("bootstrap.servers", "")).split(",")
    if not all(re.fullmatch(_BROKER, broker.strip()) for broker in brokers):
        yield "bootstrap.servers has to be host:port, several with commas between"


_WORDS = {
    "enum": "is none of {expected}",
    "literal_error": "is none of {expected}",
    "float_parsing": "is no number",
    "float_type": "is no number",
    "int_parsing": "is no whole number",
    "int_from_float": "is no whole number",
    "finite_number": "is no finite number",
    "greater_than_equal": "has to be {ge:g} or more",
    "less_than_equal": "has to be {le:g} or less",
    "byte_size": "has to be a number of bytes such as 10GB",
    "byte_size_unit": "has to be a number of bytes such as 10GB",
    "path_type": "is no path",
    "too_short": "has to have {min_length} characters or more",
    "string_too_short": "has to have {min_length} characters or more",
}


def _wrong_settings_in_words(error: ValidationError) -> str:
    """What is wrong with each variable, without its value."""
    lines: list[str] = []
    for problem in error.errors(include_input=False, include_url=False):
        variable = f"MEDALLION_{str(problem['loc'][0]).upper()}"
        text = _WORDS.get(problem["type"], "has a value that it cannot have")
        text = text.format_map(problem.get("ctx", {}))
        if problem["type"] == "value_error":
            text = problem["msg"].removeprefix("Value error, ")
        lines += (f"{variable}: {line}" for line in text.splitlines())
    return "\n".join(lines)


def usual_memory() -> str:
    """A quarter of this machine's or container's memory, within bounds; other processes need the rest.

    A run's own pod has no others: more than half of it, the rest is for Python and beside Java's heap.
    """
    import psutil

    machine = psutil.virtual_memory().total
    here = min(memory_limit() or machine, machine)
    if OF_A_RUN in os.environ:
        return f"{here * 3 // 5 >> 20}m"
    return f"{min(max(here // 4 >> 20, 1024), 4096)}m"


def _java_memory(given: str) -> str:
    """An amount of memory as Java writes it."""
    if not re.fullmatch(r"[1-9]\d*[kmg]", given, re.IGNORECASE):
        raise ValueError("has to be an amount such as 2g or 1500m")
    return given


def bytes_of_memory(given: str) -> int:
    """The bytes of an amount of memory as Java writes it."""
    return int(given[:-1]) << {"k": 10, "m": 20, "g": 30}[given[-1].lower()]


def _server(given: str) -> str:
    """The address of a server of HTTP that is told a secret: by TLS, or on this machine."""
    if not re.match(r"https://[^/]|http://(127\.0\.0\.1|localhost|\[::1\])([:/]|$)", given):
        raise ValueError("has to begin with https://, since a secret is sent there")
    return given.rstrip("/")


def _web_page(given: str) -> str:
    if given and not re.match(r"https?://[^/]", given):
        raise ValueError("has to begin with https:// or http://")
    return given.rstrip("/")


def _webhook(given: SecretStr) -> SecretStr:
    _web_page(given.get_secret_value())
    return given


def _mail_server(given: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(given.get_secret_value())
        there = parts.scheme in ("smtp", "smtps") and parts.hostname and parts.port != 0
    except ValueError:
        there = False
    if not there:
        raise ValueError("has to be smtp://user:password@host:port, or smtps://...")
    return given


def _is_contact(place: object) -> bool:
    return isinstance(place, dict) and all(
        of in ("slack", "mail") and isinstance(to, str) for of, to in place.items()
    )


def _contacts(given: Any) -> Any:
    """Where owners of tables are reached, from JSON."""
    given = _from_json(given)
    if not isinstance(given, dict) or not all(map(_is_contact, given.values())):
        raise ValueError(
            'is no JSON object such as {"team:shop": {"slack": "C0123ABCD", "mail": "shop@example.com"}}'
        )
    return given


def _repository(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in ("https", "file") or "@" in parts.netloc or parts.path.count("/") < 2):
        raise ValueError("is no https://host/owner/name, without a user or a token in it")
    return url


def _path_in_repository(path: str) -> str:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError("is no path within the repository")
    return path


Folder = Annotated[Path, AfterValidator(_absolute_path)]
Location = Annotated[Path | str, BeforeValidator(_folder_or_bucket)]
Home = Annotated[Path, AfterValidator(_absolute_path), AfterValidator(_for_tables)]
Server = Annotated[str, AfterValidator(_server)]
Tables = Annotated[Path | str, BeforeValidator(_folder_or_bucket), AfterValidator(_for_tables)]


class Settings(BaseSettings):
    """The settings of one installation; invalid values are refused on creation.

    Example:
        >>> from medallion_platform import Settings
        >>> Settings(home="/data").lake.as_posix()
        '/data/lake'

    Raises:
        WrongSetting: a value is invalid.
    """

    model_config = SettingsConfigDict(
        env_prefix="MEDALLION_",
        frozen=True,
        env_ignore_empty=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    profile: Profile = Profile.LOCAL
    home: Home = Field(default_factory=default_home)
    """The folder of all data; by default `.medallion` in the project's folder."""
    lake: Tables = Path("/")
    """The tables, in a folder or `s3://bucket/prefix`; by default `lake` in the home."""
    landing: Location = Path()
    """The landing zone, a folder or `s3://bucket/prefix`; by default `landing` in the home."""
    settle_seconds: Annotated[float, Field(ge=0)] = 5.0
    """A file in the landing zone is complete when it has not changed for this long."""
    backup: Location | None = None
    """Where backups are kept, a folder or `s3://bucket/prefix`; if set, one is made every six hours."""
    keep_runs_days: Annotated[float, Field(ge=1)] = 30.0
    """How long Dagster keeps runs that ended; the lake's own history is not affected."""
    kafka: Annotated[dict[str, str], NoDecode, BeforeValidator(_kafka_settings)] = Field(
        default_factory=dict, repr=False
    )
    """Settings of the Kafka client, as JSON: `{"bootstrap.servers": "...", "sasl.password": "..."}`.
    If set, the sample reads clickstream from topics instead of files."""
    kafka_engine: Literal["polars", "spark"] = "polars"
    """What reads clickstream's topics: one small process, or Spark's executors."""
    cache: Folder = Field(default_factory=cache_home)
    """The folder for downloads, such as the Delta jars."""
    token_key: Annotated[SecretStr | None, Field(min_length=SHORTEST_KEY)] = None
    """The key of tokens, for contracts with `protect="tokenize"`; a new key rebuilds their tables."""
    maven: SecretStr = SecretStr("https://repo1.maven.org/maven2")
    """The Maven repository for jars: the URL of a company's mirror (may contain a password) or a folder
    with the same layout."""
    java_home: Folder | None = None
    """Another Java than the platform's own, 17 or newer; `JAVA_HOME` works too."""
    spark_memory: Annotated[str, AfterValidator(_java_memory)] = Field(default_factory=usual_memory)
    """The most memory that Spark uses for rows on this machine (`2g`); by default a quarter, at least 1 GB
    and at most 4 GB; in the pod of a run three fifths of its memory."""
    spark_cores: Annotated[int, Field(ge=1)] | None = None
    """Threads of Spark on this machine; by default one per core that this process may use."""
    local_bytes: ByteSize = ByteSize(10 * 10**9)
    """On Kubernetes: up to so many bytes of data files (`10GB`) a run has no executors."""
    own_run_bytes: ByteSize = ByteSize(100 * 10**9)
    """On Kubernetes: a table that has more bytes to read than this gets a run of its own."""
    most_memory: Annotated[str, AfterValidator(_java_memory)] = "16g"
    """On Kubernetes: the memory of the largest pod that a run may ask for."""
    most_executors: Annotated[int, Field(ge=0)] = 20
    """On Kubernetes: the most executors of one run."""
    git_repository: Annotated[str, AfterValidator(_repository)] = ""
    """The repository with the chart's values at GitHub, `https://github.com/owner/name`; if set, a lasting
    change can be proposed there."""
    git_values: Annotated[str, AfterValidator(_path_in_repository)] = "values.yaml"
    """The file with the values in it."""
    git_token: SecretStr | None = None
    """A token that may push branches and open pull requests there."""
    github_api: Server = "https://api.github.com"
    """The API of another GitHub."""

    hung_after_minutes: Annotated[float, Field(ge=0, le=24 * 60)] = 10.0
    """How long a run may do nothing before it is ended as hung; 0: for ever. The longest pause that a run
    makes by itself is five minutes, for an executor."""
    notify_after_minutes: Annotated[float, Field(ge=0, le=24 * 60)] = 10.0
    """How long something that failed is tried again before people are told of it."""
    owners: Annotated[dict[str, dict[str, str]], NoDecode, BeforeValidator(_contacts)] = Field(
        default_factory=dict
    )
    """Where owners of tables are told, as JSON: `{"team:shop": {"slack": "C0123ABCD", "mail": "..."}}`."""
    dagster_url: Annotated[str, AfterValidator(_web_page)] = ""
    """Where people open Dagster; if set, messages have a link to the run that failed."""
    slack_token: SecretStr | None = None
    """The token of a Slack bot with the scope `chat:write`; if set, people are told in Slack."""
    slack_channel: str = ""
    """The id of the channel for tables whose owner has none."""
    slack_url: Server = "https://slack.com/api"
    """Slack's web API; another one for GovSlack."""
    pagerduty_key: SecretStr | None = None
    """The key of an integration of type Events API v2; if set, people are told by PagerDuty."""
    pagerduty_url: Server = "https://events.pagerduty.com"
    """PagerDuty's events; `https://events.eu.pagerduty.com` for its European region."""
    grafana_token: SecretStr | None = None
    """The token of a service account that may write annotations; if set, each incident is one."""
    grafana_url: Server = "http://localhost:3000"
    """Where Grafana is."""
    webhook_url: Annotated[SecretStr, AfterValidator(_webhook)] | None = None
    """An address that is told as JSON of each incident and its changes."""
    webhook_secret: SecretStr | None = None
    """Signs what the webhook is told, as Standard Webhooks say."""
    mail_server: Annotated[SecretStr, AfterValidator(_mail_server)] | None = None
    """`smtp://user:password@host:port` (with STARTTLS) or `smtps://...`; if set, there are e-mails."""
    mail_from: str = ""
    """Who e-mail is from; by default `medallion` at this machine."""
    mail_to: str = ""
    """Who is written to of tables whose owner has no address."""

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = _wrong_settings_in_words(error)
        else:
            return
        raise WrongSetting(wrong)  # out here, so that what held the values is no context of it

    def model_post_init(self, _: object) -> None:
        """Derive from the home what was not given."""
        for name in ("lake", "landing"):
            if name not in self.model_fields_set:
                object.__setattr__(self, name, self.home / name)

    @property
    def known_facts(self) -> Path:
        """What commands that look found out of tables, for the next one."""
        return self.home / "known_facts.json"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own storage."""
        return self.home / "dagster"

    @property
    def feature_repo(self) -> Path:
        """The Feast repository."""
        return self.home / "features"
