"""The language of row expectations: boolean SQL over the columns of one row.

It is read once, at import, and checked against the columns' types; an engine only translates the tree.
So an unknown column, a comparison of text with a number, or a function that the engines understand
differently is an error where it is written, and both engines mean the same by it:

- `= == <> != < <= > >=`, `between .. and ..`, `in (..)`, `like '..'`, `rlike '..'`, `is [not] null`,
  `and`, `or`, `not`, parentheses;
- `+ - *`, `/` (floating; by zero is null), unary `-`; whole numbers never overflow;
- timestamp - timestamp, timestamp +- interval, interval comparisons; date - date (days);
- `length(text)`, `abs(number)`, `coalesce(..)`, `date(timestamp)` (the day in UTC);
- literals: numbers, 'text', true, false, date '2024-01-31', timestamp '2024-01-31 10:00:00Z',
  interval 30 minutes; names may be quoted with backticks or double quotes.

Null follows SQL's three values; NaN equals itself and is above all numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from medallion_platform.contracts.contract import Column
from medallion_platform.contracts.patterns import portable_pattern

_TOKENS = re.compile(
    r"""\s*(?:
      (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
    | '(?P<text>(?:[^']|'')*)'
    | `(?P<quoted>(?:[^`]|``)+)` | "(?P<double>(?:[^"]|"")+)"
    | (?P<word>[^\W\d]\w*)
    | (?P<sign><=|>=|<>|!=|==|[-+*/(),=<>])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_UNITS = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": 1_000_000,
    "minute": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
    "week": 604_800_000_000,
}
_COMPARISONS = {
    "=": "eq", "==": "eq", "<>": "ne", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
}  # fmt: skip
_RESERVED = {
    "and", "or", "not", "between", "in", "like", "rlike", "is", "null", "true", "false",
    "case", "when", "then", "else", "end", "cast", "select", "from", "exists",
}  # fmt: skip
_MOST_BITS = 126


class SqlError(ValueError):
    """The expression cannot be read, or its types do not fit."""


@dataclass(frozen=True)
class SqlType:
    """The type of an expression. `bits` bounds a whole number, an interval or an instant."""

    kind: str  # boolean string int float decimal date timestamp interval
    bits: int = 0
    precision: int = 0
    scale: int = 0

    @property
    def wide(self) -> bool:
        """Whether a computed whole number may need more than 64 bits."""
        return self.kind in ("int", "interval") and self.bits > 63


@dataclass(frozen=True)
class Node:
    """An operation on its arguments, or a leaf ("column", "literal") with its value."""

    operation: str
    type: SqlType
    arguments: tuple[Node, ...] = ()
    value: Any = None


_BOOLEAN = SqlType("boolean")
_FLOAT = SqlType("float")


def columns_in_sql(text: str, columns: Mapping[str, Column]) -> tuple[str, ...]:
    """The columns that a boolean expression uses, in the order of the table; or a SqlError."""
    found: set[str] = set()

    def walk(node: Node) -> None:
        if node.operation == "column":
            found.add(node.value)
        for argument in node.arguments:
            walk(argument)

    walk(parse_sql(text, tuple(columns.values())))
    if not found:
        raise SqlError("speaks of no column")
    return tuple(name for name in columns if name in found)


@lru_cache(maxsize=1024)
def parse_sql(text: str, columns: tuple[Column, ...]) -> Node:
    """The tree of a boolean expression over these columns."""
    parser = _Parser(text, {column.name: column for column in columns})
    node = parser.disjunction()
    if parser.kind != "end":
        raise SqlError(f"cannot be read from {parser.shown!r} on")
    if node.type.kind != "boolean":
        raise SqlError(f"is a {node.type.kind}, not a condition")
    return _without_nan(node, passes=True)


def _without_nan(node: Node, *, passes: bool) -> Node:
    """The same condition where NaN passes no bound: not `x >= 0`, and not `not x < 0` either.

    passes: whether the row passes where the node is true; else where it is false.
    """
    if node.type.kind != "boolean":
        return node
    within = passes is not (node.operation == "not")
    node = replace(node, arguments=tuple(_without_nan(a, passes=within) for a in node.arguments))
    if node.operation not in ("lt", "le", "gt", "ge") or node.arguments[0].type.kind != "float":
        return node
    for side in node.arguments:
        if side.operation != "literal":
            nan = Node("is_nan", _BOOLEAN, (side,))
            test = Node("not", _BOOLEAN, (nan,)) if passes else nan
            node = Node("and" if passes else "or", _BOOLEAN, (node, test))
    return node


class _Parser:
    """Recursive descent, one method for each level of precedence."""

    def __init__(self, text: str, columns: Mapping[str, Column]) -> None:
        self.text = text
        self.columns = columns
        self.position = 0
        self.kind = ""
        self.token = ""
        self.shown = ""
        self.advance()

    def advance(self) -> None:
        found = _TOKENS.match(self.text, self.position)
        if found is None or found.lastgroup is None:
            raise SqlError(f"cannot be read from {self.text[self.position :].strip()!r} on")
        self.position = found.end()
        self.kind = found.lastgroup
        self.token = found[self.kind]
        self.shown = found[0].strip() or "its end"

    def word(self, *words: str) -> bool:
        """Takes the next token if it is one of these words or signs."""
        if self.at(*words):
            self.advance()
            return True
        return False

    def at(self, *words: str) -> bool:
        return self.kind in ("word", "sign") and self.token.lower() in words

    def must(self, word: str) -> None:
        if not self.word(word):
            raise SqlError(f"expected {word!r} before {self.shown!r}")

    def disjunction(self) -> Node:
        node = self.conjunction()
        while self.word("or"):
            node = self._logic("or", node, self.conjunction())
        return node

    def conjunction(self) -> Node:
        node = self.negation()
        while self.word("and"):
            node = self._logic("and", node, self.negation())
        return node

    def negation(self) -> Node:
        if self.word("not"):
            return self._logic("not", self.negation())
        return self.predicate()

    def _logic(self, operation: str, *arguments: Node) -> Node:
        for argument in arguments:
            if argument.type.kind != "boolean":
                raise SqlError(f"{operation!r} of a {argument.type.kind}")
        return Node(operation, _BOOLEAN, arguments)

    def predicate(self) -> Node:
        node = self.sum()
        if self.kind == "sign" and self.token in _COMPARISONS:
            operation = _COMPARISONS[self.token]
            self.advance()
            return comparison_node(operation, node, self.sum())
        if self.word("is"):
            negated = self.word("not")
            self.must("null")
            test = Node("is_null", _BOOLEAN, (node,))
            return Node("not", _BOOLEAN, (test,)) if negated else test
        negated = self.word("not")
        if self.word("between"):
            low = self.sum()
            self.must("and")
            inside = Node(
                "and", _BOOLEAN, (comparison_node("ge", node, low), comparison_node("le", node, self.sum()))
            )
        elif self.word("in"):
            inside = self._in(node)
        elif self.at("like", "rlike"):
            inside = self._pattern(node)
        elif negated:
            raise SqlError(f"expected between, in or like before {self.shown!r}")
        else:
            return node
        return Node("not", _BOOLEAN, (inside,)) if negated else inside

    def _in(self, node: Node) -> Node:
        self.must("(")
        test = comparison_node("eq", node, self.sum())
        while self.word(","):
            test = Node("or", _BOOLEAN, (test, comparison_node("eq", node, self.sum())))
        self.must(")")
        return test

    def _pattern(self, node: Node) -> Node:
        like = self.token.lower() == "like"
        self.advance()
        if node.type.kind != "string" or self.kind != "text":
            raise SqlError("like and rlike hold text against a quoted pattern")
        given = self.token.replace("''", "'")
        self.advance()
        if like:
            given = (
                "(?s)^"
                + "".join({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in given)
                + "$"
            )
        try:
            return Node("matches", _BOOLEAN, (node,), portable_pattern(given))
        except ValueError as error:
            raise SqlError(f"the pattern {error}") from None

    def sum(self) -> Node:
        node = self.product()
        while self.at("+", "-"):
            operation = {"+": "add", "-": "subtract"}[self.token]
            self.advance()
            node = arithmetic_node(operation, node, self.product())
        return node

    def product(self) -> Node:
        node = self.unary()
        while self.at("*", "/"):
            operation = {"*": "multiply", "/": "divide"}[self.token]
            self.advance()
            node = arithmetic_node(operation, node, self.unary())
        return node

    def unary(self) -> Node:
        if self.word("-"):
            node = self.unary()
            if node.operation == "literal" and node.type.kind in ("int", "decimal", "interval"):
                return Node("literal", node.type, (), -node.value)
            return sign_node("negate", node)
        self.word("+")
        return self.atom()

    def atom(self) -> Node:
        kind, token = self.kind, self.token
        if self.word("("):
            node = self.disjunction()
            self.must(")")
            return node
        if kind not in ("number", "text", "quoted", "double", "word"):
            raise SqlError(f"cannot be read from {self.shown!r} on")
        self.advance()
        if kind == "number":
            return number_literal(token)
        if kind == "text":
            return Node("literal", SqlType("string"), (), token.replace("''", "'"))
        if kind != "word":
            mark = "`" if kind == "quoted" else '"'
            return self.column(token.replace(mark * 2, mark))
        return self._word(token)

    def _word(self, token: str) -> Node:
        lower = token.lower()
        if self.at("("):
            return self._function(lower)
        if lower in ("true", "false") and token not in self.columns:
            return Node("literal", _BOOLEAN, (), lower == "true")
        if lower in ("date", "timestamp") and self.kind == "text":
            return self._moment(lower)
        if lower == "interval" and self.kind in ("number", "text"):
            return self._interval()
        if lower in _RESERVED and token not in self.columns:
            raise SqlError(f"{token!r} is not understood here")
        return self.column(token)

    def column(self, name: str) -> Node:
        column = self.columns.get(name)
        if column is None:
            raise SqlError(f"unknown column {name!r}")
        kind = column.type.kind
        type_ = {
            "integer": SqlType("int", 31),
            "long": SqlType("int", 63),
            "float": _FLOAT,
            "double": _FLOAT,
            "timestamp": SqlType("timestamp", 58),
        }.get(kind) or SqlType(kind, 0, column.type.precision, column.type.scale)
        return Node("column", type_, (), name)

    def _moment(self, kind: str) -> Node:
        text = self.token
        self.advance()
        try:
            if kind == "date":
                return Node("literal", SqlType("date"), (), date.fromisoformat(text))
            value = datetime.fromisoformat(text)
        except ValueError as error:
            raise SqlError(f"{kind} {text!r}: {error}") from None
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return Node("literal", SqlType("timestamp", 58), (), value)

    def _interval(self) -> Node:
        amount = self.token
        self.advance()
        unit = self.token.lower().removesuffix("s")
        if self.kind != "word" or unit not in _UNITS or not re.fullmatch(r"-?\d+", amount):
            raise SqlError(f"interval {amount} {self.shown}: say e.g. interval 30 minutes")
        self.advance()
        value = int(amount) * _UNITS[unit]
        return Node("literal", SqlType("interval", value.bit_length()), (), value)

    def _function(self, name: str) -> Node:
        self.must("(")
        arguments = [self.disjunction()]
        while self.word(","):
            arguments.append(self.disjunction())
        self.must(")")
        build = _FUNCTIONS.get(name)
        if build is None:
            raise SqlError(f"unknown function {name!r}; known are {', '.join(_FUNCTIONS)}")
        return build(*arguments)


