"""The paths of a data file: below its table, in the Delta log, in Spark, and in the folders of its partition.

The platform identifies a file by its path below the table's folder, as on the disk or in the bucket:
`region=Graz%3A West/part-0.parquet`. The Delta log has that path percent-encoded once more ("Data Files" of
Delta's protocol), Spark has it after the table's folder in a URI. All translation is done here, because two
spellings of one file would otherwise be compared as two files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from urllib.parse import unquote

from medallion_platform.contracts.folders import HIVE_NULL, partition_folder
from medallion_platform.errors import Kind, MedallionError


class UnknownFile(MedallionError):
    """Spark read a file that does not belong to the table."""

    kind = Kind.PERMANENT


def path_below_table(in_log: str) -> str:
    """A file's path below its table, from its path in the Delta log."""
    return unquote(in_log)


def paths_from_spark(uris: Iterable[str], root: str, files: Iterable[str]) -> set[str]:
    """The paths, below their table, of files that Spark names by URIs; each is one of `files`.

    uris: of `_metadata.file_path`. root: the table's folder as Spark names it. files: paths below the table.

    Raises:
        UnknownFile: one of them is not among the table's files.
    """
    folder = f"{_unescape_uri(root)}/"
    found = {_unescape_uri(uri).removeprefix(folder) for uri in uris}
    if other := found - set(files):
        raise UnknownFile(f"Spark read {sorted(other)[0]}, which the log of {root} does not name")
    return found


def partition_value_text(value: object) -> str | None:
    """A partition value as text in the Delta log ("Partition Value Serialization" of Delta's protocol)."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value
        return moment.replace(tzinfo=None).isoformat(" ")
    return str(value)


def partition_values_in_path(path: str) -> dict[str, str | None]:
    """The partition values in the folder names of a path, by column."""
    pairs = (part.split("=", 1) for part in path.split("/")[:-1])
    return {unquote(c): None if v == HIVE_NULL else unquote(v) for c, v in pairs}


def partition_file_path(folders: Mapping[str, str | None], name: str) -> str:
    """The path of a partition's file below its table."""
    return "/".join([*(partition_folder(column, value) for column, value in folders.items()), name])


def _unescape_uri(uri: str) -> str:
    """A URI without escapes. Hadoop writes `file:/x` in one place and `file:///x` in another."""
    return re.sub("^file:/+", "/", unquote(uri))
