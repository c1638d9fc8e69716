"""The constants of a declaration, as values of the types of columns."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from medallion_platform.contracts.contract import ColumnType, Value


def constant(value: Any, type: ColumnType) -> Value:
    """A constant of a declaration as a value of the column's type; a ValueError says why it is none.

    So a comparison is between equal types in every engine: 0.1 for a `float` column is the 32-bit
    0.1, where pandera would compare with the 64-bit one in Spark and with the 32-bit one in polars.
    """
    kind = type.kind
    if kind == "string":
        if not isinstance(value, str):
            raise ValueError("not text")
        return value
    if kind == "boolean":
        if not isinstance(value, bool):
            raise ValueError("neither True nor False")
        return value
    if isinstance(value, bool):
        raise ValueError("True and False are not numbers here")
    if kind in ("integer", "long"):
        return _integer(value, 32 if kind == "integer" else 64)
    if kind in ("float", "double"):
        return _float(value, 32 if kind == "float" else 64)
    if kind == "decimal":
        return _decimal(value, type)
    if kind == "date":
        if isinstance(value, str):
            value = date.fromisoformat(value)
        if isinstance(value, datetime) or not isinstance(value, date):
            raise ValueError("not a date")
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError("not a datetime")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _integer(value: Any, bits: int) -> int:
    if not isinstance(value, int | float | Decimal) or value != int(value):
        raise ValueError("not a whole number")
    whole = int(value)
    if not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
        raise ValueError(f"beyond {bits} bits")
    return whole


def _float(value: Any, bits: int) -> float:
    number = float(value)
    if math.isnan(number):
        raise ValueError("NaN compares with nothing")
    if bits == 32 and math.isfinite(number):
        number = struct.unpack("f", struct.pack("f", number))[0]
    return number + 0.0  # -0.0 is 0.0


def _decimal(value: Any, type: ColumnType) -> Decimal:
    number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise ValueError("not a number")
    quantum = Decimal(1).scaleb(-type.scale)
    whole = number.quantize(quantum) if abs(number) < Decimal(10) ** 28 else number
    if whole != number:
        raise ValueError(f"more than {type.scale} digits after the point")
    if abs(number) >= Decimal(10) ** (type.precision - type.scale):
        raise ValueError(f"more than {type.precision - type.scale} digits before the point")
    return whole
