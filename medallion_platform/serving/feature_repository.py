"""A Feast repository over gold tables: training data as of any instant, and the newest values online.

**When a feature row is valid.** A row of day D summarizes all of D, so nobody could know it during D: it is
valid from midnight after D (UTC) on. That instant is the table's event time and Feast's `timestamp_field`, so
an event on D is joined with the features of D-1. A table whose event time is before the end of the row's
partition is refused: the future would leak into training.

**Offline** is the gold Delta table itself, read by DuckDB: late data is there as soon as the table is
refreshed, and nothing is copied. **Online** is a copy of each entity's newest row. `publish` updates it: it
looks only at rows of partitions that changed, and never replaces a newer row. A row that leaves the table
stays online until a newer one comes, or `publish(anew=True)`.

The online store itself records which edition it has, as a feature view `published`: if the store is lost, so
is this record, and everything is published again. A note repeats it for whoever only asks whether there is
something to publish, without loading Feast: beside a store that is a file, and in the lake where the store is
a server, because who asks may be on another machine than who published.

A repository whose `online_store` is null has offline features alone, and nothing is published.

`import feast` takes seconds of CPU, so only functions of this module import it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medallion_platform import storage
from medallion_platform.contracts.contract import Column
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.features import KINDS, Features
from medallion_platform.pipeline.publish import Delivery, Edition

if TYPE_CHECKING:
    import polars as pl
    from feast import FeatureStore, FeatureView

PUBLISHED = "published"
"""The feature view that says which edition of each other view is online."""

_REGISTRY = "registry.db"
_NOTES_IN_LAKE = "_medallion/published"
_SECRETS = re.compile(r"password|secret|token", re.IGNORECASE)
_CHUNK = 1000

_SETTINGS = """\
project: medallion
provider: local
registry: registry.db
entity_key_serialization_version: 3
offline_store:
  type: duckdb
online_store:
  type: sqlite
  path: online.db
"""
_IMPLIED = {"type": "sqlite", "path": "data/online.db"}
"""Feast's own, where nothing is said of the online store."""


def registry_file(home: Path) -> Path:
    """Feast's registry, where it is a file of the repository."""
    return home / _REGISTRY


class LeakyFeatures(MedallionError):
    """Rows have a `known_at` before the end of their partition; nothing was published."""

    kind = Kind.DATA


def has_online_store(home: Path) -> bool:
    """Whether there is a store to publish to; what is wrong with a `feature_store.yaml`, a publish says."""
    return _online_store(home) is not None


