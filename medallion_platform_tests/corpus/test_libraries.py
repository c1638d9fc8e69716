"""Failures that further libraries tell: of damaged content, of rows, of declarations, of what ends them."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import os
import tarfile
import tomllib
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import feast
import jsonschema
import numpy as np
import pandas as pd
import pandera.pandas as pa_pandas
import pandera.polars as pa_polars
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.json
import pyarrow.orc
import pyarrow.parquet as pq
import pydantic
import pytest
import yaml
import zstandard
from feast.infra.registry.registry import Registry
from feast.repo_config import load_repo_config

from medallion_platform_tests.corpus.causes import ROW, fails
from medallion_platform_tests.corpus.test_content import flipped

# damaged --------------------------------------------------------------------------------------------

NOISE = os.urandom(4000)
TEXT = b"a line of text that is packed\n" * 400


def zstd_with_checksum() -> bytes:
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(NOISE))
    packed[2000] ^= 0xFF
    return bytes(packed)


def tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("a")
        info.size = len(NOISE)
        archive.addfile(info, io.BytesIO(NOISE))
    return made.getvalue()


def read_tar(content: bytes) -> object:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [archive.extractfile(member).read() for member in archive]  # type: ignore[union-attr]


def packed_by_arrow(codec: str) -> bytes:
    return pa.compress(TEXT, codec=codec, asbytes=True)


def cut_orc(folder: Path) -> object:
    file = folder / "a.orc"
    pyarrow.orc.write_table(pa.table({"a": range(9999)}), file)
    file.write_bytes(file.read_bytes()[:-40])
    return pyarrow.orc.read_table(file)


def damaged_page(folder: Path) -> object:
    """One whose checksum tells."""
    file = folder / "a.parquet"
    pq.write_table(
        pa.table({"a": np.random.default_rng(1).integers(0, 1 << 60, 9999)}), file, write_page_checksum=True
    )
    content = bytearray(file.read_bytes())
    content[20_000] ^= 0xFF
    file.write_bytes(content)
    return pq.read_table(file, page_checksum_verification=True)


def zip_damaged() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", NOISE)
    content = bytearray(made.getvalue())
    content[500:600] = bytes(100)
    return bytes(content)


def damaged_registry(folder: Path) -> object:
    """That of the feature store."""
    return feast_with(folder, NOISE).list_feature_views()


def feast_with(folder: Path, registry: bytes = b"") -> feast.FeatureStore:
    if registry:
        (folder / "registry.db").write_bytes(registry)
    (folder / "feature_store.yaml").write_text(
        json.dumps(
            {
                "project": "p",
                "provider": "local",
                "registry": str(folder / "registry.db"),
                "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
                "entity_key_serialization_version": 3,
            }
        )
    )
    return feast.FeatureStore(str(folder))


def ndjson_by_arrow(text: bytes) -> object:
    return pyarrow.json.read_json(io.BytesIO(text))


DAMAGED: dict[str, Callable[[Path], object]] = {
    "zstd of another": lambda _: zstandard.ZstdDecompressor().decompress(NOISE),
    "zstd flipped": lambda _: zstandard.ZstdDecompressor().decompress(zstd_with_checksum()),
    "tar of another": lambda _: read_tar(NOISE),
    "tar cut": lambda _: read_tar(tar()[:1500]),
    "deflate in zip": lambda _: zipfile.ZipFile(io.BytesIO(zip_damaged())).read("a"),
    "snappy": lambda _: pa.decompress(flipped(packed_by_arrow("snappy")), len(TEXT), "snappy"),
    "lz4": lambda _: pa.decompress(flipped(packed_by_arrow("lz4")), len(TEXT), "lz4"),
    "orc cut": cut_orc,
    "orc of another": lambda _: pyarrow.orc.read_table(io.BytesIO(NOISE)),
    "feather of another": lambda _: pyarrow.feather.read_table(io.BytesIO(NOISE)),
    "arrow stream": lambda _: pa.ipc.open_stream(NOISE).read_all(),
    "parquet page": damaged_page,
    "parquet in a dataset": lambda folder: (
        (folder / "a.parquet").write_bytes(NOISE)
        and pyarrow.dataset.dataset(str(folder), format="parquet").to_table()
    ),
    "parquet, pandas": lambda _: pd.read_parquet(io.BytesIO(b"PAR1" + NOISE)),
    "avro of another": lambda _: list(fastavro.reader(io.BytesIO(NOISE))),
    "numpy of another": lambda _: np.load(io.BytesIO(NOISE)),
    "numpy cut": lambda _: np.load(io.BytesIO(b"\x93NUMPY\x01\x00\x10\x00")),
    "feast registry": damaged_registry,
    "ipc, polars": lambda _: pl.read_ipc_stream(NOISE),
    "avro, polars": lambda _: pl.read_avro(io.BytesIO(NOISE)),
    # doubtful: what was packed may never have been base64
    "base64": lambda _: base64.b64decode(b"YWJj!"[:5] + b"Y", validate=True),
}


@pytest.mark.failure("corrupt", work="intake")
@pytest.mark.parametrize("damage", DAMAGED)
def test_further_damaged_content(tmp_path: Path, damage: str) -> None:
    fails(DAMAGED[damage], tmp_path)


# rows that do not fit -------------------------------------------------------------------------------


class Model(pydantic.BaseModel):
    n: int


def pandas_checks(_: Path) -> object:
    return pa_pandas.DataFrameSchema({"n": pa_pandas.Column(int, pa_pandas.Check.gt(0))}).validate(
        pd.DataFrame({"n": [-1]})
    )


def polars_checks(*, lazy: bool) -> Callable[[Path], object]:
    wanted = pa_polars.DataFrameSchema({"n": pa_polars.Column(pl.Int64, pa_polars.Check.gt(0))})
    return lambda _: wanted.validate(pl.DataFrame({"n": [-1]}), lazy=lazy)


def merged(_: Path) -> object:
    twice = pd.DataFrame({"k": [1, 1]})
    return twice.merge(twice, on="k", validate="one_to_one")


AVRO = {"type": "record", "name": "n", "fields": [{"name": "a", "type": "long"}]}


def avro(schema: Any, row: Any) -> bytes:
    made = io.BytesIO()
    fastavro.schemaless_writer(made, schema, row)
    return made.getvalue()


def of_two_schemas(*types: Any) -> Callable[[Path], object]:
    writer, reader = ({**AVRO, "fields": [{"name": "a", "type": one}]} for one in types)
    row = {"a": ROW if types[0] == "string" else "RED" if isinstance(types[0], dict) else None}
    return lambda _: fastavro.schemaless_reader(io.BytesIO(avro(writer, row)), writer, reader)


COLOURS = [{"type": "enum", "name": "c", "symbols": symbols} for symbols in (["RED"], ["BLUE"])]

WRONG: dict[str, Callable[[Path], object]] = {
    "pandera, pandas": pandas_checks,
    "pandera, polars": polars_checks(lazy=False),
    "pandera, lazily": polars_checks(lazy=True),
    "pydantic": lambda _: Model(n=ROW),  # type: ignore[arg-type]
    "jsonschema": lambda _: jsonschema.validate({"n": ROW}, {"properties": {"n": {"type": "integer"}}}),
    "pandas csv": lambda _: pd.read_csv(io.StringIO(f"a,b\n1,2\n1,2,{ROW}\n")),
    "pandas empty": lambda _: pd.read_csv(io.StringIO("")),
    "pandas date": lambda _: pd.to_datetime(pd.Series([ROW])),
    "pandas date far": lambda _: pd.to_datetime(pd.Series(["9999-01-01T00:00:00"]), format="ISO8601"),
    "pandas merge": merged,
    "pandas type": lambda _: pd.Series([ROW]).astype("int64"),
    "pandas null": lambda _: pd.Series([None, 1.0]).astype("int64"),
    "arrow csv": lambda _: pyarrow.csv.read_csv(io.BytesIO(b"a,b\n1,2,3\n")),
    "arrow json": lambda _: ndjson_by_arrow(b'{"a": 1}\n{"a": "x"}\n'),
    "arrow type": lambda _: pa.array([1, ROW]),
    "arrow decimal": lambda _: pa.array([Decimal("1.234")]).cast(pa.decimal128(3, 1)),
    "arrow time": lambda _: pc.strptime(pa.array([ROW]), format="%Y", unit="s"),
    "arrow schemas": lambda _: pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [ROW]})]),
    "avro missing": lambda _: avro(AVRO, {}),
    "avro type": lambda _: avro(AVRO, {"a": ROW}),
    "avro resolved": of_two_schemas("string", "long"),
    "avro symbol": of_two_schemas(*COLOURS),
    "avro validated": lambda _: fastavro.validate({"a": ROW}, AVRO),
    "csv field": lambda _: list(csv.reader(io.StringIO('"' + "x" * 200_000 + '"'))),
    "xml": lambda _: ElementTree.fromstring("<a><b></a>"),
    "decimal": lambda _: Decimal(ROW),
    "number of many digits": lambda _: json.loads("1" * 5000),
    "hex": lambda _: binascii.unhexlify(b"xyz"),
    "polars empty": lambda _: pl.read_csv(b""),
    "polars date": lambda _: pl.Series([ROW]).str.to_date("%Y-%m-%d"),
    "polars shapes": lambda _: pl.DataFrame({"a": [1, 2], "b": [1, 2, 3]}),
    "polars join": lambda _: pl.DataFrame({"k": [1, 1]}).join(
        pl.DataFrame({"k": [1, 1]}), on="k", validate="1:1"
    ),
    "polars ndjson": lambda _: pl.read_ndjson(b'{"a": 1}\n{"a": \n'),
    "polars rows": lambda _: pl.DataFrame([{"a": 1}, {"a": ROW}], infer_schema_length=1),
}


@pytest.mark.failure("data", work="refresh")
@pytest.mark.parametrize("wrong", WRONG)
def test_further_data_that_do_not_fit(tmp_path: Path, wrong: str) -> None:
    fails(WRONG[wrong], tmp_path)


# declared wrongly -----------------------------------------------------------------------------------


def of_feast(work: Callable[[feast.FeatureStore], object]) -> Callable[[Path], object]:
    return lambda folder: work(feast_with(folder))


def feast_settings(text: str) -> Callable[[Path], object]:
    def work(folder: Path) -> object:
        (folder / "feature_store.yaml").write_text(text)
        return Registry("p", load_repo_config(folder, folder / "feature_store.yaml").registry, folder)  # type: ignore[arg-type]

    return work


DECLARED_WRONGLY: dict[str, Callable[[Path], object]] = {
    "feast view": of_feast(lambda store: store.get_feature_view("none")),
    "feast entity": of_feast(lambda store: store.get_entity("none")),
    "feast service": of_feast(lambda store: store.get_feature_service("none")),
    "feast features": of_feast(
        lambda store: store.get_online_features(features=["none:a"], entity_rows=[{"k": 1}])
    ),
    "feast settings": feast_settings("project: p\nregistry: 7\nonline_store: {type: nonsense}\n"),
    "yaml": lambda _: yaml.safe_load("a: [1"),
    "toml": lambda _: tomllib.loads("a = "),
    "polars type": lambda _: pl.DataFrame({"a": ["x"]}).select(pl.col("a").sum().dt.year()),
    "polars twice": lambda _: pl.DataFrame({"a": [1]}).select("a", "a"),
    "polars function": lambda _: pl.SQLContext(t=pl.DataFrame({"a": [1]})).execute(
        "SELECT none(a) FROM t", eager=True
    ),
    "arrow function": lambda _: pc.call_function("none", []),
    "arrow kinds": lambda _: pc.add(pa.array(["x"]), pa.array([1])),
    "avro schema": lambda _: fastavro.parse_schema(
        {"type": "record", "name": "n", "fields": [{"name": "a"}]}
    ),
    "avro type": lambda _: fastavro.parse_schema({**AVRO, "fields": [{"name": "a", "type": "none"}]}),
    "json schema": lambda _: jsonschema.Draft202012Validator.check_schema({"type": "nonsense"}),
    "pandera column": lambda _: pa_polars.DataFrameSchema({"n": pa_polars.Column("nonsense")}),
    "locked zip": lambda _: zipfile.ZipFile(io.BytesIO(locked_zip())).read("a"),
    "attribute of a module": lambda _: pl.no_such_function(),  # type: ignore[attr-defined]
    "argument": lambda _: pl.DataFrame().sort(no_such_argument=1),  # type: ignore[call-arg]
}


def locked_zip() -> bytes:
    """Marked as one that wants a password."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a", TEXT)
    content = bytearray(made.getvalue())
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


