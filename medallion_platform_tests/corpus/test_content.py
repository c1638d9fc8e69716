"""Failures by what is read: damaged files, data that do not fit, what ends its reader, what nobody knows."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from medallion_platform_tests.corpus.test_machine import ended, limited

# damaged ------------------------------------------------------------------------------------------


def written(file: Path) -> bytes:
    pl.DataFrame({"a": range(10_000)}).write_parquet(file)
    return file.read_bytes()


def flipped(content: bytes) -> bytes:
    """With many bits turned over in its middle."""
    middle = len(content) // 3
    return content[:100] + bytes(byte ^ 0x55 for byte in content[100:middle]) + content[middle:]


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a", "hello world")
    return made.getvalue().replace(b"hello", b"jello", 1)


def read_sqlite(content: bytes, file: Path) -> object:
    file.write_bytes(content)
    with closing(sqlite3.connect(file)) as store:
        return store.execute("SELECT * FROM t").fetchall()


def damaged_pages(file: Path) -> bytes:
    with closing(sqlite3.connect(file)) as store:
        store.execute("CREATE TABLE t (a)")
        store.executemany("INSERT INTO t VALUES (?)", [("x" * 100,)] * 1000)
        store.commit()
    content = file.read_bytes()
    return content[:4096] + os.urandom(len(content) - 4096)


def arrow_file() -> bytes:
    made = io.BytesIO()
    with pa.ipc.new_file(made, pa.schema([("a", pa.int64())])) as writer:
        writer.write_table(pa.table({"a": range(1000)}))
    return made.getvalue()


def avro_file() -> bytes:
    made = io.BytesIO()
    schema = {"type": "record", "name": "n", "fields": [{"name": "a", "type": "long"}]}
    fastavro.writer(made, schema, [{"a": n} for n in range(1000)], codec="deflate")
    return made.getvalue()


DAMAGED: dict[str, Callable[[Path], object]] = {
    "gzip of another": lambda _: gzip.decompress(b"nothing of the kind"),
    "gzip cut": lambda _: gzip.decompress(gzip.compress(os.urandom(1000))[:500]),
    "gzip flipped": lambda _: gzip.decompress(gzip.compress(b"a" * 1000)[:-8] + bytes(8)),
    "zlib flipped": lambda _: zlib.decompress(flipped(zlib.compress(os.urandom(1000)))),
    "xz flipped": lambda _: lzma.decompress(flipped(lzma.compress(os.urandom(1000)))),
    "bz2 flipped": lambda _: bz2.decompress(flipped(bz2.compress(os.urandom(1000)))),
    "zip cut": lambda _: zipfile.ZipFile(io.BytesIO(zipped()[:-30])),
    "zip flipped": lambda _: zipfile.ZipFile(io.BytesIO(zipped())).read("a"),
    "pickle cut": lambda _: pickle.loads(pickle.dumps(list(range(1000)))[:500]),
    "sqlite of another": lambda f: read_sqlite(b"nothing of the kind" * 500, f / "a"),
    "sqlite flipped": lambda f: read_sqlite(damaged_pages(f / "a"), f / "b"),
    "parquet cut, polars": lambda f: pl.read_parquet(io.BytesIO(written(f / "a")[:-100])),
    "parquet flipped, polars": lambda f: pl.read_parquet(io.BytesIO(flipped(written(f / "a")))),
    "parquet cut, arrow": lambda f: pq.read_table(io.BytesIO(written(f / "a")[:-100])),
    "parquet flipped, arrow": lambda f: pq.read_table(io.BytesIO(flipped(written(f / "a")))),
    "parquet short, arrow": lambda _: pq.read_table(io.BytesIO(b"PAR1PAR1")),
    "arrow cut": lambda _: pa.ipc.open_file(arrow_file()[:-100]).read_all(),
    "arrow cut, polars": lambda _: pl.read_ipc(arrow_file()[:-100]),
    "avro cut": lambda _: list(fastavro.reader(io.BytesIO(avro_file()[:-100]))),
    "avro flipped": lambda _: list(fastavro.reader(io.BytesIO(flipped(avro_file())))),
}


@pytest.mark.failure("corrupt")
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file(tmp_path: Path, damage: str) -> None:
    with pytest.raises(BaseException) as caught:
        DAMAGED[damage](tmp_path)
    assert caught.value


# data that do not fit -----------------------------------------------------------------------------

WRONG: dict[str, Callable[[], object]] = {
    "cast, polars": lambda: pl.Series(["seven"]).cast(pl.Int64),
    "cast, arrow": lambda: pa.array(["seven"]).cast(pa.int64()),
    "overflow, arrow": lambda: pa.array([1 << 40]).cast(pa.int32()),
    "divided by zero, arrow": lambda: pc.divide(pa.array([1]), 0),
    "types, polars": lambda: pl.concat([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": ["x"]})]),
    "width, polars": lambda: pl.read_csv(b"a,b\n1,2,3,4\n"),
    "text, polars": lambda: pl.read_csv(b"a,b\n1,\xff\xfe\n"),
    "json, polars": lambda: pl.Series(["{"]).str.json_decode(pl.Struct({"a": pl.Int64})),
    "json": lambda: json.loads('{"a": 1'),
    "encoding": lambda: b"M\xfcller".decode(),
    "date": lambda: date.fromisoformat("2026-02-30"),
    "number": lambda: int("seven"),
}


@pytest.mark.failure("data")
@pytest.mark.parametrize("wrong", WRONG)
def test_data_that_do_not_fit(wrong: str) -> None:
    with pytest.raises(Exception) as caught:
        WRONG[wrong]()
    assert caught.value


# what ends its reader -----------------------------------------------------------------------------


@pytest.mark.failure("poison", work="intake")
def test_a_record_within_records_without_end() -> None:
    with pytest.raises(RecursionError):
        json.loads("[" * 100_000)


@pytest.mark.failure("poison", work="intake")
def test_a_record_that_is_deeper_than_a_parser_goes() -> None:
    with pytest.raises(pl.exceptions.ComputeError):
        pl.read_ndjson(b'{"a":' + b"[" * 100_000 + b"\n")


@pytest.mark.failure("poison")
@pytest.mark.parametrize(
    "parse",
    [
        "import json, sys; sys.setrecursionlimit(10**8); json.loads('[' * 10**7)",
        "import fastavro, io\n"
        "n = {'type': 'record', 'name': 'n', 'fields': [{'name': 'n', 'type': ['null', 'n']}]}\n"
        "fastavro.schemaless_reader(io.BytesIO(b'\\x02' * 10**6), n)",
    ],
    ids=["json", "avro"],
)
def test_a_record_that_ends_the_process_that_parses_it(parse: str) -> None:
    ended(parse, -signal.SIGSEGV)


@pytest.mark.failure("poison")
def test_a_record_on_which_a_pattern_works_without_end() -> None:
    limit = "import re, resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 2))"
    ended(f"{limit}; re.match('(a+)+$', 'a' * 60 + 'b')", -signal.SIGXCPU)


def unpacked(content: bytes) -> int:
    """The size of what is packed, in a process that may not use much."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, used + (1 << 28)):
        return len(gzip.decompress(content))