def number_literal(text: str) -> Node:
    """A literal: whole, exact decimal, or (with an exponent) floating."""
    if re.fullmatch(r"\d+", text):
        value = int(text)
        return Node("literal", _checked(SqlType("int", value.bit_length())), (), value)
    if "e" in text.lower():
        return Node("literal", _FLOAT, (), float(text))
    exact = Decimal(text)
    scale = max(0, -int(exact.as_tuple().exponent))
    digits = max(len(exact.as_tuple().digits), scale)
    if digits > 38:
        raise SqlError(f"{text} has more than 38 digits")
    return Node("literal", SqlType("decimal", 0, digits, scale), (), exact)


def _checked(type_: SqlType) -> SqlType:
    if type_.bits > _MOST_BITS:
        raise SqlError("the numbers can become too large to be compared exactly")
    return type_


def _cast_node(node: Node, type_: SqlType) -> Node:
    """The same value as another type."""
    if node.type == type_:
        return node
    if node.operation == "literal" and type_.kind == "float":
        return Node("literal", _FLOAT, (), float(node.value))
    return Node("as", type_, (node,))


def _decimal_of(type_: SqlType) -> SqlType:
    if type_.kind == "decimal":
        return type_
    return SqlType("decimal", 0, len(str(2**type_.bits)), 0)


