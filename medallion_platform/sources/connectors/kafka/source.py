"""The declaration of a source of topics."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from medallion_platform.contracts import options
from medallion_platform.extras import require_extra
from medallion_platform.sources.arrivals import Arrivals, PositionOf, SourceContext
from medallion_platform.sources.connectors.kafka.messages import MESSAGE
from medallion_platform.sources.connectors.kafka.offsets import unidentified_log
from medallion_platform.sources.connectors.kafka.settings import reserved_settings
from medallion_platform.sources.source import Engine, Source

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

    from medallion_platform.sources.connectors.kafka.follow import TopicFollower


_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class KafkaSource(Source, kind="kafka"):
    """Messages of some topics that become one bronze table.

    Each message is one record, even with line ends in it. A tombstone (a message without a value) is a dead
    letter of a JSON or Avro source, and a change event without a row of a Debezium source.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field, JsonLines, KafkaSource
        >>> class Clicks(ContractModel):
        ...     page: T.StringType = Field()
        >>> clicks = KafkaSource(
        ...     name="web.clicks",
        ...     table="bronze.clicks",
        ...     contract=Clicks.contract,
        ...     format=JsonLines(),
        ...     domain="web",
        ...     topics=("clicks",),
        ...     settings={"bootstrap.servers": "broker:9092"},
        ... )
        >>> clicks.where
        'topics `clicks`'
    """

    topics: tuple[str, ...] = field(default=(), kw_only=True)
    """The names of the topics."""
    pattern: str = field(default="", kw_only=True)
    """A regular expression that matches whole topic names, instead of `topics`."""
    engine: Engine = field(default="polars", kw_only=True)
    """What reads the topics: one small process, or Spark's executors for more than a few of them can do."""
    settings: Mapping[str, str | int | float | bool] = field(kw_only=True, repr=False, compare=False)
    """The client's own settings (`bootstrap.servers`, ...); only the brokers are ever shown."""

    continuous: ClassVar[bool] = True

    @classmethod
    def of(cls, source: Source, **where: Any) -> KafkaSource:
        """A copy of another source that reads topics instead."""
        return cls(**{f.name: getattr(source, f.name) for f in fields(Source)}, **where)

    def __post_init__(self) -> None:
        require_extra("kafka", f"source {self.name!r}")
        super().__post_init__()
        object.__setattr__(self, "topics", options.texts(f"source {self.name!r}: topics", self.topics))
        if bool(self.topics) == bool(self.pattern):
            raise self.refused("names either topics or a pattern of them")
        if odd := [t for t in self.topics if not _TOPIC.fullmatch(t)]:
            raise self.refused(f"{odd[0]!r} is no name of a topic")
        options.instance(
            f"source {self.name!r}: settings", self.settings, Mapping, '{"bootstrap.servers": ...}'
        )
        if not self.format.of_messages:
            raise self.refused(f"messages are JSON or Avro, not {self.format!r}")
        if self.engine not in get_args(Engine):
            raise self.refused(f"engine={self.engine!r} is none of {', '.join(get_args(Engine))}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise self.refused(f"the pattern {self.pattern!r} cannot be read: {error}") from None
        if re.search(r"\\[A-Za-z]|\(\?", self.pattern):
            raise self.refused(
                f"the pattern {self.pattern!r} has to be a POSIX expression, which a group's members share: "
                "[0-9] in the place of \\d, and no (?"
            )
        if not self.settings.get("bootstrap.servers"):
            raise self.refused("its settings lack bootstrap.servers")
        if refused := reserved_settings(self.settings):
            raise self.refused(f"{', '.join(refused)} cannot be set")

    @property
    def brokers(self) -> str:
        """The addresses of its brokers."""
        return str(self.settings["bootstrap.servers"])

    @property
    def where(self) -> str:
        """The topics that it reads."""
        return "topics " + ", ".join(f"`{t}`" for t in self.topics or (self.pattern,))

    def provenance(self) -> Mapping[str, PolarsDataType]:
        """Key, headers and time of the message."""
        return MESSAGE

    def recovered(self, positions: Mapping[str, int]) -> Mapping[str, int]:
        """The positions; rows do not show the id of the topic that was read."""
        return {**positions, **{unidentified_log(log): 0 for log in positions}}

    @property
    def taken_in_by(self) -> Engine:
        """The declared engine."""
        return self.engine

    def arrivals(self, context: SourceContext) -> Arrivals:
        """The current partitions; none while continuous workers take in the source."""
        from medallion_platform.sources.connectors.kafka.bounded_run import Topics, look_at_topics
        from medallion_platform.sources.connectors.kafka.client import count_group_members

        if workers := count_group_members(self, self.group(context.lake)):
            return Topics(self, (), (f"source {self.name} is left to its {workers} continuous workers",))
        return look_at_topics(self, context.position)

    def follow(self, lake: str, positions: Callable[[], PositionOf]) -> TopicFollower:
        """A member of the consumer group of the workers that take the source into a lake."""
        from medallion_platform.sources.connectors.kafka.follow import TopicFollower

        return TopicFollower(self, self.group(lake), positions)

    def attend(self, lake: str) -> AbstractContextManager[object]:
        """Join that group without reading anything."""
        from medallion_platform.sources.connectors.kafka.follow import GroupMember

        return closing(GroupMember(self, self.group(lake)))

    def group(self, lake: str) -> str:
        """The consumer group of the workers that take the source into one lake, by the lake's root.

        Two lakes (staging and production, say) are two groups: each gets every message.
        """
        return f"medallion.{self.name}.{blake2b(lake.encode(), digest_size=4).hexdigest()}"
