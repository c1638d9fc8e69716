"""Formats and connectors that a package brings are found by name, and are taken in as the platform's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyspark.sql.types as T
import pytest

from medallion_platform import new_project
from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.installation.project import MODULE
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.sources.arrivals import SourceContext
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.format import FORMATS
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.sources.kinds import UnknownKind
from medallion_platform.sources.source import CONNECTORS
from medallion_platform_tests.command import MEDALLION, REPOSITORY
from medallion_platform_tests.pipeline.toy import NOW, RUN, Zone, letters, table_rows

LABELLED = '''
from dataclasses import dataclass

import polars as pl

from medallion_platform import LineParser, ParseResult, TextFormat


@dataclass(frozen=True)
class Labelled(TextFormat, kind="labelled"):
    """`id=1`, a tab, `name=one`: one record a line."""

    encoding: str = "utf-8"
    suffixes = (".labelled",)
    of_messages = True

    def parser(self, declared=(), columns=None):
        return LabelledParser()


class LabelledParser(LineParser):
    def parse(self, block, starts, ends):
        records, malformed = [], {}
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            fields = [f.partition("=") for f in block.get(start, end).decode().split("\\t")]
            if all(mark for _, mark, _ in fields):
                records.append({label: value for label, _, value in fields})
            else:
                records.append({})
                malformed[row] = "a field without a label"
        names = dict.fromkeys(name for record in records for name in record)
        columns = {n: pl.Series(n, [r.get(n) for r in records], dtype=pl.String) for n in names}
        return ParseResult(columns, malformed)
'''

COUNTER = '''
from dataclasses import dataclass, field

import polars as pl

from medallion_platform import Batch, Source


@dataclass(frozen=True)
class Counter(Source, kind="counter"):
    """Counts from 0 up to `until`, which it does not reach; each third has no number."""

    until: int = field(kw_only=True)

    def arrivals(self, context):
        return Counted(self)


@dataclass(frozen=True)
class Counted:
    source: Counter
    notes: tuple = ()
    pieces: str = "numbers"

    def waiting(self, position):
        return [f"{n}" for n in range(position(self.source.name) or 0, self.source.until)]

    def batches(self, position, rows, size):
        source = self.source
        for first in range(position(source.name) or 0, source.until, rows):
            numbers = range(first, min(first + rows, source.until))
            records = [b"id" if n % 3 == 2 else f"id={n}\\tname=n{n}".encode() for n in numbers]
            frame = source.format.parse(records).with_columns(
                pl.lit(source.name).alias("_source"),
                pl.lit("counter").alias("_file"),
                pl.Series("_offset", numbers, dtype=pl.Int64),
            )
            yield Batch(frame, (), {source.name: numbers[-1] + 1})
'''


class Things(ContractModel):
    """What both bring."""

    id: T.LongType = Field()
    name: T.StringType = Field()


Bring = Callable[..., Path]


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bring]:
    """Install a distribution of one module, `NAME_kinds`: its code, its kinds by group; gives its folder."""
    brought: list[str] = []

    def made(name: str, code: str, formats: str = "", connectors: str = "") -> Path:
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}_kinds.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        groups = {"medallion_platform.formats": formats, "medallion_platform.connectors": connectors}
        (info / "entry_points.txt").write_text("".join(f"[{g}]\n{e}\n" for g, e in groups.items()))
        monkeypatch.syspath_prepend(folder)
        brought.append(f"{name}_kinds")
        return folder

    yield made
    for module in brought:
        sys.modules.pop(module, None)
    known: list[dict[str, Any]] = [FORMATS._known, CONNECTORS._known]
    for kinds in known:
        for name in [name for name, kind in kinds.items() if kind.__module__ in brought]:
            del kinds[name]


@pytest.fixture
def tiny(bring: Bring) -> None:
    bring(
        "tiny",
        LABELLED + COUNTER,
        formats="labelled = tiny_kinds:Labelled",
        connectors="counter = tiny_kinds:Counter",
    )


@pytest.mark.usefixtures("tiny")
def test_a_kind_of_a_package_is_imported_once_it_is_asked_for() -> None:
    assert "labelled" in FORMATS.names() and "csv" in FORMATS.names()
    assert "counter" in CONNECTORS.names() and "files" in CONNECTORS.names()
    assert FORMATS.load("csv") is Csv
    assert "tiny_kinds" not in sys.modules
    labelled = FORMATS.load("labelled")
    assert (labelled.__module__, labelled.kind) == ("tiny_kinds", "labelled")
    assert CONNECTORS.load("counter") is sys.modules["tiny_kinds"].Counter
    assert FORMATS.load("labelled") is labelled


@pytest.mark.usefixtures("tiny")
def test_files_of_a_format_of_a_package_are_taken_in(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    format = FORMATS.load("labelled")()
    source = FileSource("things", "bronze.things", Things.contract, format, "toy", claims=("in/",))
    zone.put("in/a.labelled", b"id=1\tname=one\nno label\nid=x\tname=two\nid=3\tname=three\n")
    zone.put("in/b.csv", b"id,name\n4,four\n")
    done = zone.take(source).counts
    assert (done.read, done.written, done.dead_lettered) == (4, 2, 2)
    assert table_rows(zone.lake, source.table)["name"].to_list() == ["one", "three"]
    dead = letters(zone.lake, source.table)
    assert dead["payload"].to_list() == [b"no label", b"id=x\tname=two"]
    assert dead["code"].to_list() == ["malformed", "violates"]
    begun = zone.lake.positions(source.table)(source.name)
    assert zone.take(source).counts.read == 0
    assert zone.lake.positions(source.table)(source.name) == begun
    assert table_rows(zone.lake, source.table).height == 2


@pytest.mark.usefixtures("tiny")
def test_records_of_a_connector_of_a_package_are_taken_in(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    made: Any = CONNECTORS.load("counter")

    def take(until: int) -> int:
        source = made(
            "count", "bronze.count", Things.contract, FORMATS.load("labelled")(), "toy", until=until
        )
        position = lake.positions(source.table)
        around = SourceContext(str(lake.root), position, NOW, "", 0, lambda *_: pytest.fail("no files"))
        return intake(source.arrivals(around), lake, RUN, batch_rows=2).counts.read

    assert [take(5), take(5), take(7), take(7)] == [5, 0, 2, 0]
    assert table_rows(lake, "bronze.count")["id"].to_list() == [0, 1, 3, 4, 6]
    dead = dead_letters.read(lake, "bronze.count").sort("offset")
    assert dead.select("offset", "payload", "code").rows() == [
        (2, b"id", "malformed"),
        (5, b"id", "malformed"),
    ]
    assert lake.positions("bronze.count")("count") == 7


@pytest.mark.usefixtures("tiny")
@pytest.mark.failure("permanent")
def test_who_asks_for_an_unknown_kind_is_told_those_that_there_are() -> None:
    with pytest.raises(UnknownKind) as told:
        FORMATS.load("labeled")
    known = str(told.value).partition("there is no kind 'labeled' of formats; there are ")[2].split(", ")
    assert known == sorted(known)
    assert {"avro", "csv", "jsonlines", "labelled", "parquet"} <= {*known}
    # a module of the platform's that is no kind
    with pytest.raises(UnknownKind, match="no kind 'slices' of formats"):
        FORMATS.load("slices")


@pytest.mark.failure("permanent")
def test_a_package_that_cannot_be_imported_is_told_in_one_sentence(bring: Bring) -> None:
    bring("torn", "import a_library_that_is_not_there\n", formats="torn = torn_kinds:Torn")
    with pytest.raises(UnknownKind) as told:
        FORMATS.load("torn")
    assert str(told.value) == (
        "'torn' of the package torn 1.0 cannot be imported: ModuleNotFoundError: "
        "No module named 'a_library_that_is_not_there'"
    )
    assert FORMATS.load("csv") is Csv


def test_an_entry_point_that_is_of_no_such_kind_is_told(bring: Bring) -> None:
    bring("other", LABELLED, formats="lines = other_kinds:Labelled")
    with pytest.raises(UnknownKind) as told:
        FORMATS.load("lines")
    assert str(told.value) == ("the package other 1.0 names other_kinds:Labelled as 'lines', which it is not")


def test_a_project_declares_with_a_kind_of_a_package_by_its_name(bring: Bring, tmp_path: Path) -> None:
    folder = bring("tiny", LABELLED, formats="labelled = tiny_kinds:Labelled")
    new_project.make_project("shop", tmp_path / "shop")
    declared = tmp_path / "shop" / "shop" / "tables.py"
    text = declared.read_text()
    assert text.count("Csv") == 2
    declared.write_text(text.replace("Csv()", 'FORMATS.load("labelled")()').replace("Csv", "FORMATS"))
    (landed,) = (tmp_path / "shop" / "example" / "orders").iterdir()
    landed.write_text("order_id=1\tordered_at=2026-02-01T09:00:00Z\tamount=10\nno label\n")
    os.utime(landed, (0, 0))

    def medallion(*arguments: str, path: Path | str = "") -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name != MODULE}
        return subprocess.run(
            [*MEDALLION, *arguments],
            cwd=tmp_path / "shop",
            env=env | {"PYTHONPATH": str(path)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = medallion("run", "bronze.orders", "--landing", "example", "--json", path=folder)
    assert done.returncode == 0, done.stderr
    counts = {row["table"]: row for row in json.loads(done.stdout)}["bronze.orders"]
    assert (counts["read"], counts["written"], counts["dead_lettered"]) == (2, 1, 1)
    without = medallion("status")
    assert without.returncode == 2
    assert "there is no kind 'labelled' of formats; there are avro, csv" in without.stderr
    assert len(without.stderr.splitlines()) == 1


BY_NAME = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
from medallion_platform.sources.formats.format import FORMATS
assert "csv" not in FORMATS._known
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    print(FORMATS.load("csv").__module__)
print(*(w.message for w in told if w.category is UserWarning))
print("taker_kinds" in sys.modules)
"""


