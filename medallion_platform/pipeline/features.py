"""The declaration of a gold table as features: numbers about an entity, as input of models.

`serving.feature_repository` publishes them to a Feast repository; this module does not need Feast.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from medallion_platform.contracts import options
from medallion_platform.contracts.contract import Column
from medallion_platform.errors import DeclarationError
from medallion_platform.extras import require_extra
from medallion_platform.pipeline.table import Table, TimePartition

KINDS = {
    "string": "String",
    "integer": "Int32",
    "long": "Int64",
    "float": "Float32",
    "double": "Float64",
    "boolean": "Bool",
    "decimal": "Decimal",
    "timestamp": "UnixTimestamp",
}
"""The types that a feature may have, and their names in Feast."""
_KEY_KINDS = ("string", "integer", "long")


@dataclass(frozen=True)
class Features:
    """A gold table as a feature view of the same name.

    keys: the columns that identify the entity. known_at: the column with the time from which a row is valid.
    valid_for: for how long; None: until the next row.

    Example:
        What `features` gives:

        >>> from datetime import timedelta
        >>> from medallion_platform import Features, daily
        >>> Features("gold.spend", daily("day"), (), "known_at", (), timedelta(days=30)).view
        'spend'
    """

    table: str
    partition: TimePartition
    keys: tuple[Column, ...]
    known_at: str
    columns: tuple[Column, ...]
    valid_for: timedelta | None = None

    @property
    def view(self) -> str:
        """The name of the feature view."""
        return self.table.partition(".")[2]

    @property
    def references(self) -> list[str]:
        """Every feature as Feast names it: `user_features:events_7d`."""
        return [f"{self.view}:{c.name}" for c in self.columns]


def features(table: Table, *, valid_for: timedelta | None = None) -> Features:
    """Declare a gold table as features: all columns except key, partition and event time.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field, daily, features, table
        >>> class Spend(ContractModel):
        ...     user_id: T.StringType = Field()
        ...     day: T.DateType = Field()
        ...     known_at: T.TimestampType = Field()
        ...     spend: T.DoubleType = Field()
        ...
        ...     class Config:
        ...         metadata = {
        ...             "key": ["user_id", "day"],
        ...             "event_time": "known_at",
        ...             "partitioned_by": ["day"],
        ...         }
        >>> @table(
        ...     "gold.spend",
        ...     contract=Spend.contract,
        ...     inputs={"orders": "silver.orders"},
        ...     incremental="replace_partitions",
        ...     partition=daily("day"),
        ... )
        ... def spend(orders):
        ...     "What each user spent on a day; known from the midnight after it."
        >>> features(spend).references
        ['spend:spend']

    Raises:
        MissingExtra: Feast is not installed.
        DeclarationError: the table has no partition, key or event time, or a type that Feast does not have.
    """
    require_extra("feast", f"the feature view of {table.name}")
    options.instance("features are of", table, Table, "a table, as @table makes it")
    if valid_for is not None:
        options.duration(f"features of {table.name}: valid_for", valid_for, least=timedelta(seconds=1))
    contract = table.contract

    def refuse(reason: str) -> DeclarationError:
        return DeclarationError(f"features of {table.name}: {reason}")

    if table.partition is None:
        raise refuse("the table has no partition, so nothing tells when a row became known")
    if contract.event_time is None:
        raise refuse("the contract names no event time: the instant from which a row is valid")
    partition, known_at = table.partition.column, contract.event_time
    keys = tuple(contract.column(k) for k in contract.key if k not in (partition, known_at))
    columns = tuple(c for c in contract.columns if c.name not in (*contract.key, partition, known_at))
    if not keys or not columns:
        raise refuse("the table needs a key besides its partition, and columns besides its key")
    if odd := [c.name for c in keys if c.type.kind not in _KEY_KINDS]:
        raise refuse(f"{odd} cannot be the key of an entity: only text and whole numbers can")
    if odd := [c.name for c in columns if c.type.kind not in KINDS]:
        raise refuse(f"Feast has no type for {odd}: give days since, or a timestamp")
    return Features(table.name, table.partition, keys, known_at, columns, valid_for)