@pytest.mark.failure("permanent", work="refresh")
@pytest.mark.parametrize("wrong", DECLARED_WRONGLY)
def test_further_code_that_fails_whenever_it_is_tried(tmp_path: Path, wrong: str) -> None:
    fails(DECLARED_WRONGLY[wrong], tmp_path)


# what ends its reader -------------------------------------------------------------------------------

LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 9))
POISON: dict[str, Callable[[Path], object]] = {
    "xml that grows": lambda _: ElementTree.fromstring(
        f'<!DOCTYPE a [<!ENTITY a0 "{"ha" * 50}">{LAUGHS}]><a>&a8;</a>'
    ),
    "xml that is deep": lambda _: len(
        [*map(ElementTree.tostring, [ElementTree.fromstring("<a>" * 90_000 + "</a>" * 90_000)])]
    ),
    "json that is deep, pandas": lambda _: pd.read_json(io.StringIO("[" * 5000 + "]" * 5000)),
    "yaml that is deep": lambda _: yaml.safe_load("[" * 5000 + "]" * 5000),
    "toml that is deep": lambda _: tomllib.loads("a = " + "[" * 5000 + "]" * 5000),
    "zstd that grows": lambda _: zstandard.ZstdDecompressor().decompress(
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24)), 1 << 10
    ),
}