def test_an_entry_point_by_a_name_of_ours_is_told_and_not_imported(bring: Bring) -> None:
    taker = LABELLED.replace('"labelled"', '"csv"')
    folder = bring("taker", taker, formats="csv = taker_kinds:Labelled")
    assert run(BY_NAME, str(folder)).splitlines() == [
        "medallion_platform.sources.formats.csv",
        "'csv' of the package taker 1.0 is not used: the platform has a kind of that name",
        "False",
    ]


def test_a_module_of_ours_that_is_no_kind_leaves_its_name_to_a_package(bring: Bring) -> None:
    bring("slicer", LABELLED.replace('"labelled"', '"slices"'), formats="slices = slicer_kinds:Labelled")
    assert FORMATS.load("slices").__module__ == "slicer_kinds"


TAKER = """
import sys
sys.path.insert(0, sys.argv[1])
try:
    import taker_kinds
except Exception as error:
    print(type(error).__name__, error)
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.format import FORMATS
print(FORMATS.load("csv") is Csv)
"""


def test_a_class_by_a_name_of_ours_is_refused_though_ours_was_not_imported_yet(tmp_path: Path) -> None:
    (tmp_path / "taker_kinds.py").write_text(LABELLED.replace('"labelled"', '"csv"'))
    assert run(TAKER, str(tmp_path)).splitlines() == [
        "UnknownKind taker_kinds.Labelled is named 'csv', as medallion_platform.sources.formats.csv.Csv is "
        "already; give it another name",
        "True",
    ]


def run(code: str, *arguments: str) -> str:
    """What a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("path", "csv", "json"),
    [
        ("in/a.csv", True, False),
        ("in/2026/11/a.csv", True, False),
        ("in/a.csv.gz", True, False),
        ("in/deep/a.csv.zst", True, False),
        ("in/a.jsonl", False, True),
        ("in/deep/a.json.gz", False, True),
        ("in/a.parquet", False, False),
        ("in/a.csv.bak", False, False),
        ("in/acsv", False, False),
        ("in/a.gz", False, False),
        ("inn/a.csv", False, False),
        ("other/in/a.csv", False, False),
    ],
)
def test_a_folder_is_claimed_with_the_endings_of_its_format(path: str, csv: bool, json: bool) -> None:
    def claimed(format: Any) -> bool:
        return FileSource("s", "bronze.s", Things.contract, format, "toy", claims=("in/",)).claims_path(path)

    assert (claimed(Csv()), claimed(JsonLines())) == (csv, json)