@pytest.mark.failure("poison", work="intake")
def test_a_file_that_is_a_thousand_times_as_large_when_it_is_unpacked() -> None:
    bomb = gzip.compress(bytes(1 << 29), 9)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(MemoryError):
        pool.submit(unpacked, bomb).result()


def parsed(text: str) -> object:
    sys.setrecursionlimit(10**8)
    return json.loads(text)


@pytest.mark.failure("poison", work="intake")
def test_a_record_that_ends_a_worker() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(Exception) as caught:
        pool.submit(parsed, "[" * 10**7).result()
    assert type(caught.value).__name__ == "BrokenProcessPool"


# declared or installed wrongly ----------------------------------------------------------------------

FOR_GOOD: dict[str, Callable[[Path], object]] = {
    "no module": lambda _: __import__("no_such_module"),
    "no such name in it": lambda _: exec("from json import no_such_name"),
    "syntax": lambda _: compile("def (", "a", "exec"),
    "no such name": lambda _: exec("no_such_name"),
    "no column, polars": lambda _: pl.DataFrame({"a": [1]}).select("b"),
    "no column, arrow": lambda _: pa.table({"a": [1]}).column("b"),
    "sql, polars": lambda _: pl.SQLContext().execute("SELEC 1"),
    "no program": lambda folder: subprocess.run([folder / "none"], check=True),
    "no rights to run": lambda folder: subprocess.run(
        [str(((folder / "a").write_text("") and "") or folder / "a")], check=True
    ),
    "no table, sqlite": lambda _: sqlite3.connect(":memory:").execute("SELECT * FROM none"),
}


@pytest.mark.failure("permanent")
@pytest.mark.parametrize("wrong", FOR_GOOD)
def test_what_fails_whenever_it_is_tried(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(Exception) as caught:
        FOR_GOOD[wrong](tmp_path)
    assert caught.value


# nobody knows -------------------------------------------------------------------------------------


class Ours(Exception):
    """An error of a user's own transform."""


def own(_: Any) -> None:
    raise Ours


OF_A_TRANSFORM: dict[str, Callable[[dict[str, Any]], object]] = {
    "key": lambda row: row["b"],
    "type": lambda row: row["a"] + 1,
    "value": lambda row: dict(row["a"]),
    "attribute": lambda row: row.b,  # type: ignore[attr-defined]
    "index": lambda row: row["a"][9],
    "zero": lambda row: 1 / len(row["none"]),
    "assertion": lambda row: exec("assert not row", {"row": row}),
    "own": own,
    "stop": lambda row: next(iter(row["none"])),
}


@pytest.mark.failure("unknown", work="refresh")
@pytest.mark.parametrize("work", OF_A_TRANSFORM)
def test_an_error_of_a_transform_that_may_be_of_its_code_or_of_its_rows(work: str) -> None:
    with pytest.raises(Exception) as caught:
        OF_A_TRANSFORM[work]({"a": "x", "none": ""})
    assert caught.value


@pytest.mark.failure("unknown")
def test_a_process_that_says_nothing() -> None:
    ended("import os; os._exit(1)", 1)
