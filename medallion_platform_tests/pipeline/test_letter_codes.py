"""What code goes by in dead letters: their codes, never their sentences; also of letters older than codes."""

from __future__ import annotations

import errno
import gzip
import io
import json
import lzma
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake

from medallion_platform.contracts.codes import Code, Damage
from medallion_platform.lakehouse import dead_letters, file_registry, old_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.replay import replay
from medallion_platform.queries.letters import newest_dead_letters
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.errors import LostFile
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.parquet import Parquet

from .toy import EVENTS, FIELDS, RUN, Zone, bad, good, letters, table_rows

UTF8 = FileSource("events", "bronze.events", EVENTS, Csv(), "toy", claims=("events/**",))
UTF16 = FileSource("events", "bronze.events", EVENTS, Csv(encoding="utf-16"), "toy", claims=("events/**",))
OLD = {
    "file: lost from record 7 on: the object was deleted before it could be read": (0, Code.LOST, 7),
    "file: lost from record 1 on: Permission denied": (0, Code.LOST, 1),
    "file: damaged gzip: CRC check failed": (0, Code.UNREADABLE, None),
    "file: header: none of its fields is a column of the contract ('lost from record 3 on: ')": (
        *(0, Code.UNREADABLE, None),
    ),
    "topic: lost offsets 3 to 8: deleted before they were read": (0, Code.GAP, None),
    "record: not valid utf-8": (4, Code.UNDECODED, None),
    "record: not JSON": (9, Code.MALFORMED, None),
    "amount: at least 0": (5, Code.VIOLATES, None),
}


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


def in_other_words(zone: Zone, *, older: bool = False) -> None:
    """Rewrite a table's letters: with other sentences, or as they were before they had codes."""
    found = dead_letters.read(zone.lake, "bronze.events")
    path = Path(zone.lake.path(dead_letters.name("bronze.events")))
    changed = (
        found.drop("code", "detail", "broken")
        if older
        else found.with_columns(
            pl.concat_list(pl.lit("file: verloren, und record: not valid")).alias("violations")
        )
    )
    write_deltalake(str(path), changed, mode="overwrite", schema_mode="overwrite")


def test_letters_without_a_code_have_the_one_that_their_sentence_says() -> None:
    frame = pl.DataFrame(
        [{"row": row, "violations": [said]} for said, (row, _, _) in OLD.items()],
        schema=dead_letters.columns(),
    )
    told = old_letters.add_codes(frame.lazy()).collect()
    assert told["code"].to_list() == [code for _, code, _ in OLD.values()]
    details = [json.loads(d)["from_row"] if d else None for d in told["detail"]]
    assert details == [row for _, _, row in OLD.values()]


@pytest.mark.parametrize("older", [False, True])
def test_a_lost_file_is_taken_up_whatever_its_letter_says_to_people(zone: Zone, *, older: bool) -> None:
    lost = zone.csv("events/a.csv", [good("a"), good("b")])
    landing_zone.register_files(UTF8, zone.landing, zone.seen(UTF8), zone.lake, RUN)
    away = lost.rename(zone.root / "away")
    assert zone.take(UTF8).counts.dead_lettered == 1
    in_other_words(zone, older=older)
    away.rename(lost.with_name("back.csv"))
    zone.csv("events/c.csv", [good("c"), bad()])
    assert zone.take(UTF8).counts.written == 3
    assert letters(zone.lake)["code"].to_list() == [Code.LOST, Code.VIOLATES]
    before, after = letters(zone.lake)["broken"].to_list()
    assert before == (None if older else [])
    assert [entry["columns"] for entry in after] == [["event_timestamp"]]


@pytest.mark.parametrize("older", [False, True])
def test_bytes_of_a_record_are_read_as_bytes_again_whatever_its_letter_says(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, *, older: bool
) -> None:
    row = good("a", email="\u20ac").text.decode()
    lone = row.encode("utf-16-le").replace("\u20ac".encode("utf-16-le"), b"\x00\xd8")
    header = (",".join(FIELDS) + "\n").encode("utf-16")
    zone.put("events/a.csv", header + lone + "\n".encode("utf-16-le") + row.encode("utf-16-le"))
    assert zone.take(UTF16).counts.dead_lettered == 1
    assert letters(zone.lake)["code"].to_list() == [Code.UNDECODED]
    if not older:
        in_other_words(zone)
    again = replay(UTF16, zone.lake, RUN)
    assert (again.still_dead, table_rows(zone.lake).height) == (1, 1)
    assert letters(zone.lake)["payload"].to_list() == [lone]


