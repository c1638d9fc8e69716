"""The bytes of a file: decompressed, decoded, and passed on in blocks of bounded size.

Blocks are UTF-8, whatever the encoding of the file. A byte that cannot be decoded is replaced by an escape
that is not valid UTF-8. So its record is recognized as malformed, and its original bytes can be restored
(`TextFile.raw`).
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

from medallion_platform.contracts.codes import Damage
from medallion_platform.errors import DeclarationError
from medallion_platform.sources.errors import LostFile, UnreadableFile, is_file_system_error
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
_GZIP, _ZSTD, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00"
_ZIP = b"PK\x03\x04", b"PK\x05\x06"
"""How an archive begins, and one without any file."""
_OF_MACOS = "__MACOSX/"
"""The folder in which macOS puts what it knows about the files of an archive, beside them."""
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


def _carry_undecoded_bytes(error: UnicodeError) -> tuple[str, int]:
    """Represent each byte that cannot be decoded by a lone surrogate: U+DC00 plus the byte."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + b) for b in error.object[error.start : error.end]), error.end


codecs.register_error("medallion.keep", _carry_undecoded_bytes)


class TextFile:
    """A text file; iterate over it for its blocks. quote: line ends between quotes do not end a line."""

    def __init__(self, path: Path, encoding: str, block: int = BLOCK, quote: str | None = None) -> None:
        self.path = path
        self.block = max(1, block)
        self.quote = quote
        self.encoding = _plain_encoding(encoding)
        self.compression = "none"
        self.marked = False
        """Whether a byte order mark tells the encoding, known after the first block."""
        self.by_returns = False
        r"""Whether lines end with a lone `\r`, known after the first block."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from filter(
                None, self._cut_out_overlong_lines(self._normalize_line_ends(self._decode_blocks()))
            )
        except UnicodeError as error:
            reason = f"not readable as {self.encoding}: {error}"
            raise self._undecodable(reason) from error

    def _undecodable(self, reason: str) -> UnreadableFile:
        return UnreadableFile(self.path, reason, why=Damage.ENCODING, encoding=self.encoding)

    def raw(self, record: bytes) -> bytes:
        """The original bytes in the file of a `record` from a block."""
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
        """A record in the form of a block, from its original bytes in the file."""
        if self.encoding == "utf-8":
            return record
        return _encode_with_bytes(record.decode(self.encoding, "medallion.keep"))

    def _decode_blocks(self) -> Iterator[bytes]:
        decoder: codecs.IncrementalDecoder | None = None
        first = True
        for data in self._decompress_blocks():
            if first:
                first = False
                data = self._settle_encoding(data)
                if self.encoding != "utf-8":
                    decoder = codecs.getincrementaldecoder(self.encoding)("medallion.keep")
            yield data if decoder is None else _encode_with_bytes(decoder.decode(data))
        if decoder is not None and (rest := decoder.decode(b"", final=True)):
            yield _encode_with_bytes(rest)

    def _normalize_line_ends(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        r"""The text, after the kind of line end is known from the first line end outside of quotes.

        If it is a lone `\r`, as on old Macs and in some exports, lines end with `\r`, `\n` or both
        together; else with `\n`.
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
                raise self._undecodable(f"not {self.encoding} text: is it in UTF-16, or no text at all?")
            by_returns = _lines_end_by_returns(text[:begin], self.quote, size <= begin)
            if begin >= _FURTHEST:
                by_returns = bool(by_returns)
            begin *= 2
        self.by_returns = by_returns
        yield from chain(parts, blocks)

    def _cut_out_overlong_lines(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Blocks of complete lines, without lines of `LONGEST` bytes or more; each block is shorter."""
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
        """The place of the first line end in a block, or -1."""
        if not self.by_returns:
            return data.find(b"\n")
        found = _END.search(data)
        return found.start() if found else -1

    def _last_end(self, data: bytes) -> int:
        """The place of the last line end in a block, or -1."""
        return max(data.rfind(b"\n"), data.rfind(b"\r") if self.by_returns else -1)

    def _settle_encoding(self, data: bytes) -> bytes:
        """Drop a byte order mark, and use the encoding that it stands for, whatever is declared."""
        for mark, encoding in _BOMS:
            if data.startswith(mark):
                self.encoding, self.marked = encoding, True
                return data[len(mark) :]
        if self.encoding in ("utf-16", "utf-32"):
            self.encoding += "-le"
        return data

    def _decompress_blocks(self) -> Iterator[bytes]:
        """Blocks of the content; a compressed file is read completely before the first block."""
        size = max(self.block, 16)
        try:
            with ExitStack() as stack:
                stream = self._open_file(stack)
                data = _read_fully(stream, size)
                if self.compression != "none" and len(data) == size:
                    with ExitStack() as proof:
                        whole = self._open_file(proof)
                        while _read_fully(whole, BLOCK):
                            pass
                while data:
                    yield data
                    data = _read_fully(stream, self.block)
        except _DAMAGE as error:
            if is_file_system_error(error):
                raise LostFile.refused(self.path, error) from error
            if self.compression == "none":
                raise UnreadableFile(self.path, f"damaged: {error}", why=Damage.CONTENT) from error
            what, codec = f"damaged {self.compression}: {error}", self.compression
            raise UnreadableFile(self.path, what, why=Damage.COMPRESSION, codec=codec) from error

    def _open_file(self, stack: ExitStack) -> IO[bytes]:
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
            members = archive.infolist()
            files = [i for i in members if not i.is_dir() and not i.filename.startswith(_OF_MACOS)]
            if len(files) != 1:
                reason = f"a zip archive of {len(files)} files, not of one"
                raise UnreadableFile(self.path, reason, why=Damage.ARCHIVE, files=len(files))
            return stack.enter_context(archive.open(files[0]))
        return raw


_OVERLONG = b"\xff\xc0" + token_hex(16).encode() + b"\xc1"
"""How a line begins that stands for one that was left out: known to this process alone, so in no file."""


def overlong_record(record: bytes) -> tuple[int, int] | None:
    """The length of a record that was cut out as too long, and its offset in the text; else None."""
    if not record.startswith(_OVERLONG):
        return None
    length, at = record.removeprefix(_OVERLONG).split()
    return int(length), int(at)


def _lines_end_by_returns(begin: bytes, quote: str | None, whole: bool) -> bool | None:
    r"""Whether lines end with a lone `\r`; None if the `begin` of a text that is not `whole` leaves it open.

    It does not if it has no line end, or ends inside quotes or with a `\r` that may be followed by `\n`.
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


def _read_fully(stream: IO[bytes], size: int) -> bytes:
    """Exactly `size` bytes, fewer only at the end."""
    data = stream.read(size)
    if len(data) == size or not data:
        return data
    parts, have = [data], len(data)
    while have < size and (more := stream.read(size - have)):
        parts.append(more)
        have += len(more)
    return b"".join(parts)


def _encode_with_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _plain_encoding(encoding: str) -> str:
    """One name for each encoding; ASCII is read as its superset UTF-8."""
    name = codecs.lookup(encoding).name
    return "utf-8" if name in ("ascii", "utf-8-sig") else name


def refuse_unknown_encoding(what: str, encoding: str) -> None:
    """Raise DeclarationError where an encoding is none, or none of text."""
    try:
        info = codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise DeclarationError(f"{what}: no such encoding: {encoding!r}") from error
    if not getattr(info, "_is_text_encoding", True):
        raise DeclarationError(f"{what}: {encoding!r} is not a text encoding")
