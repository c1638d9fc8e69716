"""The fast way through JSON lines: records of one producer have few shapes.

A shape is the literal text between the values of a record. It is taken from one record; arithmetic on the
places of quotes then shows, for all records of a block at once, which others have the same shape and where
their values are. Records without a shape (odd escapes, lists of varying length, damage) are left to the
scanner in `jsonlines`, which defines what is correct: a shape accepts nothing that the scanner refuses, and
gives the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from medallion_platform.sources.formats.slices import PADDING, Block, Bools, Ints

Path = tuple[str, ...]
Scan = Callable[[str, int], tuple[object, int]]

_MOST_LEAVES = 400
_MOST_QUOTES = 4000
_LONGEST_LITERAL = PADDING - 64
_SPACE = b" \t\r\n"
_BARE = (
    r"^(?:null|true|false|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
    r"|\[[ \t\r\n]*\])$"
)
_HEX = "[0-9a-fA-F]"
_ESCAPED = (
    rf"""^(?:[^\\]|\\["\\/bfnrt]|\\u(?:[0-9a-ce-fA-CE-F]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}})"""
    rf"|\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}})*$"
)
"""The content of a string whose escapes are all right; half of a surrogate pair is for the scanner."""


class NoShape(Exception):
    """A record has no shape that can be handled by arithmetic on bytes."""


@dataclass(frozen=True)
class Edge:
    """A place in a record: the index of a literal, and the number of bytes into it."""

    literal: int
    place: int


@dataclass(frozen=True)
class Nesting:
    """An object or list in a shape, from one edge to the other."""

    start: Edge
    end: Edge


@dataclass
class Shape:
    """The literals of a record: one before each value and one after the last."""

    literals: list[bytes] = field(default_factory=list)
    nodes: dict[Path, int | Nesting] = field(default_factory=dict)
    """Each value by its path: the number of its leaf, or the extent of an object or list."""
    children: dict[Path, list[str]] = field(default_factory=dict)
    """The keys of each object, each once."""

    @property
    def leaves(self) -> int:
        """The number of variable values."""
        return len(self.literals) - 1


def shape_of(record: bytes, scan: Scan) -> Shape:
    """The shape of a record. scan: finds the end of a value, and checks that it is valid.

    Raises:
        NoShape: it is no JSON object, or one that the scanner has to read.
    """
    try:
        return _ShapeReader(record, scan).read()
    except (IndexError, ValueError, RecursionError, StopIteration) as error:
        raise NoShape from error


class _ShapeReader:
    """Goes through a record once. Its methods return the place behind what they read."""

    def __init__(self, record: bytes, scan: Scan) -> None:
        self.record = record
        # every byte is one character, so that places in the text are places in the record
        self.text = record.decode("latin-1")
        self.scan = scan
        self.shape = Shape()
        self.begun = 0
        """Where the current literal begins."""

    def read(self) -> Shape:
        begin = self._behind_space(0)
        _, end = self.scan(self.text, begin)
        if self.record[end:].strip(_SPACE) or self.text[begin] != "{":
            raise NoShape
        self._value((), begin)
        self.shape.literals.append(self.record[self.begun :])
        if any(len(literal) > _LONGEST_LITERAL for literal in self.shape.literals):
            raise NoShape
        if self.record.count(b'"') > _MOST_QUOTES:
            raise NoShape
        return self.shape

    def _value(self, path: Path | None, place: int) -> int:
        """path: None within a list, whose values have none."""
        mark = self.text[place]
        if mark == "{":
            return self._object(path, place)
        _, end = self.scan(self.text, place)
        if mark == "[" and end - place > 2:
            inner = self.text[place:end]
            if '"' not in inner and "{" not in inner:
                raise NoShape  # numbers have no quotes to count on
            return self._list(path, place)
        return self._leaf(path, place, end)

    def _object(self, path: Path | None, place: int) -> int:
        start = self._edge(place)
        place = self._behind_space(place + 1)
        keys: dict[str, None] = {}
        while self.text[place] != "}":
            end = self.text.index('"', place + 1)
            key = self.record[place + 1 : end]
            if b"\\" in key:
                raise NoShape
            name = key.decode()
            if name in keys:
                raise NoShape  # the last one counts: left to the scanner
            keys[name] = None
            place = self._behind_space(self._behind_space(end + 1) + 1)
            place = self._behind_value(None if path is None else (*path, name), place)
        if path is not None:
            self.shape.children[path] = list(keys)
            self.shape.nodes[path] = Nesting(start, self._edge(place + 1))
        return place + 1

    def _list(self, path: Path | None, place: int) -> int:
        start = self._edge(place)
        place = self._behind_space(place + 1)
        while self.text[place] != "]":
            place = self._behind_value(None, place)
        if path is not None:
            self.shape.nodes[path] = Nesting(start, self._edge(place + 1))
        return place + 1

    def _leaf(self, path: Path | None, place: int, end: int) -> int:
        if path is not None:
            self.shape.nodes[path] = len(self.shape.literals)
        self.shape.literals.append(self.record[self.begun : place])
        self.begun = end
        if len(self.shape.literals) > _MOST_LEAVES:
            raise NoShape
        return end

    def _behind_value(self, path: Path | None, place: int) -> int:
        """Reads a value within an object or a list, with the comma behind it."""
        place = self._behind_space(self._value(path, place))
        return self._behind_space(place + 1) if self.text[place] == "," else place

    def _behind_space(self, place: int) -> int:
        while self.record[place] in _SPACE:
            place += 1
        return place

    def _edge(self, place: int) -> Edge:
        return Edge(len(self.shape.literals), place - self.begun)


@dataclass
class ShapeMatch:
    """Records of one shape, and the places of their values."""

    shape: Shape
    rows: Ints
    """Which of the records asked about."""
    literal_at: list[Ints] = field(default_factory=list)
    """The start of each literal, in each record."""
    value_at: list[Ints] = field(default_factory=list)
    """The start of each value's text (of a string: of its content)."""
    value_end: list[Ints] = field(default_factory=list)
    is_text: list[Bools] = field(default_factory=list)
    """Whether the value is a string."""
    is_null: list[Bools | None] = field(default_factory=list)
    """Whether the value is null; None where none is."""

    def value(self, path: Path) -> tuple[Ints, Ints, Bools | None, Bools | None]:
        """The start and end of the value at `path`, whether it is a string, and whether it is null."""
        node = self.shape.nodes[path]
        if isinstance(node, int):
            text, null = self.is_text[node], self.is_null[node]
            return self.value_at[node], self.value_end[node], text, null
        return (
            self.literal_at[node.start.literal] + node.start.place,
            self.literal_at[node.end.literal] + node.end.place,
            None,
            None,
        )

    def only(self, fits: Bools) -> ShapeMatch:
        """Only the records that fit."""
        if fits.all():
            return self
        return ShapeMatch(
            self.shape,
            self.rows[fits],
            [a[fits] for a in self.literal_at],
            [a[fits] for a in self.value_at],
            [a[fits] for a in self.value_end],
            [a[fits] for a in self.is_text],
            [None if a is None else a[fits] for a in self.is_null],
        )


class Quotes:
    """The places of a block's quotes that are not escaped, and of its backslashes."""

    def __init__(self, block: Block) -> None:
        found = block.find(0x22)
        self.backslashes = block.find(0x5C)
        if len(self.backslashes):
            at = self.backslashes
            begins = np.concatenate([[True], at[1:] != at[:-1] + 1])
            run = np.flatnonzero(begins)
            nth = np.arange(len(at)) - np.repeat(run, np.diff(np.append(run, len(at))))
            escaped = np.zeros(block.size + 1, np.bool_)
            escaped[at[(nth & 1) == 0] + 1] = True
            found = found[~escaped[found]]
        self.count = len(found)
        # behind the last, so that a record may ask for more than there are
        self.places = np.concatenate([found, np.full(_MOST_QUOTES + 2 * _MOST_LEAVES + 2, block.size)])

    def escapes(self, starts: Ints, ends: Ints) -> Bools:
        """Which slices contain a backslash."""
        at = self.backslashes
        return np.searchsorted(at, starts) < np.searchsorted(at, ends)


def match_shape(
    block: Block, quotes: Quotes, shape: Shape, starts: Ints, ends: Ints, rows: Ints
) -> ShapeMatch | None:
    """The `rows` that have the shape, with their values, all of which are valid."""
    located = _locate_values(block, quotes, shape, starts, ends, rows)
    if located is None:
        return None
    found, fits = located
    fits = _has_valid_bare_values(block, found, fits)
    if len(quotes.backslashes):
        fits = _has_valid_escapes(block, quotes, found, ends, fits)
    found = found.only(fits)
    return found if len(found.rows) else None


def _locate_values(
    block: Block, quotes: Quotes, shape: Shape, starts: Ints, ends: Ints, rows: Ints
) -> tuple[ShapeMatch, Bools] | None:
    """Where the literals and values of records are if they have the shape, and which of them do; None: none.

    Records that do not are dropped on the way where there are many of them.
    """
    found = ShapeMatch(shape, rows)
    at = starts[rows]
    quote = np.searchsorted(quotes.places[: quotes.count], at)
    alive: Bools | None = None
    for i, literal in enumerate(shape.literals):
        fits = block.literal_at(at, literal)
        if not fits.all():
            alive = fits if alive is None else alive & fits
            left = int(np.count_nonzero(alive))
            if not left:
                return None
            # to drop records costs as much as to take some along that have failed
            if left < 0.9 * len(alive):
                found, at, quote, alive = found.only(alive), at[alive], quote[alive], None
        if alive is not None:
            at = np.minimum(at, block.size)
        found.literal_at.append(at)
        at = at + len(literal)
        if i == shape.leaves:
            break
        quote = quote + literal.count(b'"')
        text = block.bytes[at] == 0x22
        if text.all():
            start = at + 1
            end = quotes.places[quote + 1]
            at = end + 1
            quote = quote + 2
        else:
            following = shape.literals[i + 1]
            if i + 1 == shape.leaves and b'"' not in following:
                bare_end = ends[found.rows] - len(following)
            else:
                # without a quote in what follows, this is no end: the bare value is refused below
                bare_end = quotes.places[quote] - following.find(b'"')
            start = at + text
            end = np.where(text, quotes.places[quote + 1], bare_end)
            # a bare value never ends before it starts, so that places only go forward
            at = np.maximum(end, at) + text
            quote = quote + 2 * text
        found.value_at.append(start)
        found.value_end.append(end)
        found.is_text.append(text)
    fits = at == ends[found.rows]
    if alive is not None:
        fits &= alive
    return found, fits


def _has_valid_bare_values(block: Block, found: ShapeMatch, fits: Bools) -> Bools:
    """Which of the records that fit have only valid values outside of quotes; notes which are null."""
    bares: list[tuple[Ints, Ints, Ints]] = []
    for start, end, text in zip(found.value_at, found.value_end, found.is_text, strict=True):
        if text.all():
            found.is_null.append(None)
            continue
        null = ~text & (end - start == 4) & fits
        if null.any():
            null[null] = block.literal_at(start[null], b"null")
        found.is_null.append(null)
        bare = np.flatnonzero(~(text | null))
        if len(bare):
            fits[bare] &= end[bare] > start[bare]
            bare = bare[fits[bare]]
            bares.append((bare, start[bare], end[bare]))
    if bares:
        bare, start, end = (np.concatenate(arrays) for arrays in zip(*bares, strict=True))
        # it ends where the next literal was found, so it does not cut a character
        right = block.texts(start, end - start).str.contains(_BARE)
        if not right.all():
            fits[bare[~right.to_numpy()]] = False
    return fits


def _has_valid_escapes(block: Block, quotes: Quotes, found: ShapeMatch, ends: Ints, fits: Bools) -> Bools:
    """Which of the records have only valid escapes in their strings, at any depth."""
    fits = fits.copy()
    escaping = np.flatnonzero(fits & quotes.escapes(found.literal_at[0], ends[found.rows]))
    for start, end, text in zip(found.value_at, found.value_end, found.is_text, strict=True):
        at = escaping[text[escaping] & quotes.escapes(start[escaping], end[escaping])]
        if len(at):
            right = block.texts(start[at], end[at] - start[at]).str.contains(_ESCAPED)
            fits[at[~right.to_numpy()]] = False
    return fits


class Shapes:
    """The shapes that were found in a file so far, most frequent first."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.known: list[Shape] = []

    def matched(
        self, block: Block, quotes: Quotes, starts: Ints, ends: Ints, rows: Ints
    ) -> Iterator[ShapeMatch]:
        """The records among `rows` that have a known shape, shape by shape; each row at most once."""
        hits: list[tuple[int, Shape]] = []
        left = rows
        for shape in self.known:
            if not len(left):
                break
            found = match_shape(block, quotes, shape, starts, ends, left)
            hits.append((0 if found is None else len(found.rows), shape))
            if found is not None:
                left = np.setdiff1d(left, found.rows, assume_unique=True)
                yield found
        skipped = 0
        # a new shape pays when enough records have it; a few misses in a row say that few do
        while len(left) - skipped >= 8 and skipped < 16 and len(hits) < 64:
            row = int(left[skipped])
            try:
                shape = shape_of(block.get(int(starts[row]), int(ends[row])), self.scan)
            except NoShape:
                skipped += 1
                continue
            found = match_shape(block, quotes, shape, starts, ends, left)
            if found is None or len(found.rows) < 8 or row not in found.rows:
                skipped += 1
                if found is None or row not in found.rows:
                    continue
            assert found is not None
            hits.append((len(found.rows), shape))
            left = np.setdiff1d(left, found.rows, assume_unique=True)
            yield found
        hits.sort(key=lambda hit: -hit[0])
        self.known = [shape for count, shape in hits[:32] if count >= 8]
