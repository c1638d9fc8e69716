"""All sources and tables of a project, in the order in which they are made."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import cast

from medallion_platform.contracts import options
from medallion_platform.contracts.contract import Contract
from medallion_platform.errors import DeclarationError
from medallion_platform.pipeline import row_counts
from medallion_platform.pipeline.features import Features
from medallion_platform.pipeline.table import Table
from medallion_platform.sources.connectors.files import FileSource, file_sources_of
from medallion_platform.sources.source import Source

_NAME = re.compile("[A-Za-z0-9_]+")
_BRONZE = re.compile(rf"bronze\.{_NAME.pattern}")


@dataclass(frozen=True)
class Catalog:
    """What a project runs: sources, the tables made from them, and the features that are published.

    Example:
        >>> from medallion_platform import Catalog
        >>> Catalog(sources=(), tables=()).names
        ()

    Raises:
        DeclarationError: a name is declared twice or has other characters than ASCII letters, digits and `_`,
            an upstream table or the table of features is unknown, or tables depend on each other in a circle.
    """

    sources: tuple[Source, ...]
    tables: tuple[Table, ...]
    features: tuple[Features, ...] = ()

    def __post_init__(self) -> None:
        self._refuse_other_kinds()
        names = [s.table for s in self.sources] + [t.name for t in self.tables]
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(name.lower(), name)
            if other != name:
                raise DeclarationError(f"{name} and {other} are one table to readers that ignore case")
        if len(seen) < len(names):
            twice = next(name for name in seen.values() if names.count(name) > 1)
            raise DeclarationError(f"{twice} is declared more than once")
        self._refuse_odd_names()
        for table in self.tables:
            for upstream in table.upstream_names:
                if upstream not in names:
                    raise DeclarationError(f"{table.name} is made from {upstream}: no such table")
                self._refuse_unmasked(table, upstream)
            self._refuse_unknown_key(table)
            self._refuse_token_by_clear(table)
            self._refuse_unfit_count(table)
        for view in self.features:
            if view.table not in names:
                raise DeclarationError(f"features are made from {view.table}: no such table")
        _refuse_twice("source", [s.name for s in self.sources])
        _refuse_twice("features of", [f.table for f in self.features])
        self._refuse_same_claims()
        _ = self.in_order

    @cached_property
    def by_name(self) -> Mapping[str, Table]:
        """Silver and gold tables by name."""
        return {t.name: t for t in self.tables}

    @cached_property
    def file_sources(self) -> tuple[FileSource, ...]:
        """The sources whose records land as files."""
        return file_sources_of(self.sources)

    @cached_property
    def spark_reads_topics(self) -> bool:
        """Whether a source is taken in by Spark."""
        return any(s.taken_in_by == "spark" for s in self.sources)

    @cached_property
    def source_of(self) -> Mapping[str, Source]:
        """The source of each bronze table."""
        return {s.table: s for s in self.sources}

    @cached_property
    def in_order(self) -> tuple[Table, ...]:
        """Silver and gold tables, each after all that it is made from."""
        graph = {t.name: set(t.upstream_names) & self.by_name.keys() for t in self.tables}
        try:
            names = tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise DeclarationError(f"tables are made from each other: {error.args[1]}") from None
        return tuple(self.by_name[name] for name in names)

    @cached_property
    def partition_columns(self) -> Mapping[str, str | None]:
        """The partition column of every table, None where it has no partition."""
        return {s.table: s.partition for s in self.sources} | {
            t.name: t.partition.column if t.partition else None for t in self.tables
        }

    def contract_of(self, table: str) -> Contract:
        """The contract of any table."""
        source = self.source_of.get(table)
        return source.contract if source else self.by_name[table].contract

    def _refuse_other_kinds(self) -> None:
        """What stands among the sources, tables or features and is none."""
        for option, kind, hint in (
            ("sources", Source, "a source"),
            ("tables", Table, "a table, as @table makes it of a function"),
            ("features", Features, "features, as features(table) makes them"),
        ):
            given: object = getattr(self, option)
            options.instance(f"catalog: {option}", given, Iterable, f"a tuple with {hint} in each place")
            every = tuple(cast("Iterable[object]", given))
            for one in every:
                options.instance(f"catalog: one of {option}", one, kind, hint)
            object.__setattr__(self, option, every)

    def _refuse_same_claims(self) -> None:
        """A claim of two sources: each of its files would be left in place, for nobody knows whose it is."""
        owners: dict[str, str] = {}
        for source in self.file_sources:
            for claim in source.claims:
                other = owners.setdefault(claim, source.name)
                if other != source.name:
                    raise DeclarationError(f"sources {other!r} and {source.name!r} both claim {claim!r}")

    def _refuse_unknown_key(self, table: Table) -> None:
        """A lookup by a column that its history does not declare."""
        for lookup in table.lookups.values():
            history = self.contract_of(lookup.table)
            if unknown := [key for key, _ in lookup.pairs if key not in history.by_name]:
                raise DeclarationError(
                    f"{table.name}: its lookup has the key {unknown[0]!r}, a column that {history.name}, the "
                    f"contract of {lookup.table}, does not declare"
                )

    def _refuse_unfit_count(self, table: Table) -> None:
        """A source_row_count that says nothing of a row of the main upstream."""
        upstream = table.main_upstream.table
        if reason := row_counts.unfit(table.source_row_count, self.contract_of(upstream)):
            raise DeclarationError(f"table {table.name}, made from {upstream}: {reason}")

    def _refuse_odd_names(self) -> None:
        """What Dagster, or a reader of the tables, has no place for."""
        plain = "letters of the English alphabet, digits and _"
        for source in self.sources:
            for what, name in (("name", source.name.replace(".", "_")), ("domain", source.domain)):
                if not _NAME.fullmatch(name):
                    raise DeclarationError(f"source {source.name!r}: its {what} has more than {plain}")
            if not _BRONZE.fullmatch(source.table):
                raise DeclarationError(
                    f"source {source.name!r}: its table {source.table!r} is not named 'bronze.' and {plain}"
                )
        for table in self.tables:
            if not _NAME.fullmatch(table.name.partition(".")[2]):
                raise DeclarationError(
                    f"table {table.name!r}: behind its layer a table's name has only {plain}"
                )

    def _refuse_unmasked(self, table: Table, upstream: str) -> None:
        """What is personal upstream is personal here: forgotten once, it would leave bronze in clear."""
        contract = self.contract_of(upstream)
        for name, kind in contract.pii.items():
            column, above = table.contract.by_name.get(name), contract.column(name)
            if column is None:
                continue
            if column.pii is None:
                raise DeclarationError(
                    f"{table.name}: column {name!r} is personal data ({kind}) in {upstream}; declare it so "
                    f'here too (pii="{kind}"), or leave it out'
                )
            # Only bronze holds it in clear: of what was made of it there is no way to another.
            if upstream in self.by_name and (column.pii, column.protect) != (kind, above.protect):
                raise DeclarationError(
                    f"{table.name}: column {name!r} comes from {upstream} as {kind}, "
                    f"protect={above.protect!r}; declare it alike here, where it is {column.pii}, "
                    f"protect={column.protect!r}"
                )

    def _refuse_token_by_clear(self, table: Table) -> None:
        """A transform reads bronze in clear: no value there is like a token of a history."""
        upstream = table.main_upstream.table
        for lookup in table.lookups.values() if upstream not in self.by_name else ():
            history = self.contract_of(lookup.table).by_name
            for key, by in lookup.pairs:
                if key in history and history[key].protect == "tokenize":
                    raise DeclarationError(
                        f"{table.name}: {key!r} of {lookup.table} holds tokens, and {by!r} comes in clear "
                        f"from {upstream}: look it up behind this table, where both are tokens"
                    )

    def origin(self, table: str) -> Source:
        """The source that a table's rows go back to, by the main upstream of each step."""
        while table in self.by_name:
            table = self.by_name[table].main_upstream.table
        return self.source_of[table]

    def with_upstream(self, names: Collection[str]) -> set[str]:
        """These tables and all that they are made from."""
        found = set(names)
        for table in reversed(self.in_order):
            if table.name in found:
                found.update(table.upstream_names)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Every table, bronze first, then in order of making."""
        return tuple(s.table for s in self.sources) + tuple(t.name for t in self.in_order)


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    """Names that are one to a file system that ignores case."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise DeclarationError(f"{what} {name} is declared more than once")
        seen.add(name.lower())