def test_each_letter_says_its_code(zone: Zone) -> None:
    zone.csv("events/a.csv", [bad(), bad("one,two"), good("a")])
    zone.put("events/torn.csv.gz", b"\x1f\x8b\x08torn")
    zone.take(UTF8)
    told: list[dict[str, Any]] = letters(zone.lake).select("code", "detail", "broken").to_dicts()
    assert [len(t["broken"]) for t in told] == [1, 0, 0]
    assert [t["code"] for t in told] == [Code.VIOLATES, Code.MALFORMED, Code.UNREADABLE]
    kept = json.loads(told[-1]["detail"])["kept"]
    assert (zone.root / "lake" / kept).read_bytes() == b"\x1f\x8b\x08torn"
    assert Lake(zone.root / "lake").rows("dead_letters.bronze.events") == 3


def of_zip(*names: str) -> bytes:
    with io.BytesIO() as packed:
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        return packed.getvalue()


PARQUET = replace(UTF8, format=Parquet())
WHOLE = gzip.compress(b"event_id\n" * 1000)
DAMAGED: list[tuple[FileSource, str, bytes, dict[str, Any]]] = [
    (UTF8, "a.csv.gz", WHOLE[:-9], {"why": Damage.COMPRESSION, "codec": "gzip"}),
    (UTF8, "a.csv.xz", lzma.compress(WHOLE)[:-20], {"why": Damage.COMPRESSION, "codec": "xz"}),
    (UTF8, "a.csv.zip", of_zip("a", "b", "c"), {"why": Damage.ARCHIVE, "files": 3}),
    (
        UTF8,
        "a.csv",
        ("event_id,amount\n" * 9).encode("utf-16-be"),
        {"why": Damage.ENCODING, "encoding": "utf-8"},
    ),
    (UTF8, "a.csv", b'"event_id" x,amount\n1,2\n', {"why": Damage.HEADER}),
    (
        *(UTF8, "a.csv", b"name,mail\nJane Roe,jane@example.com\n"),
        {"why": Damage.OTHER_COLUMNS, "found": ["name", "mail"], "expected": list(EVENTS.column_names)},
    ),
    (PARQUET, "a.parquet", b"PAR1 and nothing more", {"why": Damage.CONTENT, "format": "parquet"}),
]


@pytest.mark.parametrize(("source", "name", "content", "told"), DAMAGED, ids=[d["why"] for *_, d in DAMAGED])
def test_a_file_that_cannot_be_read_says_why_in_fields(
    zone: Zone, source: FileSource, name: str, content: bytes, told: dict[str, Any]
) -> None:
    zone.put(f"events/{name}", content)
    zone.take(source)
    (letter,) = newest_dead_letters(zone.lake, source.table, 10).letters
    assert letter.code == Code.UNREADABLE
    assert (zone.lake.root / letter.detail["kept"]).read_bytes() == content
    assert {k: v for k, v in letter.detail.items() if k != "kept"} == told


def test_a_file_that_is_lost_says_why_in_fields(zone: Zone) -> None:
    removed, changed, linked, folder = (zone.csv(f"events/{name}.csv", [good(name)]) for name in "abcd")
    landing_zone.register_files(UTF8, zone.landing, zone.seen(UTF8), zone.lake, RUN)
    changed.write_text("other")
    for file in (removed, linked, folder):
        file.unlink()
    linked.symlink_to("/dev/null")
    folder.mkdir()
    zone.take_seen(UTF8, (), zone.lake)
    told = [letter.detail for letter in newest_dead_letters(zone.lake, "bronze.events", 10).letters]
    assert sorted((d["why"], d["from_row"]) for d in told) == [
        *((Damage.CHANGED, 1), (Damage.LINK, 1), (Damage.NO_FILE, 1), (Damage.REMOVED, 1)),
    ]


def test_what_the_system_refuses_has_the_name_of_its_error() -> None:
    refused = LostFile.refused("a.csv", PermissionError(errno.EACCES, "Keine Berechtigung"))
    assert refused.detail == {"why": Damage.REFUSED, "errno": "EACCES"}
    assert pickle.loads(pickle.dumps(refused)).detail == refused.detail


def test_a_registry_that_is_older_than_these_fields_goes_on(zone: Zone) -> None:
    zone.put("events/a.csv", b"name,mail\n1,2\n")
    landing_zone.register_files(UTF8, zone.landing, zone.seen(UTF8), zone.lake, RUN)
    registry = Path(zone.lake.path(file_registry.registry_table(UTF8.name)))
    older = file_registry.read_registry(zone.lake, UTF8.name).drop("damage")
    write_deltalake(str(registry), older, mode="overwrite", schema_mode="overwrite")
    zone.csv("events/b.csv", [good("b")])
    assert zone.take(UTF8).counts.written == 1
    (letter,) = newest_dead_letters(zone.lake, "bronze.events", 10).letters
    assert (letter.code, list(letter.detail)) == (Code.UNREADABLE, ["kept"])