def _to_common_type(left: Node, right: Node, doing: str) -> tuple[Node, Node]:
    a, b = left.type, right.type
    numbers = ("int", "float", "decimal")
    if a.kind in numbers and b.kind in numbers:
        if "float" in (a.kind, b.kind):
            for node in (left, right):
                if node.type.kind == "decimal" and node.operation != "literal":
                    raise SqlError(f"{doing} of an exact decimal with a floating number")
            return _cast_node(left, _FLOAT), _cast_node(right, _FLOAT)
        if "decimal" in (a.kind, b.kind):
            c, d = _decimal_of(a), _decimal_of(b)
            scale = max(c.scale, d.scale)
            precision = max(c.precision - c.scale, d.precision - d.scale) + scale
            if precision > 38:
                raise SqlError(f"{doing} needs more than 38 digits")
            common = SqlType("decimal", 0, precision, scale)
            return _cast_node(left, common), _cast_node(right, common)
        wide = SqlType("int", max(a.bits, b.bits))
        return (_cast_node(left, wide), _cast_node(right, wide)) if wide.wide else (left, right)
    if a.kind == b.kind:
        if a.kind == "interval" and (a.wide or b.wide):
            wide = SqlType("interval", max(a.bits, b.bits))
            return _cast_node(left, wide), _cast_node(right, wide)
        return left, right
    raise SqlError(f"{doing} of a {a.kind} with a {b.kind}")


