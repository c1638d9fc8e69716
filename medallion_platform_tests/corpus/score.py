"""How well failures are classified: `python -m medallion_platform_tests.corpus.score`.

Printed are, of distinct failures: how many there are of each class, for how many a rule told any class
(coverage), for how many the true one (accuracy) or a wrong one, and each confusion.
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

    @property
    def total(self) -> int:
        return sum(self.of_class.values())

    @property
    def wrong(self) -> Fraction:
        """The share that was told another class than its own; `unknown` is none."""
        others = sum(len(tests) for (_, told), tests in self.confused.items() if told is not Kind.UNKNOWN)
        return Fraction(others, self.total or 1)

    def taken_for(self, kind: Kind) -> dict[Kind, int]:
        """How many failures of a class were told each class, the most frequent one first."""
        told = {other: len(tests) for (true, other), tests in self.confused.items() if true is kind}
        right = self.of_class.get(kind, 0) - sum(told.values())
        every = {kind: right, **told} if right else told
        return dict(sorted(every.items(), key=lambda of: -of[1]))


def unlike(lines: Iterable[Line], known: Iterable[Line] = ()) -> list[Line]:
    """One of each distinct failure and true class, without those that are known."""
    there = {(distinct(line), line.kind) for line in known}
    found = {(distinct(line), line.kind): line for line in lines}
    return [line for key, line in found.items() if key not in there]


def seen() -> Score:
    """How the rules do on what they were made by."""
    return score(unlike(read(SEEN)))


def unseen() -> Score:
    """How they do on what was captured after they were frozen, and is unlike all that they were made by."""
    return score(unlike(read(UNSEEN), read(SEEN)))


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
    shares = (
        f"covered {float(found.covered):.1%}, right {float(found.right):.1%}, wrong {float(found.wrong):.1%}"
    )
    rows = [f"{title}: {found.total} distinct, {shares}"]
    rows += [f"  {kind.value:<14} {found.of_class.get(kind, 0):>4}" for kind in Kind]
    for (true, concluded), tests in sorted(found.confused.items()):
        rows.append(f"  {true} was taken for {concluded}: {len(tests)}")
        rows += [f"      {test}" for test in tests[:MOST_EXAMPLES]]
    return "\n".join(rows)


def main() -> None:
    """Print the score of what the rules were made by, and of what came later."""
    print(in_words("seen", seen()))
    if UNSEEN.exists():
        print(in_words("unseen", unseen()))


if __name__ == "__main__":
    main()
