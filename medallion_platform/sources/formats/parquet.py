"""Parquet: columns keep their types, row groups are read in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medallion_platform.contracts.codes import Code, Damage
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.sources.errors import LostFile, UnreadableFile, is_file_system_error
from medallion_platform.sources.formats import int96
from medallion_platform.sources.formats.format import BLOCK, Format
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.sources.formats.records import (
    CODE,
    OURS,
    ParseResult,
    field_of_column,
    make_names_unique,
    records_frame,
    sparse_text_column,
)
from medallion_platform.sources.formats.slices import Ints
from medallion_platform.sources.formats.typed import instants_in_json, is_far, rows_as_json, values_as_text
from medallion_platform.storage import pieces
from medallion_platform.storage.arrow_types import is_bytes, is_list, is_text, map_inner_types

_EPOCH = date(1970, 1, 1)
_FIRST_DAY, _LAST_DAY = (date.min - _EPOCH).days, (date.max - _EPOCH).days


@dataclass(frozen=True)
class Parquet(Format, kind="parquet"):
    """Parquet: columns keep their types, and are the payload.

    Example:
        >>> from medallion_platform import Parquet
        >>> Parquet().suffixes
        ('.parquet',)
    """

    suffixes = (".parquet",)

    def read(
        self, path: Path, first_row: int = 1, declared: Collection[str] = (), block: int = BLOCK
    ) -> Iterator[pl.DataFrame]:
        """The rows of a file, in pieces of bounded size; a payload of those alone whose text is none."""
        for row, frame, undecoded in _read(path, first_row):
            codes = sparse_text_column(dict.fromkeys(undecoded, Code.UNDECODED.value), len(frame))
            malformed = dict.fromkeys(undecoded, "not valid utf-8")
            parsed = ParseResult(frame.to_dict(), malformed, facts={CODE: codes} if undecoded else {})
            yield records_frame(row, len(frame), parsed, sparse_text_column(undecoded, len(frame)))

    def read_header(self, path: Path) -> tuple[str, ...]:
        """The names of the file's columns."""
        return columns(path)

    def payloads(self, rows: pl.DataFrame) -> pl.Series:
        """Each row as JSON."""
        fields = {field_of_column(c.name): c for c in rows if c.name not in OURS}
        told = rows_as_json(pl.DataFrame(fields)).alias("told")
        return pl.select(pl.coalesce(rows["_payload"], told).alias("payload")).to_series().cast(pl.Binary)

    @property
    def stored(self) -> JsonLines:
        """JSON, as rows are kept."""
        return JsonLines()


def _read(path: Path, first_row: int) -> Iterator[tuple[int, pl.DataFrame, dict[int, str]]]:
    """Frames of the file from `first_row` on, each with the number of its first row, and of its rows whose
    text is none what stands in them, as JSON."""
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            schema, in_bytes = file.schema_arrow, int96.as_bytes(path, file)
            metadata = in_bytes or file.metadata
        names, kinds = make_names_unique(schema.names), schema.types if in_bytes else ()
        row = first_row
        for piece in pieces.of_file(
            partial(pq.ParquetFile, path, metadata=metadata, memory_map=False), first_row - 1
        ):
            yield row, *_frame(piece, names, kinds)
            row += len(piece)
    except UnreadableFile:
        raise
    except (
        *(pa.ArrowException, OSError, ValueError, LookupError),
        *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    ) as error:
        raise _unreadable(path, error) from error


