"""Codes for programs that say why a record is a dead letter; people read the sentence beside them."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """What happened to a record, or to a whole piece of a log; what a letter's `detail` says of it."""

    VIOLATES = "violates"
    """It breaks its contract."""
    MALFORMED = "malformed"
    """It does not parse."""
    UNDECODED = "undecoded"
    """It is no text of its encoding; the payload is its bytes as they came."""
    TOO_LONG = "too_long"
    """It is too long to be a row or a payload. `bytes`: its length, `at`: the bytes before it in the text of
    the file, `kept`: where that lies in quarantine, or null."""
    UNREADABLE = "unreadable"
    """A file cannot be read at all. `kept`: where it lies in quarantine, or null; `why`: a `Damage`."""
    LOST = "lost"
    """A file was not there, or another, when it should be read. `from_row`: the first record not taken;
    `why`: a `Damage`."""
    POISON = "poison"
    """It ended every process that read it. The payload is its bytes as they came; of a file that cannot be
    divided `kept`: where it lies in quarantine, or null; `from_row`: the first record not taken."""
    GAP = "gap"
    """Offsets of a partition are gone. `first`, `last`: the range; `last` is null where nobody knows it."""


class Damage(StrEnum):
    """Why a file cannot be read: `why` in the `detail` of its dead letter, beside the fields named here."""

    COMPRESSION = "compression"
    """It was compressed, and that is damaged. `codec`: gzip, xz, bz2, zstd, zip."""
    ARCHIVE = "archive"
    """A zip archive does not hold one file. `files`: how many."""
    ENCODING = "encoding"
    """It is no text of its `encoding`."""
    HEADER = "header"
    """What stands in the place of its header cannot be one."""
    OTHER_COLUMNS = "other_columns"
    """Its header is another source's. `found`, `expected`: the first names of both."""
    CONTENT = "content"
    """It is not of its `format`."""
    REMOVED = "removed"
    """It was removed before it was read."""
    CHANGED = "changed"
    """Its content changed before it was read."""
    LINK = "link"
    """A link that leads elsewhere is in its place."""
    NO_FILE = "no_file"
    """A folder, pipe or device is in its place."""
    REFUSED = "refused"
    """The system does not give it. `errno`: its name, as EACCES."""


class Rule(StrEnum):
    """What an expectation asks of a column or a row; `broken` tells which ones a row broke."""

    TYPE = "type"
    """It can be read as the column's type; the bound is its name."""
    NOT_NULL = "not_null"
    EQUAL_TO = "equal_to"
    OTHER_THAN = "other_than"
    AT_LEAST = "at_least"
    ABOVE = "above"
    AT_MOST = "at_most"
    BELOW = "below"
    BETWEEN = "between"
    """The bound has two of the four rules before."""
    ONE_OF = "one_of"
    NONE_OF = "none_of"
    MATCHES = "matches"
    """A pattern, as it was declared, is found in the text."""
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"
    LENGTH = "length"
    """Characters of a text; the bound says `at_least` and `at_most`."""
    NAMES_FOLDER = "names_folder"
    """It can name a folder of the table: not empty, `at_most` so many bytes."""
    UNIQUE = "unique"
    """No other row has the same values in these columns."""
    VALUES = "values"
    """All values of the column together are these."""
    SQL = "sql"
    """An expression over several columns holds."""
