from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.sources.errors import UnreadableFile
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.format import Format
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.sources.formats.parquet import Parquet
from medallion_platform.sources.formats.records import OURS
from medallion_platform_tests.sources.reading import frame_of, same


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def framed_zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.csv", data)
    return out.getvalue()


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": framed_zstd,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
}
FORMAT = Csv(header=False, columns=("a", "b"))
CONTENT = "".join(f"{i},n{i * 7919}\n" for i in range(20_000)).encode()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("block", [2**10, 2**20])
@pytest.mark.failure("corrupt", work="intake")
def test_compressed_is_the_same_and_torn_yields_nothing(codec: str, block: int, tmp_path: Path):
    packed = CODECS[codec](CONTENT)
    assert same(frame_of(packed, FORMAT, 2**16, name="named.like.csv"), frame_of(CONTENT, FORMAT))
    for damaged in (packed[:-5], packed[: len(packed) // 2], packed[:20]):
        path = tmp_path / "torn"
        path.write_bytes(damaged)
        frames = FORMAT.read(path, block=block)
        with pytest.raises(UnreadableFile) as caught:
            next(frames)
        assert caught.value.reason.startswith("damaged")
        assert caught.value.path == str(path)


@pytest.mark.parametrize("codec", ["gzip", "zstd", "bz2", "xz"])
def test_members_one_after_the_other_are_one_file(codec: str):
    cut = CONTENT.index(b"\n", 10_000) - 2
    packed = CODECS[codec](CONTENT[:cut]) + CODECS[codec](CONTENT[cut:])
    assert same(frame_of(packed, FORMAT), frame_of(CONTENT, FORMAT))


@pytest.mark.parametrize("declared", ["cp1252", "utf-8", "utf-16", "gb18030", "shift_jis"])
@pytest.mark.parametrize("written", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_takes_precedence(declared: str, written: str):
    """What a spreadsheet saved as UTF-8 came as the characters of its bytes, where cp1252 was declared."""
    content = "a,b\n1,Müller\n2,€\n".encode(written)
    for packed in (content, gzip.compress(content)):
        frame = frame_of(packed, Csv(encoding=declared))
        assert frame.select("a", "b").rows() == [("1", "Müller"), ("2", "€")]


@pytest.mark.failure("corrupt", work="intake")
def test_a_flipped_bit_in_the_content_is_damage():
    packed = bytearray(gzip.compress(CONTENT))
    packed[-6] ^= 1
    with pytest.raises(UnreadableFile, match="CRC"):
        frame_of(bytes(packed), FORMAT, 2**10)


def archive_of(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "" if name.endswith("/") else "1,2\n")
    return out.getvalue()


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("x/", "x/a.csv", "x/b.csv", "__MACOSX/._a.csv"), ()])
def test_an_archive_of_many_or_none_is_not_read(names: tuple[str, ...]):
    with pytest.raises(UnreadableFile, match=f"a zip archive of {2 if names else 0} files"):
        frame_of(archive_of(*names), FORMAT)


@pytest.mark.parametrize("names", [("__MACOSX/._a.csv", "a.csv"), ("d/", "d/a.csv", "__MACOSX/d/._a.csv")])
def test_what_macos_adds_to_an_archive_is_no_file_of_it(names: tuple[str, ...]):
    assert frame_of(archive_of(*names), FORMAT)["b"].to_list() == ["2"]


@pytest.mark.parametrize("format", [FORMAT, JsonLines(), Debezium(), Parquet()])
def test_what_is_no_file_is_unreadable(format: Format, tmp_path: Path):
    with pytest.raises(UnreadableFile, match="No such file"):
        next(format.read(tmp_path / "absent"))
    with pytest.raises(UnreadableFile):
        next(format.read(tmp_path))


@pytest.mark.parametrize("format", [FORMAT, Csv(), JsonLines(), Debezium()])
def test_an_empty_file_has_no_records(format: Format):
    assert len(frame_of(b"", format)) == 0
    assert len(frame_of(gzip.compress(b""), format)) == 0


STARTS = [b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh91AY&SY", b"PK\x03\x04"]
STARTS += [b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\xef\xbb\xbf", b"PAR1", b'{"schema":{}']
FORMATS: list[Format] = [
    *(FORMAT, Csv(), Csv(";", False), Csv(encoding="cp1252"), Csv(encoding="utf-16")),
    *(JsonLines(), JsonLines("latin-1"), JsonLines("utf-7"), JsonLines("iso2022_jp")),
    *(Debezium(), Parquet(), Csv(encoding="gb18030"), Csv(encoding="unicode_escape")),
]


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(STARTS),
    st.binary(max_size=80),
    st.sampled_from(FORMATS),
    st.sampled_from([1, 20, 2**20]),
)
def test_any_bytes_are_records_or_unreadable(start: bytes, rest: bytes, format: Format, block: int):
    try:
        frame = frame_of(start + rest, format, block)
    except UnreadableFile:
        return
    whole = frame_of(start + rest, format)
    assert len(frame) == len(whole)
    either = frame["_payload"].is_not_null() != frame["_payload_bytes"].is_not_null()
    assert either.all()


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(sorted(CODECS)), st.integers(0, 10**9), st.integers(0, 255))
def test_any_damage_to_a_compressed_file_is_records_or_unreadable(codec: str, at: int, byte: int):
    packed = bytearray(CODECS[codec](CONTENT[:2000]))
    packed[at % len(packed)] = byte
    try:
        frame_of(bytes(packed), FORMAT)
    except UnreadableFile as error:
        assert error.reason


MEMORY = """
import resource, sys
from pathlib import Path

from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.jsonlines import JsonLines
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
format = Csv() if sys.argv[2] == "csv" else JsonLines()
rows = sum(len(f) for f in format.read(Path(sys.argv[1])))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


@pytest.mark.parametrize("kind", ["csv in quotes", "json", "csv.gz"])
def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path):
    values = [f"value {i}" for i in range(12)]
    if kind.startswith("json"):
        line = "{" + ",".join(f'"f{i}":"{v}"' for i, v in enumerate(values)) + "}\n"
    elif "quotes" in kind:
        line = ",".join(f'"{v}"' for v in values) + "\n"
    else:
        line = ",".join(values) + "\n"
    head = "" if kind == "json" else ",".join(f"f{i}" for i in range(12)) + "\n"
    piece = line.encode() * 10_000
    path = tmp_path / "big"
    with gzip.open(path, "wb", 1) if kind.endswith("gz") else path.open("wb") as file:
        file.write(head.encode())
        for _ in range(120_000_000 // len(piece)):
            file.write(piece)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), kind.split(".")[0].split()[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, megabytes = map(int, done.stdout.split())
    assert rows == 120_000_000 // len(piece) * 10_000
    assert megabytes < 300


@pytest.mark.failure("corrupt", work="intake")
def test_parquet_is_typed_and_streamed(tmp_path: Path):
    from medallion_platform.sources.formats.typed import rows_as_json

    made = pl.DataFrame({"id": range(1000), "at": ["x"] * 1000, "_row": [1.5] * 1000})
    path = tmp_path / "x.parquet"
    made.write_parquet(path, row_group_size=300)
    frames = list(Parquet().read(path))
    assert len(frames) == 4
    got = pl.concat(frames)
    assert got["_row"].to_list() == list(range(1, 1001))
    assert got["_payload"].null_count() == 1000
    assert got.select("id", "at", pl.col("_row_").alias("_row")).equals(made)
    resumed = pl.concat(Parquet().read(path, first_row=450))
    assert resumed.equals(got[449:])
    assert rows_as_json(got[:1].drop(OURS, strict=False)).to_list() == ['{"id": 0, "at": "x", "_row_": 1.5}']
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreadableFile, match="not readable as Parquet"):
        next(Parquet().read(path))