@pytest.mark.failure("poison", work="intake")
@pytest.mark.parametrize("record", POISON)
def test_a_further_record_that_ends_its_reader(tmp_path: Path, record: str) -> None:
    fails(POISON[record], tmp_path)


# nobody knows ---------------------------------------------------------------------------------------

NOBODY_KNOWS: dict[str, Callable[[Path], object]] = {
    "pandas key": lambda _: pd.DataFrame({"a": [1]})["b"],
    "numpy shapes": lambda _: np.zeros(2) + np.zeros(3),
    "numpy matrix": lambda _: np.linalg.inv(np.zeros((2, 2))),
    "runtime": lambda _: dict.fromkeys("a").popitem() and exec("raise RuntimeError"),
    "overflow": lambda _: 2.0**9999,
    "unpacked": lambda _: exec("a, b = [1]"),
    "changed": lambda _: [found.pop(key) for found in [{"a": 1, "b": 2}] for key in found],
    "function of a user's, polars": lambda _: pl.DataFrame({"a": [0]}).select(
        pl.col("a").map_elements(lambda a: 1 / a, return_dtype=pl.Float64)
    ),
}


@pytest.mark.failure("unknown", work="refresh")
@pytest.mark.parametrize("work", NOBODY_KNOWS)
def test_a_further_error_of_a_transform_that_may_be_of_code_or_rows(tmp_path: Path, work: str) -> None:
    fails(NOBODY_KNOWS[work], tmp_path)
