"""How well failures are classified: `python -m medallion_platform_tests.corpus.score`.

Printed are, of distinct failures: how many there are of each class, for how many a rule told any class
(coverage) and for how many the true one (accuracy), and each confusion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from medallion_platform.errors import Kind
from medallion_platform.healing.classify import classify
from medallion_platform_tests.corpus.line import SEEN, UNSEEN, Line, distinct, read

MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Score:
    """covered, right: shares of all failures; of those that are truly unknown, none should be covered."""

    of_class: dict[Kind, int]
    covered: Fraction
    right: Fraction
    confused: dict[tuple[Kind, Kind], list[str]]


def unlike(lines: Iterable[Line]) -> list[Line]:
    """One of each distinct failure and true class."""
    return list({(distinct(line), line.kind): line for line in lines}.values())


def score(lines: Sequence[Line]) -> Score:
    """How the rules do on these failures."""
    confused: dict[tuple[Kind, Kind], list[str]] = {}
    told = [(line, classify(line.evidence).kind) for line in lines]
    for line, kind in told:
        if kind is not line.kind:
            confused.setdefault((line.kind, kind), []).append(line.test)
    known = [kind for line, kind in told if line.kind is not Kind.UNKNOWN]
    covered = sum(kind is not Kind.UNKNOWN for kind in known)
    return Score(
        dict(Counter(line.kind for line in lines)),
        Fraction(covered, len(known)) if known else Fraction(1),
        Fraction(sum(kind is line.kind for line, kind in told), len(told)) if told else Fraction(1),
        confused,
    )


def in_words(title: str, found: Score) -> str:
    """The score as a page of text."""
    total = sum(found.of_class.values())
    rows = [f"{title}: {total} distinct, covered {float(found.covered):.1%}, right {float(found.right):.1%}"]
    rows += [f"  {kind.value:<14} {found.of_class.get(kind, 0):>4}" for kind in Kind]
    for (true, concluded), tests in sorted(found.confused.items()):
        rows.append(f"  {true} was taken for {concluded}: {len(tests)}")
        rows += [f"      {test}" for test in tests[:MOST_EXAMPLES]]
    return "\n".join(rows)


def main() -> None:
    """Print the score of what the rules were made by, and of what came later."""
    print(in_words("seen", score(unlike(read(SEEN)))))
    if UNSEEN.exists():
        print(in_words("unseen", score(unlike(read(UNSEEN)))))


if __name__ == "__main__":
    main()
