"""A self-healing medallion lakehouse on Dagster, Spark and Delta Lake. Projects import from here:

    from medallion_platform import Catalog, ContractModel, Csv, Field, FileSource, build_defs, daily, table

These names, and those of `medallion_platform.transforms`, are the public API; docs/public-api.md says how
long they stay. Everything else may change with every version. Each name is imported when it is first asked
for, so that importing this package costs nothing.

Example:
    >>> import medallion_platform
    >>> medallion_platform.Csv(delimiter=";").header
    True
    >>> "table" in dir(medallion_platform)
    True

The way of a row through the packages: `sources` reads it, `contracts` validates it, `lakehouse` stores it,
`pipeline` moves it (intake, refresh, publish), `orchestration` schedules that and shows it in Dagster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; a test holds it against `_HOMES`
    from medallion_platform.contracts.contract import Contract, ContractError, Expectation, Severity
    from medallion_platform.contracts.model import ContractModel, Field, expect
    from medallion_platform.errors import DeclarationError, MedallionError
    from medallion_platform.installation.settings import Settings
    from medallion_platform.orchestration.build import build_defs
    from medallion_platform.pipeline.catalog import Catalog
    from medallion_platform.pipeline.features import Features, features
    from medallion_platform.pipeline.table import (
        Lookup,
        Table,
        Upstream,
        daily,
        table,
        weekly,
    )
    from medallion_platform.sources.arrivals import Arrivals, Batch
    from medallion_platform.sources.connectors.files import FileSource
    from medallion_platform.sources.connectors.kafka import KafkaSource
    from medallion_platform.sources.connectors.rest import (
        ById,
        ByTime,
        CursorPaginator,
        LinkHeaderPaginator,
        PageNumberPaginator,
        RestSource,
    )
    from medallion_platform.sources.formats.avro import Avro
    from medallion_platform.sources.formats.csv import Csv
    from medallion_platform.sources.formats.debezium import Debezium
    from medallion_platform.sources.formats.format import FORMATS, Format
    from medallion_platform.sources.formats.jsonlines import JsonLines
    from medallion_platform.sources.formats.parquet import Parquet
    from medallion_platform.sources.formats.records import LineParser, ParseResult
    from medallion_platform.sources.formats.text import TextFormat
    from medallion_platform.sources.http import ClientCredentials, EnvironmentToken, EnvironmentUser
    from medallion_platform.sources.source import CONNECTORS, Source

__all__ = [
    "CONNECTORS",
    "FORMATS",
    "Arrivals",
    "Avro",
    "Batch",
    "ById",
    "ByTime",
    "Catalog",
    "ClientCredentials",
    "Contract",
    "ContractError",
    "ContractModel",
    "Csv",
    "CursorPaginator",
    "Debezium",
    "DeclarationError",
    "EnvironmentToken",
    "EnvironmentUser",
    "Expectation",
    "Features",
    "Field",
    "FileSource",
    "Format",
    "JsonLines",
    "KafkaSource",
    "LineParser",
    "LinkHeaderPaginator",
    "Lookup",
    "MedallionError",
    "PageNumberPaginator",
    "Parquet",
    "ParseResult",
    "RestSource",
    "Settings",
    "Severity",
    "Source",
    "Table",
    "TextFormat",
    "Upstream",
    "build_defs",
    "daily",
    "expect",
    "features",
    "table",
    "weekly",
]

_HOMES = {
    "contracts.contract": "Contract ContractError Expectation Severity",
    "contracts.model": "ContractModel Field expect",
    "errors": "DeclarationError MedallionError",
    "orchestration.build": "build_defs",
    "pipeline.catalog": "Catalog",
    "pipeline.features": "Features features",
    "pipeline.table": "Lookup Table Upstream daily table weekly",
    "installation.settings": "Settings",
    "sources.connectors.kafka": "KafkaSource",
    "sources.connectors.rest": (
        "ById ByTime CursorPaginator LinkHeaderPaginator PageNumberPaginator RestSource"
    ),
    "sources.http": "ClientCredentials EnvironmentToken EnvironmentUser",
    "sources.arrivals": "Arrivals Batch",
    "sources.connectors.files": "FileSource",
    "sources.formats.avro": "Avro",
    "sources.formats.csv": "Csv",
    "sources.formats.debezium": "Debezium",
    "sources.formats.format": "FORMATS Format",
    "sources.formats.jsonlines": "JsonLines",
    "sources.formats.parquet": "Parquet",
    "sources.formats.records": "LineParser ParseResult",
    "sources.formats.text": "TextFormat",
    "sources.source": "CONNECTORS Source",
}
"""The module of each name."""


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names.split():
            from importlib import import_module

            found = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
