"""Folder names of partitions, and which texts can be partition values.

A partition value becomes the name of a folder. Characters with a special meaning for file systems and
patterns are written as `%XX`, by Spark's rules, in both engines. The empty text is not allowed, because
Delta's protocol ("Partition Value Serialization") treats it as null.
"""

from __future__ import annotations

import re

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Stands for null in a folder's name."""

FOLDER_BYTES = 255
"""What the usual file systems allow for one name."""

ESCAPED = r"""[\x01-\x1f"#%'*/:=?\\\x7f{\[\]^]"""
"""The characters that are written as `%XX`; means the same to Python, Java and Rust."""

_ESCAPED = re.compile(ESCAPED)


def escape_folder_name(text: str) -> str:
    """A column's name or value as it stands in a folder's name."""
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", text)


def partition_folder(column: str, value: str | None) -> str:
    """The folder of a partition: `region=Graz%3A West`."""
    return f"{escape_folder_name(column)}={HIVE_NULL if value is None else escape_folder_name(value)}"


def longest_partition_value(column: str) -> int:
    """The bytes that a value of a partition column may have in its folder's name."""
    return FOLDER_BYTES - len(f"{escape_folder_name(column)}=".encode())
