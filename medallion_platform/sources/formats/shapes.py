"""The fast way through JSON lines: records of one producer have few shapes.

A shape is what a record looks like without its values: the literal text between them. Once taken
from one record, whether others have the same shape, and where their values stand, is arithmetic on
the places of quotes, for all records of a block at once. What has no shape (odd escapes, lists of
varying length, damage) is left to the scanner in `jsonlines`, which defines what is right; a shape
never accepts what the scanner refuses, and gives the same text.
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
    """A record that the arithmetic cannot handle."""


@dataclass(frozen=True)
class Edge:
    """A place in a record: so many bytes into the literal number so much."""

    literal: int
    place: int


@dataclass(frozen=True)
class Nesting:
    """An object or list in a shape, from one edge to the other."""

    start: Edge
    end: Edge


@dataclass
class Shape:
    """The literals of a record, one before each value and one behind the last."""

    literals: list[bytes] = field(default_factory=list)
    nodes: dict[Path, int | Nesting] = field(default_factory=dict)
    """Each value by its path: the number of its leaf, or the extent of an object or list."""
    children: dict[Path, list[str]] = field(default_factory=dict)
    """The keys of each object, each once."""

    @property
    def leaves(self) -> int:
        """How many values vary."""
        return len(self.literals) - 1


def shape_of(record: bytes, scan: Scan) -> Shape:
    """The shape of a record. `scan` finds the end of a value, and knows what is right."""
    # every byte is one character, so that places in the text are places in the record
    text = record.decode("latin-1")
    shape = Shape()
    begun = 0

    def edge(place: int) -> Edge:
        return Edge(len(shape.literals), place - begun)

    def space(place: int) -> int:
        while record[place] in _SPACE:
            place += 1
        return place

    def leaf(path: Path | None, place: int, end: int) -> int:
        nonlocal begun
        if path is not None:
            shape.nodes[path] = len(shape.literals)
        shape.literals.append(record[begun:place])
        begun = end
        if len(shape.literals) > _MOST_LEAVES or place - begun > _LONGEST_LITERAL:
            raise NoShape
        return end

    def value(path: Path | None, place: int) -> int:
        mark = text[place]
        if mark == "{":
            start = edge(place)
            place = space(place + 1)
            keys: dict[str, None] = {}
            while text[place] != "}":
                end = text.index('"', place + 1)
                key = record[place + 1 : end]
                if b"\\" in key:
                    raise NoShape
                name = key.decode()
                if name in keys:
                    raise NoShape  # the last one counts: left to the scanner
                keys[name] = None
                place = space(space(end + 1) + 1)
                place = space(value(None if path is None else (*path, name), place))
                if text[place] == ",":
                    place = space(place + 1)
            if path is not None:
                shape.children[path] = list(keys)
                shape.nodes[path] = Nesting(start, edge(place + 1))
            return place + 1
        _, end = scan(text, place)
        if mark == "[" and end - place > 2:
            inner = text[place:end]
            if '"' not in inner and "{" not in inner:
                raise NoShape  # numbers have no quotes to count on
            start = edge(place)
            place = space(place + 1)
            while text[place] != "]":
                place = space(value(None, place))
                if text[place] == ",":
                    place = space(place + 1)
            if path is not None:
                shape.nodes[path] = Nesting(start, edge(place + 1))
            return place + 1
        return leaf(path, place, end)

    try:
        _, end = scan(text, space(0))
        if record[end:].strip(_SPACE) or text[space(0)] != "{":
            raise NoShape
        value((), space(0))
    except (IndexError, ValueError, RecursionError, StopIteration) as error:
        raise NoShape from error
    shape.literals.append(record[begun:])
    if any(len(literal) > _LONGEST_LITERAL for literal in shape.literals):
        raise NoShape
    if record.count(b'"') > _MOST_QUOTES:
        raise NoShape
    return shape


@dataclass
class ShapeMatch:
    """Records of one shape, and where their values are."""

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
        """Where the value at `path` starts and ends, whether it is a string, whether it is null."""
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
        """Those of the records that fit."""
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
        """Which slices have a backslash in them."""
        at = self.backslashes
        return np.searchsorted(at, starts) < np.searchsorted(at, ends)


def match(
    block: Block, quotes: Quotes, shape: Shape, starts: Ints, ends: Ints, rows: Ints
) -> ShapeMatch | None:
    """Those of `rows` that have the shape, with their values, all of which are right."""
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
    if len(quotes.backslashes):
        fits = _escaped_well(block, quotes, found, ends, fits)
    found = found.only(fits)
    return found if len(found.rows) else None


def _escaped_well(block: Block, quotes: Quotes, found: ShapeMatch, ends: Ints, fits: Bools) -> Bools:
    """Those of the records that fit whose strings have none but good escapes, at any depth."""
    fits = fits.copy()
    escaping = np.flatnonzero(fits & quotes.escapes(found.literal_at[0], ends[found.rows]))
    for start, end, text in zip(found.value_at, found.value_end, found.is_text, strict=True):
        at = escaping[text[escaping] & quotes.escapes(start[escaping], end[escaping])]
        if len(at):
            right = block.texts(start[at], end[at] - start[at]).str.contains(_ESCAPED)
            fits[at[~right.to_numpy()]] = False
    return fits


class Shapes:
    """The shapes that were met in a file so far, the most frequent first."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.known: list[Shape] = []

    def matched(
        self, block: Block, quotes: Quotes, starts: Ints, ends: Ints, rows: Ints
    ) -> Iterator[ShapeMatch]:
        """The records among `rows` that have a shape, shape by shape. A row comes once at most."""
        hits: list[tuple[int, Shape]] = []
        left = rows
        for shape in self.known:
            if not len(left):
                break
            found = match(block, quotes, shape, starts, ends, left)
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
            found = match(block, quotes, shape, starts, ends, left)
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