def published_edition(home: Path, lake: Lake, view: Features) -> Edition | None:
    """The edition that was published last to a repository's store, as a note tells; None without one.

    It answers whether there is something to publish. A publish itself reads the edition from the store.
    """
    store = _online_store(home)
    if store is None or not _exists(home, store):
        return None
    root, key = _place_of_note(home, lake, store, view)
    try:
        found = json.loads(bytes(storage.store(root).get(key).bytes()))
        return Edition(str(found["table_id"]), int(found["version"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _online_store(home: Path) -> Mapping[str, Any] | None:
    """The settings of a repository's online store, and the `project` whose features it has."""
    file = home / "feature_store.yaml"
    try:
        settings = yaml.safe_load(file.read_text() if file.exists() else _SETTINGS)
    except (OSError, ValueError, yaml.YAMLError):
        settings = None
    told: Mapping[str, Any] = settings if isinstance(settings, dict) else {}
    store = told.get("online_store", _IMPLIED)
    if store is None:
        return None
    # Feast takes its name alone, too.
    return {**(store if isinstance(store, dict) else {"type": str(store)}), "project": told.get("project")}


def _exists(home: Path, online_store: Mapping[str, Any]) -> bool:
    """Whether the store is there; a server is assumed to be."""
    return not _is_file(online_store) or (home / online_store.get("path", _IMPLIED["path"])).exists()


def _is_file(online_store: Mapping[str, Any]) -> bool:
    return online_store.get("type", _IMPLIED["type"]) == _IMPLIED["type"]


def _place_of_note(
    home: Path, lake: Lake, online_store: Mapping[str, Any], view: Features
) -> tuple[str, str]:
    """Where it is noted which edition of a view is online: a root, and a key below it."""
    if _is_file(online_store):
        return str(home), f"published/{view.view}.json"
    told = [f"{k}={v}" for k, v in sorted(online_store.items()) if not _SECRETS.search(k)]
    server = ",".join(part for text in told for part in text.split(",") if not _SECRETS.search(part))
    return str(lake.root), f"{_NOTES_IN_LAKE}/{storage.text_digest(server)}/{view.view}.json"


@dataclass(frozen=True)
class FeatureRepository:
    """A Feast repository in the folder `home`; the `feast` command works there, too."""

    home: Path
    lake: Lake
    views: tuple[Features, ...]

    @cached_property
    def store(self) -> FeatureStore:
        """Feast's own entry point, for `get_historical_features` and `get_online_features`.

        Rows of `get_historical_features` come in no particular order.
        """
        from feast import FeatureStore

        _load_delta_extension()
        self.home.mkdir(parents=True, exist_ok=True)
        settings = self.home / "feature_store.yaml"
        if not settings.exists():
            storage.write_whole(settings, _SETTINGS)
        return FeatureStore(repo_path=str(self.home))

    def apply(self) -> None:
        """Register all views with Feast and create their online tables; repeating it changes nothing."""
        from feast import Entity, FeatureView, FileSource, PushSource
        from feast.data_format import DeltaFormat

        entities: dict[str, Entity] = {
            c.name: Entity(
                name=c.name.removesuffix("_id"),
                join_keys=[c.name],
                value_type=_feast_type(c),
                description=c.description,
            )
            for view in self.views
            for c in view.keys
        }
        found: list[Any] = list(entities.values())
        for view in self.views:
            source = FileSource(
                name=view.table,
                path=self.lake.path(view.table),
                file_format=DeltaFormat(),
                timestamp_field=view.known_at,
            )
            found.append(
                FeatureView(
                    name=view.view,
                    entities=[entities[c.name] for c in view.keys],
                    schema=[_feast_field(c) for c in (*view.keys, *view.columns)],
                    source=source,
                    ttl=view.valid_for or timedelta(0),
                )
            )
        found += _published_view(Entity, FeatureView, PushSource, FileSource)
        self.store.apply(found)


@dataclass(frozen=True)
class OnlineFeatures:
    """The online store as a consumer of one gold table."""

    repository: FeatureRepository
    view: Features

    @property
    def name(self) -> str:
        """Its name for people."""
        return f"online features {self.view.view}"

    @property
    def table(self) -> str:
        """The gold table."""
        return self.view.table

    @property
    def partition_column(self) -> str | None:
        """The gold table's partition."""
        return self.view.partition.column

    @property
    def place(self) -> str:
        """The repository: its registry and its store are the same for all views."""
        return "publish/features"

    def prepare(self) -> None:
        """Register the views, and create their online tables."""
        self.repository.apply()

    def holds(self) -> Edition | None:
        """The edition in the online store, which is also noted beside it."""
        found = self._holds()
        self._note(found)
        return found

    def _holds(self) -> Edition | None:
        found = self.repository.store.get_online_features(
            features=[f"{PUBLISHED}:table_id", f"{PUBLISHED}:version"],
            entity_rows=[{"feature_view": self.view.view}],
        ).to_dict()
        table_id, version = found["table_id"][0], found["version"][0]
        return None if version is None else Edition(table_id, version)

    def take(self, delivery: Delivery) -> int:
        """Write each entity's newest row of the delivery that is not older than the one online."""
        view = self.view
        keys = [c.name for c in view.keys]
        wanted = [*keys, *(c.name for c in view.columns), view.known_at]
        written = 0
        if delivery.partitions is None or delivery.partitions:
            rows = delivery.rows([*wanted, view.partition.column])
            self._refuse_leaks(rows)
            newest = rows.sort(view.known_at).unique(keys, keep="last").sort(keys).select(wanted)
            for start in range(0, newest.height, _CHUNK):
                with delivery.fence.writing():
                    written += self._write(newest.slice(start, _CHUNK))
        with delivery.fence.writing():
            self._remember(delivery)
        return written

    def forget(self) -> None:
        """Delete the note of the edition, then empty the view in the online store."""
        self._note(None)
        for name in (PUBLISHED, self.view.view):
            view = self._feature_view(name)
            self._online.update(self.repository.store.config, [view], [], [], [], partial=True)
            self._online.update(self.repository.store.config, [], [view], [], [], partial=True)

    def _refuse_leaks(self, rows: pl.DataFrame) -> None:
        import polars as pl

        view = self.view
        over = pl.col(view.partition.column).cast(pl.Date).dt.offset_by(f"{view.partition.days}d")
        leaky = rows.filter(pl.col(view.known_at) < over.cast(pl.Datetime("us", "UTC")))
        if leaky.height:
            raise LeakyFeatures(
                f"{view.table}: in {counted(leaky.height, 'rows')} {view.known_at} lies before the end of "
                f"{view.partition.column}; nothing was published. A row of a day is known from "
                "the next midnight on",
                table=view.table,
                remedy="fix the table",
            )

    def _write(self, rows: pl.DataFrame) -> int:
        """Write the rows that are not older than those online; returns their number."""
        from feast.utils import _convert_arrow_to_proto

        store, view = self.repository.store, self._feature_view(self.view.view)
        types = {c.name: _feast_type(c) for c in self.view.keys}
        protos: list[Any] = []
        # Feast converts the first batch of a table and leaves out the others.
        for batch in rows.rechunk().to_arrow().combine_chunks().to_batches():
            protos += _convert_arrow_to_proto(batch, view, types)
        held = self._online.online_read(
            store.config, view, [p[0] for p in protos], [self.view.columns[0].name]
        )
        fresh = [
            proto
            for proto, (since, _) in zip(protos, held, strict=True)
            if since is None or _in_utc(since) <= _in_utc(proto[2])
        ]
        if fresh:
            self._online.online_write_batch(store.config, view, fresh, None)
        return len(fresh)

    def _remember(self, delivery: Delivery) -> None:
        import pandas as pd

        self.repository.store.write_to_online_store(
            PUBLISHED,
            pd.DataFrame(
                {
                    "feature_view": [self.view.view],
                    "table_id": [delivery.edition.table_id],
                    "version": [delivery.edition.version],
                    "run_id": [delivery.run.run_id],
                    "event_timestamp": [delivery.run.at],
                }
            ),
        )
        self._note(delivery.edition)

    def _note(self, edition: Edition | None) -> None:
        """Write down the edition for `published_edition`."""
        repository = self.repository
        store = _online_store(repository.home)
        if store is None:
            return
        root, key = _place_of_note(repository.home, repository.lake, store, self.view)
        told = None if edition is None else {"table_id": edition.table_id, "version": edition.version}
        storage.store(root).put(key, json.dumps(told).encode(), use_multipart=False)

    @property
    def _online(self) -> Any:
        return self.repository.store._get_provider().online_store  # type: ignore[attr-defined]

    def _feature_view(self, name: str) -> FeatureView:
        return self.repository.store.get_feature_view(name)


def _published_view(entity: Any, view: Any, push: Any, file: Any) -> list[Any]:
    """The view `published`: feature view -> online edition. It has no offline history."""
    from feast import Field, ValueType
    from feast.types import Int64, String

    key = entity(name="feature_view", join_keys=["feature_view"], value_type=ValueType.STRING)
    nowhere = file(name=f"{PUBLISHED}_nowhere", path="nowhere", timestamp_field="event_timestamp")
    names = {"feature_view": String, "table_id": String, "version": Int64, "run_id": String}
    return [
        key,
        view(
            name=PUBLISHED,
            entities=[key],
            schema=[Field(name=n, dtype=t) for n, t in names.items()],
            source=push(name=PUBLISHED, batch_source=nowhere),
            ttl=timedelta(0),
        ),
    ]


def _feast_field(column: Column) -> Any:
    import feast.types
    from feast import Field

    kind = getattr(feast.types, KINDS[column.type.kind])
    return Field(name=column.name, dtype=kind, description=column.description)


def _feast_type(column: Column) -> Any:
    from feast import ValueType

    return {"string": ValueType.STRING, "integer": ValueType.INT32, "long": ValueType.INT64}[column.type.kind]


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _load_delta_extension() -> None:
    """Put DuckDB's Delta extension, which is installed as a package, where DuckDB looks for it."""
    import duckdb

    with duckdb.connect() as connection:
        try:
            connection.load_extension("delta")
        except duckdb.Error:
            from duckdb_extensions import import_extension

            import_extension("delta")


__all__: Sequence[str] = [
    "FeatureRepository",
    "LeakyFeatures",
    "OnlineFeatures",
    "published_edition",
    "registry_file",
]
