"""Keys of several columns: they are one column that holds them while a history is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce, wraps
from operator import and_

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts.spark_engine import quoted

_KEY = "_key_of_several"
_OfOne = Callable[[DataFrame, str], DataFrame]
_OfSeveral = Callable[[DataFrame, str | Sequence[str]], DataFrame]


def of_several(of_one: _OfOne) -> _OfSeveral:
    """`of_one`, which takes the name of one key column, for several of them as well.

    A row in which one of them is null has no key. What counts as code of a table is `of_one`
    (`pipeline.code`): a key of one column is passed on as it is.
    """

    @wraps(of_one)
    def made(changes: DataFrame, key: str | Sequence[str]) -> DataFrame:
        if isinstance(key, str):
            return of_one(changes, key)
        if len(key) == 1:
            return of_one(changes, key[0])
        known = reduce(and_, (quoted(k).isNotNull() for k in key))
        packed = changes.withColumn(_KEY, F.when(known, F.struct(*map(quoted, key)))).drop(*key)
        found = of_one(packed, _KEY)
        unpacked = (F.col(_KEY)[k].alias(k) for k in key)
        return found.select(*unpacked, *(quoted(c) for c in found.columns if c != _KEY))

    vars(made)["__counts_as__"] = of_one
    return made