def _frame(
    batch: pa.RecordBatch, names: Sequence[str], kinds: Sequence[pa.DataType]
) -> tuple[pl.DataFrame, dict[int, str]]:
    """The rows; null those whose text is none, with what stands in them, as JSON.

    kinds: the file's own, where INT96 were read as bytes.
    """
    columns: Sequence[pa.Array] = batch.columns
    if kinds:
        columns = [int96.decoded(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    undecoded = sorted({i for column in columns if not _is_valid(column) for i in _undecoded(column)})
    told: list[str] = []
    if undecoded:
        rows = pa.array(undecoded)
        in_bytes = [_texts_as_bytes(_take(column, rows)) for column in columns]
        told = rows_as_json(_in_polars(in_bytes, names), bytes_are_text=True).to_list()
        bad = frozenset(undecoded)
        others = pa.array([None if i in bad else i for i in range(len(batch))], pa.int64())
        columns = [_take(column, others) for column in columns]
    frame = _in_polars(columns, names)
    for column in frame.iter_columns():
        if column.dtype.is_nested():
            values_as_text(column)  # what it cannot tell, no later step can
    return frame, dict(zip(undecoded, told, strict=True))


def _take(column: pa.Array, rows: pa.Array) -> pa.Array:
    """These rows of a column; Arrow takes none of views."""

    def without_view(values: pa.Array) -> pa.Array:
        whole = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
        return values.cast(whole.get(values.type, values.type))

    return pieces.with_leaves(column, without_view).take(rows)


def _in_polars(columns: Sequence[pa.Array], names: Sequence[str]) -> pl.DataFrame:
    """Columns in types that we hold."""
    # Not by their names, of which some are no text on the way between libraries.
    numbers = [str(i) for i in range(len(names))]
    held = list(map(_written_out, columns))
    frame = pl.from_arrow(pa.Table.from_arrays(held, names=numbers))
    assert isinstance(frame, pl.DataFrame)
    for number, column in zip(numbers, held, strict=True):
        if _holds_map(column.type) and (rows := _count_repeated_keys(column).nonzero()[0]).size:
            frame = frame.with_columns(_with_pairs(frame[number], column, rows))
    frame.columns = names
    return frame


def _with_pairs(values: pl.Series, column: pa.Array, rows: Ints) -> pl.Series:
    """A column as text, with the maps of these rows as lists of keys and values.

    They repeat a key, and of an object of JSON that does so each reader takes another value.
    """
    pairs = pl.from_arrow(_take(column, pa.array(rows)).cast(_maps_as_pairs(column.type)))
    assert isinstance(pairs, pl.Series)
    return values_as_text(values).scatter(rows, values_as_text(pairs))


def _maps_as_pairs(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_map(kind):
        return _pairs(kind.key_field, kind.item_field.with_type(_maps_as_pairs(kind.item_type)))
    return map_inner_types(kind, _maps_as_pairs)


def _pairs(key: pa.Field, item: pa.Field) -> pa.DataType:
    return pa.list_(pa.struct([key, item]))


def _holds_map(kind: pa.DataType) -> bool:
    return pa.types.is_map(kind) or any(_holds_map(kind.field(i).type) for i in range(kind.num_fields))


def _count_repeated_keys(column: pa.Array) -> Ints:
    """How many entries of maps within each row share a key with another one of their map; keys are texts."""
    kind = column.type
    if pa.types.is_struct(kind):
        fields = (column.field(i) for i in range(kind.num_fields))
        return sum(map(_count_repeated_keys, fields), np.zeros(len(column), np.int64))
    if not (pa.types.is_map(kind) or is_list(kind)):
        return np.zeros(len(column), np.int64)
    ends = pieces.list_ends(column)
    if pa.types.is_map(kind):
        keys = column.keys.dictionary_encode("encode")
        owners = np.searchsorted(ends, np.arange(len(keys)), side="right")
        entries = pl.Series(owners * len(keys.dictionary) + keys.indices.to_numpy())
        within = _count_repeated_keys(column.items) + entries.is_duplicated().to_numpy()
    else:
        within = _count_repeated_keys(column.values)
    return pieces.sum_of_lists(within, ends)


def _is_valid(column: pa.Array) -> bool:
    """Whether all its text is text: nobody checks that who writes or reads a file."""
    texts: list[pa.Array] = []

    def keep_texts(values: pa.Array) -> pa.Array:
        if is_text(values.type):
            texts.append(values)
        return values

    pieces.with_leaves(column, keep_texts)
    return all(map(_is_sound, texts))


def _is_sound(values: pa.Array) -> bool:
    """Whether each value is one of its type."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _undecoded(column: pa.Array, first: int = 0) -> list[int]:
    """The rows whose text is none, counted from `first`; by halves, for they are few or all."""
    # Copied, since nested values of a slice are those of the whole.
    if _is_valid(pa.concat_arrays([column])):
        return []
    if len(column) == 1:
        return [first]
    half = len(column) // 2
    return _undecoded(column.slice(0, half), first) + _undecoded(column.slice(half), first + half)


def _texts_as_bytes(column: pa.Array) -> pa.Array:
    """Texts as bytes, which need not be UTF-8; what stands beside them within nesting is text by then.

    Maps are lists of keys and values: whether one repeats a key is not asked of what is no text.
    """
    nested = pa.types.is_nested(column.type)

    def as_bytes(values: pa.Array) -> pa.Array:
        if nested:
            values = _as_text_in_json(_unsound_as_text(values))
        return values.cast(pa.large_binary()) if is_text(values.type) else values

    told = pieces.with_leaves(column, as_bytes)
    return told.cast(_maps_as_pairs(told.type)) if _holds_map(told.type) else told


def _as_text_in_json(values: pa.Array) -> pa.Array:
    """Bytes, days, instants and times as the JSON of nested values has them."""
    kind = values.type
    if not (is_bytes(kind) or pa.types.is_temporal(kind)):
        return values
    return values_as_text(pl.Series("v", values.cast(_held(kind)))).to_arrow()


def _written_out(column: pa.Array) -> pa.Array:
    """The column in a type that we hold: what has none as text, also within lists, structs and maps."""
    nested = pa.types.is_nested(column.type)

    def as_text(values: pa.Array) -> pa.Array:
        told = _unsound_as_text(values)
        return _far_as_text(told) if nested else told

    column = pieces.with_leaves(column, as_text)
    kind = _held(column.type)
    return column if kind == column.type else column.cast(kind)


def _unsound_as_text(values: pa.Array) -> pa.Array:
    """Times of a day and decimals as text where one lies outside of a day or has more digits than its type:
    a file can hold them, and no library tells them."""
    kind = values.type
    if not (pa.types.is_time(kind) or pa.types.is_decimal(kind)) or _is_sound(values):
        return values
    if pa.types.is_decimal(kind):
        return values.cast(pa.string())
    numbers = pl.Series("v", values.cast(pa.int32() if kind.bit_width == 32 else pa.int64()))
    texts = values_as_text(pl.Series("v", values))
    outside = numbers.is_not_null() & texts.is_null()
    told = numbers.cast(pl.String) + f" {kind.unit} since midnight"
    return pl.select(pl.when(outside).then(told).otherwise(texts)).to_series().to_arrow().cast(pa.string())


def _far_as_text(values: pa.Array) -> pa.Array:
    """Days and instants within nested values as text where one lies outside of the years 0001 to 9999."""
    kind = values.type
    if pa.types.is_date(kind):
        days = values.cast(pa.date32()).cast(pa.int32())
        ends = pc.call_function("min_max", [days]).as_py()
        far = len(days) > days.null_count and (ends["min"] < _FIRST_DAY or ends["max"] > _LAST_DAY)
        return values.cast(pa.string()) if far else values
    if pa.types.is_timestamp(kind):
        held = pl.Series("v", values.cast(_held(kind)))
        return instants_in_json(held).to_arrow().cast(pa.string()) if is_far(held) else values
    return values


def _held(kind: pa.DataType) -> pa.DataType:
    """The type that holds the same values for us.

    A zone that nobody knows is UTC, for the instants are the same; a decimal of more than 38 digits is text.
    Keys of a map are text as in JSON; where they have none, the map is a list of keys and values.
    """
    if pa.types.is_timestamp(kind):
        return kind if kind.tz is None or _is_zone(kind.tz) else pa.timestamp(kind.unit, "UTC")
    if pa.types.is_decimal256(kind):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return _held(kind.storage_type)
    if pa.types.is_map(kind):
        key, item = kind.key_type, kind.item_field.with_type(_held(kind.item_type))
        if pa.types.is_nested(key) or _held(key) != key or is_bytes(key):
            return _pairs(kind.key_field.with_type(_held(key)), item)
        return pa.map_(pa.string(), item)
    return map_inner_types(kind, _held)


@cache
def _is_zone(name: str) -> bool:
    try:
        pl.from_arrow(pa.array([], pa.timestamp("us", name)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False
    return True


def columns(path: Path) -> tuple[str, ...]:
    """The names of the file's columns."""
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            return make_names_unique(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> MedallionError:
    if is_file_system_error(error):
        return LostFile.refused(path, error)
    said = str(error).splitlines()[0] if str(error) else repr(error)
    if type(error) is pa.ArrowException:  # Arrow's "unknown error" is of no file: it gets no thread, say
        return MedallionError(
            f"{path} is not read, as Arrow cannot work: {said}",
            kind=Kind.RESOURCE,
            remedy="see how many processes and threads this machine allows",
        )
    return UnreadableFile(path, f"not readable as Parquet: {said}", why=Damage.CONTENT, format="parquet")
