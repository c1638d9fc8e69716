"""Resources of REST APIs: the declaration of a source, and reading it in pulls.

A pull requests the records from the table's position on, page by page. The position is the greatest value
taken in so far of a field that grows (an id, a time of change), plus one. Each pull begins an `overlap`
earlier, for records that became visible late. A record is identified by the value of that field (`_offset`)
and a fingerprint of its text (`_row`): one that was taken in before is recognized, and one whose text changed
is a new record even if the field did not change.

What can be promised depends on the paging of the API. If each page says where the next one begins (a cursor),
reading once is enough. If pages are counted, records that are added or removed between two requests shift
others to another page: a record that comes twice is a duplicate, and one that is skipped is found by reading
all pages again until nothing new is found among the records that existed at the first reading. Only then the
position moves.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

import polars as pl

from medallion_platform.contracts import options
from medallion_platform.contracts.contract import ColumnType
from medallion_platform.contracts.polars_engine import cast_column
from medallion_platform.errors import DeclarationError, Kind
from medallion_platform.sources.arrivals import Arrivals, Batch, PositionOf, SourceContext
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats.jsonlines import JsonLines, split_list, split_object
from medallion_platform.sources.formats.records import frame_column
from medallion_platform.sources.http import (
    HttpClient,
    HttpResponse,
    RequestError,
    Token,
    public_url,
    refuse_unencrypted,
    url_origin,
)
from medallion_platform.sources.source import Source

READINGS = 5
"""How often counted pages are read, at most, until they hold still."""

_SAME = 10
"""Pages that were equal one after the other: the server does not count."""
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_GREATEST = 2**62


@dataclass(frozen=True)
class ById:
    """Incremental by a growing whole number of at least 0: an id, or seconds since 1970.

    parameter: requests records from a number on (or after it, if `overlap` is at least 1).
    ascending: the API returns records in this order, so that each batch moves the position.

    Example:
        >>> from medallion_platform import ById
        >>> ById("id", parameter="since_id", overlap=1).overlap
        1
    """

    field: str
    parameter: str
    overlap: int = 1000
    ascending: bool = False
    kind = "whole number"

    def __post_init__(self) -> None:
        for option, given in (("field", self.field), ("parameter", self.parameter)):
            options.text(f"ById {option}", given)
        options.whole("ById overlap", self.overlap, least=0)

    def offsets(self, text: pl.Series) -> pl.Series:
        """The texts of the field as numbers; null where a text is no number."""
        return cast_column(text, ColumnType("long"))

    def since(self, position: int) -> str:
        """What the parameter is to be at a position."""
        return str(max(position - 1 - self.overlap, 0))

    def latest(self, at: datetime) -> int:
        """The greatest plausible value."""
        return _GREATEST


@dataclass(frozen=True)
class ByTime:
    """Incremental by the ISO 8601 time at which a record was created or changed.

    parameter: requests records from a time on (or after it, if `overlap` is longer than the precision of the
    API's times). ascending: as in `ById`.

    Example:
        >>> from datetime import timedelta
        >>> from medallion_platform import ByTime
        >>> ByTime("updated_at", parameter="updated_since", overlap=timedelta(minutes=5)).field
        'updated_at'
    """

    field: str
    parameter: str
    overlap: timedelta = timedelta(minutes=5)
    ascending: bool = False
    kind = "time"

    def __post_init__(self) -> None:
        for option, given in (("field", self.field), ("parameter", self.parameter)):
            options.text(f"ByTime {option}", given)
        options.duration("ByTime overlap", self.overlap, least=timedelta())

    def offsets(self, text: pl.Series) -> pl.Series:
        """The texts of the field as microseconds since 1970; null where a text is no time."""
        return cast_column(text, ColumnType("timestamp")).cast(pl.Int64)

    def since(self, position: int) -> str:
        """What the parameter is to be at a position."""
        begin = max((position - 1) * _MICROSECOND - self.overlap, timedelta())
        return (_FIRST + begin).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def latest(self, at: datetime) -> int:
        """The greatest plausible value: a time in the future would hide all records until then."""
        return (at - _FIRST) // _MICROSECOND


@dataclass(frozen=True)
class _Request:
    """A request; without `params` the URL has its own query."""

    url: str
    params: Mapping[str, str] | None


@dataclass(frozen=True)
class _Page:
    """One response: its text, and each of its records as bytes."""

    text: str
    records: Sequence[bytes]
    link: str | None


@dataclass(frozen=True)
class CursorPaginator:
    """Pages with a cursor to the next page at `path`, which is sent as `parameter`.

    counted: cursors of this API count records, so that they are read like numbered pages.

    Example:
        >>> from medallion_platform import CursorPaginator
        >>> CursorPaginator("cursor", path=("meta", "next_cursor")).parameter
        'cursor'
    """

    parameter: str
    path: tuple[str, ...]
    counted: bool = False

    def __post_init__(self) -> None:
        options.text("CursorPaginator parameter", self.parameter)
        path = options.texts("CursorPaginator path", self.path, once=False)
        if not path:
            raise DeclarationError("CursorPaginator path is empty: it leads to the cursor in a page")
        object.__setattr__(self, "path", path)

    def first(self, request: _Request) -> _Request:
        """The request for the first page."""
        return request

    def following(self, request: _Request, page: _Page) -> _Request | None:
        """The request for the next page; None where `page` is the last one."""
        cursor = _text_at_path(page.text, self.path)
        return replace(request, params={**(request.params or {}), self.parameter: cursor}) if cursor else None


@dataclass(frozen=True)
class PageNumberPaginator:
    """Pages with a number, sent as `parameter`, up to the first page without records.

    Example:
        >>> from medallion_platform import PageNumberPaginator
        >>> PageNumberPaginator("page").parameter
        'page'
    """

    parameter: str
    begin: int = 1
    counted = True

    def __post_init__(self) -> None:
        options.text("PageNumberPaginator parameter", self.parameter)
        options.whole("PageNumberPaginator begin", self.begin, least=0)

    def first(self, request: _Request) -> _Request:
        """The request for the first page."""
        return replace(request, params={**(request.params or {}), self.parameter: str(self.begin)})

    def following(self, request: _Request, page: _Page) -> _Request | None:
        """The request for the next page; None where `page` is the last one."""
        if not page.records:
            return None
        params = request.params or {}
        return replace(request, params={**params, self.parameter: str(int(params[self.parameter]) + 1)})


@dataclass(frozen=True)
class LinkHeaderPaginator:
    """Pages with a link to the next page in the `Link` header with `rel="next"` (RFC 8288).

    counted: False only if the links of this API are known to contain no page numbers.

    Example:
        >>> from medallion_platform import LinkHeaderPaginator
        >>> LinkHeaderPaginator(counted=False).counted
        False
    """

    counted: bool = True

    def first(self, request: _Request) -> _Request:
        """The request for the first page."""
        return request

    def following(self, request: _Request, page: _Page) -> _Request | None:
        """The request for the next page; None where `page` is the last one."""
        return _Request(page.link, None) if page.link else None


Paginator = CursorPaginator | PageNumberPaginator | LinkHeaderPaginator
"""The ways from one page to the next."""


@dataclass(frozen=True)
class RestSource(Source, kind="rest"):
    """Records of a resource of a REST API that become one bronze table.

    Every field of a record becomes a text column, as with `JsonLines`.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ById, ContractModel, Field, JsonLines
        >>> from medallion_platform import PageNumberPaginator, RestSource
        >>> class Readings(ContractModel):
        ...     station: T.StringType = Field()
        >>> readings = RestSource(
        ...     name="weather.readings",
        ...     table="bronze.readings",
        ...     contract=Readings.contract,
        ...     format=JsonLines(),
        ...     domain="weather",
        ...     url="https://weather.example/v1/readings",
        ...     since=ById("id", parameter="since_id"),
        ...     paging=PageNumberPaginator("page"),
        ... )
        >>> readings.every
        datetime.timedelta(seconds=900)
    """

    url: str = field(kw_only=True)
    """The URL of the resource, without user, query and fragment."""
    since: ById | ByTime = field(kw_only=True)
    """The growing field, and how to request the records from a value on. A record without it is a dead
    letter."""
    records: tuple[str, ...] = field(default=(), kw_only=True)
    """The path to the list of records in a page; empty: the page is the list."""
    paging: CursorPaginator | PageNumberPaginator | LinkHeaderPaginator = field(kw_only=True)
    """How to get from one page to the next."""
    params: Mapping[str, str] = field(default_factory=dict, kw_only=True, compare=False)
    """Query parameters of every request (page size, order, filters)."""
    token: Token | None = field(default=None, kw_only=True, repr=False, compare=False)
    """The login for the API: `EnvironmentToken`, `EnvironmentUser` or `ClientCredentials`."""
    every: timedelta = field(default=timedelta(minutes=15), kw_only=True)
    """The shortest time between two pulls."""

    def __post_init__(self) -> None:
        super().__post_init__()
        here = f"source {self.name!r}"
        records = options.texts(f"{here}: records", self.records, once=False)
        object.__setattr__(self, "records", records)
        options.text(f"{here}: url", self.url)
        options.duration(f"{here}: every", self.every, least=timedelta())
        options.instance(f"{here}: since", self.since, ById | ByTime, "ById(...) or ByTime(...)")
        options.instance(f"{here}: paging", self.paging, Paginator, "a paginator: CursorPaginator(...), ...")
        pages = "" if isinstance(self.paging, LinkHeaderPaginator) else self.paging.parameter
        for name in (self.since.parameter, pages):
            if name in self.params or self.since.parameter == pages:
                raise self.refused(f"the parameter {name!r} is asked for twice: by since, paging or params")
        for name, value in self.params.items():
            options.text(f"{here}: a name in params", name)
            if not isinstance(value, str):  # type: ignore[reportUnnecessaryIsInstance]
                raise self.refused(f"params: {name} is {value!r}, and not text")
        try:
            scheme = url_origin(self.url).partition(":")[0]
        except RequestError:
            scheme = ""
        if scheme not in ("http", "https") or public_url(self.url) != self.url:
            raise self.refused("the url is http(s), without user, query or fragment")
        if self.token is not None:
            refuse_unencrypted(self.url)
        if not isinstance(self.format, JsonLines):
            raise self.refused(f"records are JSON, not {self.format!r}")
        if self.since.ascending and self.paging.counted:
            raise self.refused(
                "where pages are counted, whatever the order, the position moves at the end of a pull only: "
                "leave out ascending"
            )

    @property
    def where(self) -> str:
        """The resource that it reads."""
        return f"resource `{self.url}`"

    @property
    def repeats(self) -> bool:
        """Pulls overlap."""
        return True

    def arrivals(self, context: SourceContext) -> Arrivals:
        """The resource as of now; no request is sent yet."""
        return Resource(self, context.at)


@dataclass(frozen=True)
class Resource:
    """A source as of `at`; requests are sent only when its records are read."""

    source: RestSource
    at: datetime
    notes: Sequence[str] = ()
    pieces: str = "pulls"

    def waiting(self, position: PositionOf) -> list[str]:
        """One item if a pull is due, else none."""
        pulled = position(_pull_time_log(self.source))
        if pulled is not None and self.at < _FIRST + pulled * _MICROSECOND + self.source.every:
            return []
        return [f"{self.source.name} {'' if pulled is None else f'since {pulled}'}".rstrip()]

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """The records from the position on, if a pull is due; a batch ends with a page."""
        if not self.waiting(position):
            return
        pull = _Pull(self.source, self.at, position)
        try:
            with HttpClient(self.source.url, self.source.token) as http:
                yield from pull.batches(http, rows, size)
        except RequestError as error:
            raise Unavailable(
                f"source {self.source.name}: {error}; what was taken in is safe, the next intake goes on "
                "from the table's position",
                kind=error.kind,
            ) from None


class _Pull:
    """One pull: the records since its last batch, and the greatest value so far."""

    def __init__(self, source: RestSource, at: datetime, position: PositionOf) -> None:
        self.source = source
        self.at = at
        self.begun = position(source.name)
        self.pulled = position(_pull_time_log(source)) or 0
        self.greatest = -1
        self.seen: set[tuple[int, int]] = set()
        self._start_batch()

    def _start_batch(self) -> None:
        self.frames: list[pl.DataFrame] = []
        self.rows = self.size = 0

    def batches(self, http: HttpClient, rows: int, size: int) -> Iterator[Batch]:
        """All records, in batches; the last batch stores the time of the pull."""
        since, counted = self.source.since, self.source.paging.counted
        for reading in range(READINGS):
            before, pages, missed = self.greatest, 0, False
            for page in self._read_pages(http):
                pages += 1
                frame = _page_frame(self.source, page.records, pages)
                if reading:
                    frame = self._drop_seen(frame)
                    missed = missed or bool((frame["_offset"] <= before).any())
                self._add_page(frame, len(page.text))
                if self.rows >= rows or self.size >= size:
                    yield self._gathered_batch(self._position_after(self.greatest) if since.ascending else {})
            if not counted or pages == 1 or (reading and not missed):
                # What came since the reading before may have been passed over by this one.
                reached = self._position_after(before if reading else self.greatest)
                pulled = max((self.at - _FIRST) // _MICROSECOND, self.pulled)
                yield self._gathered_batch(reached | {_pull_time_log(self.source): pulled})
                return
        yield self._gathered_batch({})
        raise RequestError(
            f"{self.source.url} did not hold still: each of {READINGS} readings of its pages found records "
            "that the one before had passed over",
            kind=Kind.TRANSIENT,
        )

    def _read_pages(self, http: HttpClient) -> Iterator[_Page]:
        """Read all pages once."""
        source, paging = self.source, self.source.paging
        params = dict(source.params)
        if self.begun is not None:
            params[source.since.parameter] = source.since.since(self.begun)
        request: _Request | None = paging.first(_Request(source.url, params))
        asked: set[str] = set()
        last, same = 0, 0
        while request:
            if str(request) in asked:
                raise RequestError(f"{source.url}: its pages link in a circle")
            asked.add(str(request))
            page = _parse_page(source, http.get(request.url, request.params))
            yield page
            last, before = hash(page.text), last
            same = same + 1 if page.records and last == before else 0
            if same == _SAME:
                raise RequestError(f"{source.url} returns the same page again and again")
            request = paging.following(request, page)

    def _drop_seen(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The records that no earlier page contained."""
        return frame.filter([p not in self.seen for p in zip(frame["_offset"], frame["_row"], strict=True)])

    def _add_page(self, frame: pl.DataFrame, size: int) -> None:
        """Add a page to the batch."""
        if frame.is_empty():
            return
        self.frames.append(frame)
        self.rows += frame.height
        self.size += size
        latest = self.source.since.latest(self.at)
        self.greatest = max([self.greatest, *(o for o in frame["_offset"] if o <= latest)])
        if self.source.paging.counted:
            self.seen.update(zip(frame["_offset"], frame["_row"], strict=True))

    def _position_after(self, greatest: int) -> dict[str, int]:
        """The position after the greatest value; it never goes back."""
        return {self.source.name: max(greatest + 1, self.begun or 0)}

    def _gathered_batch(self, positions: Mapping[str, int]) -> Batch:
        """The gathered records as a batch; the next batch starts empty."""
        frame = pl.concat(self.frames, how="diagonal_relaxed") if self.frames else pl.DataFrame()
        self._start_batch()
        return Batch(frame, (), positions)


def _pull_time_log(source: RestSource) -> str:
    """The log name under which the time of the last pull is stored, in microseconds since 1970."""
    return f"{source.name}@pulled"


def _parse_page(source: RestSource, answer: HttpResponse) -> _Page:
    """The records of a response with their exact text; some may be no JSON."""
    encoding, body = "utf-8", answer.body.removeprefix(BOM_UTF8)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        # Every byte is one character: a record that does not decode keeps its bytes.
        encoding = "latin-1"
        text = body.decode(encoding)
    items = split_list(_text_at_path(text, source.records) or "")
    if items is None:
        place = f"a list at {'.'.join(source.records)}" if source.records else "a list"
        raise RequestError(f"{source.url} returns a page that is not JSON with {place}")
    return _Page(text, [item.encode(encoding) for item in items], answer.link)


def _text_at_path(text: str, path: Sequence[str]) -> str | None:
    """The text of the value at `path` in a page; None if it is missing or null."""
    value: str | None = text
    for name in path:
        value = (split_object(value or "") or {}).get(name)
    return value


def _page_frame(source: RestSource, records: Sequence[bytes], page: int) -> pl.DataFrame:
    """Records with their provenance. A record without a valid `since` value has the offset 0."""
    field = source.since.field
    declared = (field, *source.contract.column_names)
    frame = source.format.parse(records, declared=declared)
    name = frame_column(field)
    text = frame[name] if name in frame.columns else pl.Series([None] * frame.height, dtype=pl.String)
    offsets = source.since.offsets(text)
    placed = offsets.is_between(0, _GREATEST).fill_null(False)
    return frame.with_columns(
        pl.when(placed | pl.col("_malformed").is_not_null())
        .then(pl.col("_malformed"))
        .otherwise(pl.lit(f"{field} is no {source.since.kind}"))
        .alias("_malformed"),
        pl.lit(source.name).alias("_source"),
        pl.lit(f"{source.url} page {page}").alias("_file"),
        pl.Series("_row", [_record_fingerprint(r) for r in records], dtype=pl.Int64),
        pl.when(placed).then(offsets).otherwise(0).alias("_offset"),
    )


def _record_fingerprint(record: bytes) -> int:
    """A number from 1 to 2**63 - 1 of a record's bytes."""
    return int.from_bytes(blake2b(record, digest_size=8).digest()) >> 1 or 1
