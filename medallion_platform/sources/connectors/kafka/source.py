"""The declaration of a source of topics."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar

from medallion_platform.extras import need
from medallion_platform.sources.arrivals import Arrivals, PositionOf, SourceContext
from medallion_platform.sources.connectors.kafka.messages import MESSAGE
from medallion_platform.sources.connectors.kafka.offsets import unsure
from medallion_platform.sources.connectors.kafka.settings import ours
from medallion_platform.sources.source import Engine, Source

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

    from medallion_platform.sources.connectors.kafka.follow import TopicFollower


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
        need("kafka", f"source {self.name!r}")
        super().__post_init__()
        object.__setattr__(self, "topics", tuple(self.topics))
        if bool(self.topics) == bool(self.pattern):
            raise ValueError(f"source {self.name!r} names either topics or a pattern of them")
        if not self.format.of_messages:
            raise ValueError(f"source {self.name!r}: messages are JSON or Avro, not {self.format!r}")
        re.compile(self.pattern)
        if re.search(r"\\[A-Za-z]|\(\?", self.pattern):
            raise ValueError(
                f"source {self.name!r}: the pattern {self.pattern!r} has to be a POSIX expression, which a "
                "group's members share: [0-9] in the place of \\d, and no (?"
            )
        if not self.settings.get("bootstrap.servers"):
            raise ValueError(f"source {self.name!r}: its settings lack bootstrap.servers")
        if refused := ours(self.settings):
            raise ValueError(f"source {self.name!r}: {', '.join(refused)} cannot be set")

    @property
    def brokers(self) -> str:
        """Where it asks."""
        return str(self.settings["bootstrap.servers"])

    @property
    def where(self) -> str:
        """The topics that it reads."""
        return "topics " + ", ".join(f"`{t}`" for t in self.topics or (self.pattern,))

    def provenance(self) -> Mapping[str, PolarsDataType]:
        """Key, headers and time of the message."""
        return MESSAGE

    def recovered(self, positions: Mapping[str, int]) -> Mapping[str, int]:
        """The positions; which topic of a name it was that was read, rows do not tell."""
        return {**positions, **{unsure(log): 0 for log in positions}}

    @property
    def taken_in_by(self) -> Engine:
        """The engine that is declared."""
        return self.engine

    def arrivals(self, context: SourceContext) -> Arrivals:
        """The partitions as they are now; none while continuous workers take the source in."""
        from medallion_platform.sources.connectors.kafka.client import members
        from medallion_platform.sources.connectors.kafka.reading import Topics, topics_of

        if workers := members(self, self.group(context.lake)):
            return Topics(self, (), (f"source {self.name} is left to its {workers} continuous workers",))
        return topics_of(self, context.position)

    def follow(self, lake: str, positions: Callable[[], PositionOf]) -> TopicFollower:
        """A member of the group of the workers that take the source into a lake."""
        from medallion_platform.sources.connectors.kafka.follow import TopicFollower

        return TopicFollower(self, self.group(lake), positions)

    def attend(self, lake: str) -> AbstractContextManager[object]:
        """Be a member of that group which reads nothing."""
        from medallion_platform.sources.connectors.kafka.follow import GroupMember

        return closing(GroupMember(self, self.group(lake)))

    def group(self, lake: str) -> str:
        """The consumer group of the workers that take the source into one lake, by the lake's root.

        Two lakes (staging and production, say) are two groups: each gets every message.
        """
        return f"medallion.{self.name}.{blake2b(lake.encode(), digest_size=4).hexdigest()}"
