"""The declaration of a source, whatever its connector: records of one kind that become one bronze table.

A kind of connector is a module or a package in `connectors`: a frozen dataclass that derives from `Source`.
Its own fields are its options, and its method `arrivals` returns what has arrived as `arrivals.Arrivals`:
named logs, positions in them, and batches of records from these positions on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medallion_platform.contracts import options
from medallion_platform.contracts.contract import EVENT_DATE, Contract
from medallion_platform.errors import DeclarationError
from medallion_platform.sources.formats.format import Format
from medallion_platform.sources.kinds import Kinds

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

    from medallion_platform.sources.arrivals import Arrivals, PositionOf, SourceContext, SourceFollower

Engine = Literal["polars", "spark"]
"""What executes an intake: one small process, or Spark's executors for more than a few of them can do."""


@dataclass(frozen=True)
class Source:
    """Records of one kind that become one bronze table.

    Example:
        >>> from medallion_platform import FileSource, KafkaSource, RestSource, Source
        >>> [made.kind for made in (FileSource, KafkaSource, RestSource) if issubclass(made, Source)]
        ['files', 'kafka', 'rest']
    """

    name: str
    """Its name. Positions in the table contain it, so it must never change."""
    table: str
    """The bronze table that its records become."""
    contract: Contract
    """The contract of its records."""
    format: Format
    """How to read its records."""
    domain: str
    """The domain that owns it: part of the group in Dagster."""
    drop_repeated_text: bool = False
    """For rows without a key: a record with exactly the same text as an earlier one is a duplicate."""
    first_day: date = date(2021, 1, 1)
    """The first day of a table partitioned by event date. Earlier rows are dead letters."""

    kind: ClassVar[str] = ""
    """The name of its connector."""
    continuous: ClassVar[bool] = False
    """Whether workers can follow it, so that what comes is taken in within a second."""

    def __init_subclass__(cls, kind: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        if kind:
            cls.kind = kind
            CONNECTORS.register(kind, cls)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, or has no meaning for the contract.

        Raises:
            DeclarationError: says which source, which option or column, and why.
        """
        for option, given in (("name", self.name), ("table", self.table), ("domain", self.domain)):
            options.text(f"source {self.name!r}: {option}", given)
        here = f"source {self.name!r}"
        options.instance(f"{here}: contract", self.contract, Contract, "a contract: MyModel.contract")
        options.instance(f"{here}: format", self.format, Format, "a format: Csv(), JsonLines(), ...")
        options.day(f"{here}: first_day", self.first_day)
        if self.partition is None and self.first_day != Source.first_day:
            raise self.refused(f"first_day is for a contract that is partitioned by {EVENT_DATE}")
        options.flag(f"{here}: drop_repeated_text", self.drop_repeated_text)
        if self.contract.row_count_column:
            raise self.refused(f"row_count_column is for aggregates, and {self.contract.name} names one")
        if told := self.format.contradiction(self.contract):
            raise self.refused(told)
        if self.drop_repeated_text and self.contract.key:
            raise self.refused(
                f"drop_repeated_text is for rows without a key, and {self.contract.name} has the key "
                f"{', '.join(self.contract.key)}"
            )

    def refused(self, reason: str) -> DeclarationError:
        """The error for a declaration of this source that cannot be meant."""
        return DeclarationError(f"source {self.name!r}: {reason}")

    @property
    def partition(self) -> str | None:
        """The column with the day of a row, if the table is partitioned by it."""
        return EVENT_DATE if EVENT_DATE in self.contract.partitioned_by else None

    @property
    def where(self) -> str:
        """Where the records come from, for people."""
        return self.name

    @property
    def taken_in_by(self) -> Engine:
        """The engine that takes it in."""
        return "polars"

    @property
    def repeats(self) -> bool:
        """Whether it may return a record again, at the same offset, after it was taken in."""
        return False

    def recovered(self, positions: Mapping[str, int]) -> Mapping[str, int]:
        """The positions to restore if a table has lost them; positions: the next offsets, from its rows."""
        return positions

    def provenance(self) -> Mapping[str, PolarsDataType]:
        """Further columns with the origin of a record, and their Polars types."""
        return {}

    def arrivals(self, context: SourceContext) -> Arrivals:
        """What has arrived, as of now.

        Raises:
            Unavailable: it cannot be reached.
        """
        raise NotImplementedError(f"{type(self).__name__} says nothing of what has arrived")

    def follow(self, lake: str, positions: Callable[[], PositionOf]) -> SourceFollower:
        """A worker's part of a `continuous` source.

        lake: the root of the lake to take it into. positions: returns the current positions of the table.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be followed")

    def attend(self, lake: str) -> AbstractContextManager[object]:
        """In the `with` block, others see that a worker takes in this `continuous` source."""
        raise NotImplementedError(f"{type(self).__name__} cannot be followed")


CONNECTORS = Kinds[Source]("medallion_platform.connectors", "medallion_platform.sources.connectors")
