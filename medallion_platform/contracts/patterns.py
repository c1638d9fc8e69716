r"""Regular expressions that mean the same in every engine.

Rust's engine (polars) and Java's (Spark) read the same expression differently: `\d` and `\w` are Unicode in
Rust and ASCII in Java; `$` is the end in Rust, and in Java also the place before the last newline; `.`
excludes one kind of line end in Rust and five in Java. So an expression is not passed on as it is: Python's
parser reads it once, at import, and it is written anew with only what has one meaning. The meanings are the
strict ones: `\d`, `\w`, `\s` and `(?i)` are ASCII, `.` is everything except `\n`, `^` and `$` are the very
ends of the text. An expression is refused if an engine does not support it (look-around, back references,
possessive or atomic groups), or if one meaning would be expensive (`\b`, `(?m)`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

Parsed = Any
"""A part of a parsed regular expression: the modules of Python that make it have no types."""
parser: Any = import_module("re._parser")
sre: Any = import_module("re._constants")

_TOP = 0x10FFFF
_CLASSES: dict[Parsed, tuple[tuple[int, int], ...]] = {
    sre.CATEGORY_DIGIT: ((48, 57),),
    sre.CATEGORY_WORD: ((48, 57), (65, 90), (95, 95), (97, 122)),
    sre.CATEGORY_SPACE: ((9, 13), (32, 32)),
}
_NEGATED = {
    sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT,
    sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
    sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
}
_REFUSED = {
    sre.ASSERT: "looks around, which Rust's engine cannot",
    sre.ASSERT_NOT: "looks around, which Rust's engine cannot",
    sre.GROUPREF: "refers back to a group, which Rust's engine cannot",
    sre.GROUPREF_EXISTS: "refers back to a group, which Rust's engine cannot",
    sre.ATOMIC_GROUP: "has an atomic group, which Rust's engine cannot",
    sre.POSSESSIVE_REPEAT: "has a possessive quantifier, which Rust's engine cannot",
}


def portable_pattern(pattern: str, *, at_start: bool = False) -> str:
    """The same pattern in the common language of all engines; a ValueError says why there is none.

    `at_start` is pandera's str_matches: the text starts with a match. pandera does that by writing a
    "^" before the pattern, which anchors only the first of several alternatives; where that makes a
    difference the pattern is refused.
    """
    if at_start and not pattern.startswith("^"):
        pattern = "^" + pattern
    try:
        tree = parser.parse(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if at_start and _open_alternative(tree):
        raise ValueError("has alternatives of which only the first is held to the start; write ^(?:a|b)")
    flags = tree.state.flags
    if flags & re.MULTILINE:
        raise ValueError("uses (?m), which the engines understand differently")
    return "".join(_pattern_text(tree, flags))


def _open_alternative(tree: Parsed) -> bool:
    return any(
        operation is sre.BRANCH
        and any(not (list(b) and b[0] == (sre.AT, sre.AT_BEGINNING)) for b in argument[1])
        for operation, argument in list(tree)[:1]
    )


def _pattern_text(tree: Iterable[Parsed], flags: int) -> Iterable[str]:
    for operation, argument in tree:
        if operation is sre.LITERAL:
            yield _class_text([(argument, argument)], flags)
        elif operation is sre.NOT_LITERAL:
            yield _class_text([(argument, argument)], flags, negated=True)
        elif operation is sre.ANY:
            yield f"[\\x{{0}}-\\x{{{_TOP:X}}}]" if flags & re.DOTALL else "[^\\n]"
        elif operation is sre.IN:
            yield _character_class(argument, flags)
        elif operation is sre.AT:
            yield _anchor(argument)
        elif operation is sre.BRANCH:
            yield "(?:" + "|".join("".join(_pattern_text(b, flags)) for b in argument[1]) + ")"
        elif operation is sre.SUBPATTERN:
            _, added, removed, inner = argument
            if added & re.MULTILINE:
                raise ValueError("uses (?m), which the engines understand differently")
            yield "(?:" + "".join(_pattern_text(inner, (flags | added) & ~removed)) + ")"
        elif operation in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, inner = argument
            repeated = "".join(_pattern_text(inner, flags))
            yield (repeated if _is_one_character(inner) else f"(?:{repeated})") + _repetition(
                int(least), most
            )
        else:
            reason = _REFUSED.get(operation, f"uses {str(operation).lower()}")
            raise ValueError(f"{reason}")


def _is_one_character(tree: Parsed) -> bool:
    """Whether it can be repeated without a group, which would be slower in Java."""
    return len(tree) == 1 and tree[0][0] in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN)


def _repetition(least: int, most: Parsed) -> str:
    if most is sre.MAXREPEAT:
        return {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    if (least, most) == (0, 1):
        return "?"
    return f"{{{least}}}" if least == most else f"{{{least},{int(most)}}}"


def _anchor(place: Parsed) -> str:
    if place in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
        return r"\A"
    if place in (sre.AT_END, sre.AT_END_STRING):
        return r"\z"
    raise ValueError(r"uses \b or \B, which the engines understand differently")


def _character_class(items: Iterable[Parsed], flags: int) -> str:
    ranges: list[tuple[int, int]] = []
    negated = False
    for operation, argument in items:
        if operation is sre.NEGATE:
            negated = True
        elif operation is sre.LITERAL:
            ranges.append((argument, argument))
        elif operation is sre.RANGE:
            ranges.append(argument)
        elif argument in _CLASSES:
            ranges.extend(_CLASSES[argument])
        else:
            ranges.extend(_complement_ranges(_CLASSES[_NEGATED[argument]]))
    return _class_text(ranges, flags, negated=negated)


def _complement_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    start = 0
    for low, high in ranges:
        if low > start:
            found.append((start, low - 1))
        start = high + 1
    found.append((start, _TOP))
    return found


def _class_text(ranges: list[tuple[int, int]], flags: int, *, negated: bool = False) -> str:
    if any(low <= 0xDFFF and high >= 0xD800 and high - low < 0x800 for low, high in ranges):
        raise ValueError("names half of a surrogate pair")
    if flags & re.IGNORECASE:
        ranges = ranges + list(_add_other_case(ranges))
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    if not negated and len(merged) == 1 and merged[0][0] == merged[0][1]:
        return _escape_character(merged[0][0])
    inner = "".join(
        _escape_character(low) if low == high else f"{_escape_character(low)}-{_escape_character(high)}"
        for low, high in merged
    )
    return f"[{'^' if negated else ''}{inner}]"


def _add_other_case(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for low, high in ranges:
        if low == high and low > 127 and chr(low).lower() != chr(low).upper():
            raise ValueError("uses (?i) with a letter beyond ASCII: spell out both cases")
        for first, last, shift in ((65, 90, 32), (97, 122, -32)):
            if low <= last and high >= first:
                yield max(low, first) + shift, min(high, last) + shift


def _escape_character(code: int) -> str:
    character = chr(code)
    if character.isascii() and (character.isalnum() or character in "_@ "):
        return character
    if 32 < code < 127:
        return "\\" + character
    return f"\\x{{{code:X}}}"