def comparison_node(operation: str, left: Node, right: Node) -> Node:
    """A comparison of two values of one type."""
    left, right = _to_common_type(left, right, "comparison")
    if left.type.kind == "boolean" and operation not in ("eq", "ne"):
        raise SqlError("order of booleans")
    return Node(operation, _BOOLEAN, (left, right))


def arithmetic_node(operation: str, left: Node, right: Node) -> Node:
    """Arithmetic whose result never overflows silently."""
    a, b = left.type.kind, right.type.kind
    if (a, b) == ("timestamp", "timestamp") and operation == "subtract":
        return Node("elapsed", SqlType("interval", 59), (left, right))
    if (a, b) == ("date", "date") and operation == "subtract":
        return Node("days", SqlType("int", 24), (left, right))
    if (a, b) == ("timestamp", "interval") and operation in ("add", "subtract"):
        if right.type.bits > 60 or left.type.bits > 60:
            raise SqlError("an instant that far away cannot be told")
        bits = max(left.type.bits, right.type.bits) + 1
        return Node(operation, SqlType("timestamp", bits), (left, right))
    if operation == "divide":
        if not {a, b} <= {"int", "float", "decimal"}:
            raise SqlError(f"divide of a {a} with a {b}")
        for node in (left, right):
            if node.type.kind == "decimal" and node.operation != "literal":
                raise SqlError("division of an exact decimal")
        return Node("divide", _FLOAT, (_cast_node(left, _FLOAT), _cast_node(right, _FLOAT)))
    if a == b == "interval" and operation != "multiply":
        type_ = _checked(SqlType("interval", max(left.type.bits, right.type.bits) + 1))
        return Node(operation, type_, (_cast_node(left, type_), _cast_node(right, type_)))
    if not {a, b} <= {"int", "float", "decimal"}:
        raise SqlError(f"{operation} of a {a} with a {b}")
    left, right = _to_common_type(left, right, operation)
    kind = left.type.kind
    if kind == "float":
        return Node(operation, _FLOAT, (left, right))
    if kind == "decimal":
        if operation == "multiply":
            raise SqlError("multiplication of exact decimals")
        type_ = SqlType("decimal", 0, left.type.precision + 1, left.type.scale)
        if type_.precision > 38:
            raise SqlError(f"{operation} needs more than 38 digits")
        return Node(operation, type_, (_cast_node(left, type_), _cast_node(right, type_)))
    x, y = left.type.bits, right.type.bits
    type_ = _checked(SqlType("int", x + y if operation == "multiply" else max(x, y) + 1))
    return Node(operation, type_, (_cast_node(left, type_), _cast_node(right, type_)))


def sign_node(operation: str, node: Node) -> Node:
    """The number negated, or without its sign."""
    if node.type.kind not in ("int", "float", "decimal", "interval"):
        raise SqlError(f"{operation} of a {node.type.kind}")
    type_ = node.type
    if type_.bits:
        type_ = _checked(SqlType(type_.kind, type_.bits + 1))
    return Node(operation, type_, (_cast_node(node, type_),))


def _length_node(text: Node) -> Node:
    if text.type.kind != "string":
        raise SqlError(f"length of a {text.type.kind}")
    return Node("length", SqlType("int", 31), (text,))


def _date_node(moment: Node) -> Node:
    if moment.type.kind != "timestamp":
        raise SqlError(f"date of a {moment.type.kind}")
    return Node("date", SqlType("date"), (moment,))


def _coalesce_node(*arguments: Node) -> Node:
    first, *others = arguments
    for other in others:
        first, other = _to_common_type(first, other, "coalesce")
        bits = max(first.type.bits, other.type.bits)
        type_ = SqlType(first.type.kind, bits, first.type.precision, first.type.scale)
        first = Node("coalesce", type_, (_cast_node(first, type_), _cast_node(other, type_)))
    return first


_FUNCTIONS: dict[str, Callable[..., Node]] = {
    "length": _length_node,
    "char_length": _length_node,
    "abs": lambda value: sign_node("abs", value),
    "coalesce": _coalesce_node,
    "date": _date_node,
}
