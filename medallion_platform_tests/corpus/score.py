"""How well failures are classified: `python -m medallion_platform_tests.corpus.score`.

Printed are, of distinct failures: how many there are of each class, for how many a rule told any class
(coverage), for how many the true one (accuracy) or a wrong one, and each confusion. Of those that were
captured after the rules were frozen it stays as it was measured, also when the rules have learnt from them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from medallion_platform.errors import Kind
from medallion_platform.healing.classify import classify
from medallion_platform_tests.corpus.line import FOLDER, SEEN, UNSEEN, Line, distinct, read

MEASURED = FOLDER / "measured.jsonl"
"""What the rules told of unseen failures before they learnt from them."""
MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Told:
    """What the rules told of a failure. kind: its true class."""

    kind: Kind
    told: Kind
    test: str

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind.value, "told": self.told.value, "test": self.test})

    @classmethod
    def from_json(cls, text: str) -> Told:
        found = json.loads(text)
        return cls(Kind(found["kind"]), Kind(found["told"]), found["test"])


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
    """How they did on what was captured after they were frozen, and is unlike all that they were made by."""
    lines = unlike(read(UNSEEN), read(SEEN))
    return (
        score(lines)
        if lines
        else score_of([Told.from_json(text) for text in MEASURED.read_text().splitlines()])
    )


def score(lines: Sequence[Line]) -> Score:
    """How the rules do on these failures."""
    return score_of([Told(line.kind, classify(line.evidence).kind, line.test) for line in lines])


def score_of(answers: Sequence[Told]) -> Score:
    """The score of what the rules told."""
    confused: dict[tuple[Kind, Kind], list[str]] = {}
    for one in answers:
        if one.told is not one.kind:
            confused.setdefault((one.kind, one.told), []).append(one.test)
    known = [one for one in answers if one.kind is not Kind.UNKNOWN]
    return Score(
        dict(Counter(one.kind for one in answers)),
        share(one.told is not Kind.UNKNOWN for one in known),
        share(one.told is one.kind for one in answers),
        confused,
    )


def share(holds: Iterable[bool]) -> Fraction:
    """The share for which it holds; all, of none."""
    every = list(holds)
    return Fraction(sum(every), len(every)) if every else Fraction(1)


def learn() -> None:
    """Keep what the rules tell of the unseen failures, which are among the seen from now on."""
    lines = unlike(read(UNSEEN), read(SEEN))
    told = (Told(line.kind, classify(line.evidence).kind, line.test) for line in lines)
    MEASURED.write_text("".join(f"{one.to_json()}\n" for one in told))
    with SEEN.open("a") as file:
        file.write(UNSEEN.read_text())
    UNSEEN.unlink()


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
    """Print both scores; `learn` first counts the unseen among the seen."""
    if sys.argv[1:] == ["learn"]:
        learn()
    print(in_words("seen", seen()))
    print(in_words("unseen", unseen()))


if __name__ == "__main__":
    main()
