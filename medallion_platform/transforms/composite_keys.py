"""Composite keys: several columns packed into one while a history is built or searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import WRAPPER_ASSIGNMENTS, reduce, update_wrapper
from inspect import signature
from operator import and_
from typing import Protocol, TypeVar

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.errors import DeclarationError

_KEY = "_composite_key"
_BY = "_composite_by"
_OneKeyFunction = Callable[[DataFrame, str], DataFrame]
_HistoryFunction = Callable[[DataFrame, str | Sequence[str]], DataFrame]
_Made = TypeVar("_Made", bound=Callable[..., DataFrame])


class _Lookup(Protocol):
    """`as_of` for keys of any number of columns."""

    def __call__(
        self,
        rows: DataFrame,
        history: DataFrame,
        *,
        key: str | Sequence[str],
        by: str | Sequence[str],
        at: str,
        take: Mapping[str, str],
        known: str,
    ) -> DataFrame:
        """See `history.as_of`."""
        ...


def with_composite_key(of_one: _OneKeyFunction) -> _HistoryFunction:
    """`of_one`, which takes the name of one key column, for several of them as well.

    A row in which one of them is null has no key. What counts as code of a table is `of_one`
    (`pipeline.code`): a key of one column is passed on as it is.
    """

    def made(changes: DataFrame, key: str | Sequence[str]) -> DataFrame:
        if isinstance(key, str):
            return of_one(changes, key)
        if len(key) == 1:
            return of_one(changes, key[0])
        packed = changes.withColumn(_KEY, _packed(key)).drop(*key)
        found = of_one(packed, _KEY)
        unpacked = (F.col(_KEY)[f"_{n}"].alias(name) for n, name in enumerate(key))
        return found.select(*unpacked, *(quoted(c) for c in found.columns if c != _KEY))

    return _presented_as(of_one, made)


def with_composite_lookup_key(of_one: Callable[..., DataFrame]) -> _Lookup:
    """The same for a lookup. A row finds nothing where one of the columns that point to the key is null."""

    def made(
        rows: DataFrame,
        history: DataFrame,
        *,
        key: str | Sequence[str],
        by: str | Sequence[str],
        at: str,
        take: Mapping[str, str],
        known: str,
    ) -> DataFrame:
        if isinstance(key, str) and isinstance(by, str):
            return of_one(rows, history, key=key, by=by, at=at, take=take, known=known)
        keys, pointing = ([named] if isinstance(named, str) else list(named) for named in (key, by))
        if len(keys) != len(pointing):
            raise DeclarationError(f"key {keys} and by {pointing} have to name as many columns")
        packed = history.withColumn(_KEY, _packed(keys))
        pointing_there = rows.withColumn(_BY, _packed(pointing))
        return of_one(pointing_there, packed, key=_KEY, by=_BY, at=at, take=take, known=known).drop(_BY)

    return _presented_as(of_one, made)


def _presented_as(of_one: Callable[..., DataFrame], made: _Made) -> _Made:
    """`made` by the name and text of `of_one`, but with its own types, of several columns."""
    own = signature(made)
    update_wrapper(made, of_one, [a for a in WRAPPER_ASSIGNMENTS if not a.startswith("__annot")])
    vars(made).update(__signature__=own, __counts_as__=of_one)
    return made


def _packed(columns: Sequence[str]) -> Column:
    """One column of several, its fields named by their place; null where one of them is."""
    known = reduce(and_, (quoted(c).isNotNull() for c in columns))
    return F.when(known, F.struct(*(quoted(c).alias(f"_{n}") for n, c in enumerate(columns))))
