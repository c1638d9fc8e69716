"""What is to be made now: sources to take in, tables to refresh, features to publish, with its state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from medallion_platform.healing.decide import Want
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration.catch_up import unpublished_edition
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import serving_name
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.features import Features
from medallion_platform.pipeline.out_of_date import OutOfDateTable
from medallion_platform.pipeline.refresh.context import VERBS
from medallion_platform.pipeline.refresh.plan import code_version


def wanted_now(
    catalog: Catalog,
    features: Sequence[Features],
    lakehouse: Lakehouse,
    lake: Lake,
    late: Mapping[str, OutOfDateTable],
    waiting: Mapping[str, Sequence[str]],
) -> dict[str, Want]:
    """All that is to be made, by table; features by the name of their serving table.

    late: the tables that are out of date; those that were rolled back wait for a change. waiting: what waits
    in each source, by its table.
    """
    wanted: dict[str, Want] = {}
    for name, pieces in waiting.items():
        code = catalog.source_of[name].contract.fingerprint
        wanted[name] = Want("intake", digest_of_texts(pieces), code, _last_write(lake, name, ("intake",)))
    for name, found in late.items():
        if not found.taken_back:
            code = f"{code_version(catalog.by_name[name]):x}"
            wanted[name] = Want("refresh", found.state, code, _last_write(lake, name, VERBS))
    for view in features:
        if edition := unpublished_edition(view, lakehouse, lake):
            wanted[serving_name(view.view)] = Want("publish", edition)
    return wanted


def digest_of_texts(parts: Iterable[str]) -> str:
    """A short text for a list of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _last_write(lake: Lake, name: str, verbs: tuple[str, ...]) -> str:
    """The number of the last such write of a table, "" where there is none, or its log cannot be read."""
    try:
        last = lake.last_record(name, verbs)
    except DamagedLog:
        return ""
    return str(last.sequence) if last else ""
