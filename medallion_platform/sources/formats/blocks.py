"""The bytes of a file: decompressed, decoded, and handed on in blocks of bounded size.

Whatever the file's encoding, blocks are UTF-8. A byte that does not decode is carried through as
an escape that is no valid UTF-8, so that its record is recognised as malformed and its bytes as
they came can be given back (`TextFile.raw`).
"""

from __future__ import annotations

import codecs
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, cast

import pyarrow as pa

from medallion_platform.sources.errors import LostFile, UnreadableFile, is_lost
from medallion_platform.sources.formats.format import BLOCK
from medallion_platform.sources.formats.records import LONGEST

_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    pa.ArrowException,
)
_GZIP, _ZSTD, _XZ, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"PK\x03\x04"
_BZ2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_FIRST = 2**16
"""Bytes of text by which it is told how lines end, and whether it is text at all."""
_FURTHEST = 2**22
"""So many where the first line is too long to tell by fewer how lines end."""
_NULS = 16
"""So many zero bytes among these, and a quarter of them all, are no text of the encoding."""
_END = re.compile(rb"[\r\n]")
_ESCAPED = re.compile("([\udc00-\udcff]+)")


def _keep(error: UnicodeError) -> tuple[str, int]:
    """Carry each byte that does not decode as a lone surrogate: U+DC00 plus the byte."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + b) for b in error.object[error.start : error.end]), error.end


codecs.register_error("medallion.keep", _keep)


class TextFile:
    """A file of text; iterate for its blocks. quote: what line ends that end no line stand between."""

    def __init__(self, path: Path, encoding: str, block: int = BLOCK, quote: str | None = None) -> None:
        self.path = path
        self.block = max(1, block)
        self.quote = quote
        self.encoding = _plain(encoding)
        self.compression = "none"
        self.by_returns = False
        r"""Whether lines end by `\r`, known with the first block."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from filter(None, self._without_overlong(self._settled(self._decoded())))
        except UnicodeError as error:
            raise UnreadableFile(self.path, f"not readable as {self.encoding}: {error}") from error

    def raw(self, record: bytes) -> bytes:
        """The bytes as they came in the file of a `record` as it stood in a block."""
        if self.encoding == "utf-8":
            return record
        text = record.decode("utf-8", "surrogatepass")
        parts = _ESCAPED.split(text)
        errors = "surrogatepass" if "utf" in self.encoding else "replace"
        return b"".join(
            bytes(ord(c) - 0xDC00 for c in part) if i % 2 else part.encode(self.encoding, errors)
            for i, part in enumerate(parts)
        )

    def decoded(self, record: bytes) -> bytes:
        """A record as it stands in a block, of its bytes as they came in the file."""
        if self.encoding == "utf-8":
            return record
        return _encoded(record.decode(self.encoding, "medallion.keep"))

    def _decoded(self) -> Iterator[bytes]:
        decoder: codecs.IncrementalDecoder | None = None
        first = True
        for data in self._decompressed():
            if first:
                first = False
                data = self._settle_encoding(data)
                if self.encoding != "utf-8":
                    decoder = codecs.getincrementaldecoder(self.encoding)("medallion.keep")
            yield data if decoder is None else _encoded(decoder.decode(data))
        if decoder is not None and (rest := decoder.decode(b"", final=True)):
            yield _encoded(rest)

    def _settled(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        r"""The text as it is, once it is known how lines end: the first end outside of quotes tells.

        Where it is a `\r` alone, as on old Macs and in some exports of spreadsheets, `\r`, `\n` and both
        together end lines; else `\n` does.
        """
        begin, size = _FIRST, 0
        parts: list[bytes] = []
        by_returns: bool | None = None
        while by_returns is None:
            while size <= begin and (data := next(blocks, None)) is not None:
                parts.append(data)
                size += len(data)
            text = b"".join(parts)
            first = text[:_FIRST]
            if (nuls := first.count(0)) >= _NULS and nuls * 4 >= len(first):
                raise UnreadableFile(
                    self.path, f"not {self.encoding} text: is it in UTF-16, or no text at all?"
                )
            by_returns = _ends_by_returns(text[:begin], self.quote, size <= begin)
            if begin >= _FURTHEST:
                by_returns = bool(by_returns)
            begin *= 2
        self.by_returns = by_returns
        yield from chain(parts, blocks)

    def _without_overlong(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Blocks of whole lines, those of `LONGEST` bytes or more left out; a block is shorter than that."""
        parts: list[bytes] = []  # of the line that has not ended yet
        length = at = 0
        for data in blocks:
            end = self._first_end(data)
            if end < 0 or length + end >= LONGEST:
                length += len(data) if end < 0 else end
                if length < LONGEST:
                    parts.append(data)
                    continue
                parts = []
                if end < 0:
                    continue
                yield _OVERLONG + b"%d %d\n" % (length, at)
                at += length + 1
                data, length = data[end + 1 :], 0
            cut = self._last_end(data) + 1
            if cut:
                yield b"".join((*parts, data[:cut]))
                at += length + cut
                parts, length = [], 0
            if cut < len(data):
                parts.append(data[cut:])
                length += len(data) - cut
        yield _OVERLONG + b"%d %d" % (length, at) if length >= LONGEST else b"".join(parts)

    def _first_end(self, data: bytes) -> int:
        """Where the first line ends in a block, -1 where none does."""
        if not self.by_returns:
            return data.find(b"\n")
        found = _END.search(data)
        return found.start() if found else -1

    def _last_end(self, data: bytes) -> int:
        """Where the last line ends in a block, -1 where none does."""
        return max(data.rfind(b"\n"), data.rfind(b"\r") if self.by_returns else -1)

    def _settle_encoding(self, data: bytes) -> bytes:
        """Drop a byte order mark, and follow what it says."""
        family = self.encoding.removesuffix("-le").removesuffix("-be")
        for mark, encoding in _BOMS:
            if data.startswith(mark) and (family == "utf-8" or encoding.startswith(family)):
                self.encoding = encoding
                return data[len(mark) :]
        if self.encoding in ("utf-16", "utf-32"):
            self.encoding += "-le"
        return data

    def _decompressed(self) -> Iterator[bytes]:
        """Blocks of the content; a compressed file is read to its end before the first."""
        size = max(self.block, 16)
        try:
            with ExitStack() as stack:
                stream = self._opened(stack)
                data = _read(stream, size)
                if self.compression != "none" and len(data) == size:
                    with ExitStack() as proof:
                        whole = self._opened(proof)
                        while _read(whole, BLOCK):
                            pass
                while data:
                    yield data
                    data = _read(stream, self.block)
        except _DAMAGE as error:
            if is_lost(error):
                raise LostFile(self.path, error.strerror or str(error)) from error
            what = "damaged" if self.compression == "none" else f"damaged {self.compression}"
            raise UnreadableFile(self.path, f"{what}: {error}") from error

    def _opened(self, stack: ExitStack) -> IO[bytes]:
        raw = stack.enter_context(self.path.open("rb"))
        start = raw.read(16)
        raw.seek(0)
        if start.startswith(_GZIP):
            self.compression = "gzip"
            return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
        if start.startswith(_XZ):
            self.compression = "xz"
            return cast("IO[bytes]", lzma.LZMAFile(raw))
        for codec, there in (("bz2", _BZ2.match(start)), ("zstd", start.startswith(_ZSTD))):
            if there:
                self.compression = codec
                return cast(Any, pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec))
        if start.startswith(_ZIP):
            self.compression = "zip"
            archive = stack.enter_context(zipfile.ZipFile(raw))
            names = [i for i in archive.infolist() if not i.is_dir()]
            if len(names) != 1:
                raise UnreadableFile(self.path, f"a zip archive of {len(names)} files, not of one")
            return stack.enter_context(archive.open(names[0]))
        return raw


_OVERLONG = b"\xff\xc0" + token_hex(16).encode() + b"\xc1"
"""How a line begins that stands for one that was left out: known to this process alone, so in no file."""


def overlong(record: bytes) -> tuple[int, int] | None:
    """Of a record that was left out as too long, its length and the bytes before it in the text."""
    if not record.startswith(_OVERLONG):
        return None
    length, at = record.removeprefix(_OVERLONG).split()
    return int(length), int(at)


def _ends_by_returns(begin: bytes, quote: str | None, whole: bool) -> bool | None:
    r"""Whether lines end by `\r`; None where the `begin` of a text that is not `whole` does not tell.

    So it is where no line ends in it, or where it ends within quotes or with a `\r` that a `\n` may follow.
    """
    if begin.count(b"\r") == begin.count(b"\r\n"):
        return False if whole or b"\n" in begin else None
    q = re.escape((quote or "").encode())
    quoted = q + b"[^" + q + b"]*+"
    patterns = [rb"(?P<end>\r*+\n|\r)"]
    if not whole:
        patterns.insert(0, rb"(?P<open>" + (quoted + rb"\Z|" if q else b"") + rb"\r++\Z)")
    if q:
        patterns.insert(0, quoted + q)
    for found in re.finditer(b"|".join(patterns), begin):
        if end := found["end"]:
            return end == b"\r"
        if not whole and found["open"]:
            return None
    return False if whole else None


def _read(stream: IO[bytes], size: int) -> bytes:
    """Exactly `size` bytes, fewer only at the end."""
    data = stream.read(size)
    if len(data) == size or not data:
        return data
    parts, have = [data], len(data)
    while have < size and (more := stream.read(size - have)):
        parts.append(more)
        have += len(more)
    return b"".join(parts)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _plain(encoding: str) -> str:
    """One name for each encoding; ASCII is read as its superset UTF-8."""
    name = codecs.lookup(encoding).name
    return "utf-8" if name in ("ascii", "utf-8-sig") else name


def known_encoding(what: str, encoding: str) -> None:
    """Raise ValueError where an encoding is none, or none of text."""
    try:
        info = codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{what}: no such encoding: {encoding!r}") from error
    if not getattr(info, "_is_text_encoding", True):
        raise ValueError(f"{what}: {encoding!r} is not a text encoding")
