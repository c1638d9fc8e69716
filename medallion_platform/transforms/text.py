"""Text as people type it, made comparable."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

BLANKS = " \t\n\r\f\v\u00a0\u2007\u202f\u3000\ufeff"
"""What no value begins or ends with; some of them only spreadsheets and browsers write."""


def trimmed(column: str) -> Column:
    """The text without blanks around it; null where nothing is left."""
    return F.nullif(F.btrim(F.col(column), F.lit(BLANKS)), F.lit(""))
