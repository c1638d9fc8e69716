"""The tables of docs/healing.md, made from the policy, the advice and the corpus of failures.

`python -m medallion_platform_tests.docs.policy` writes them into the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from medallion_platform.errors import Kind
from medallion_platform.healing.advice import ADVICE
from medallion_platform.healing.policy import ACTS, POLICY, Policy
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.corpus.score import Score, seen, unseen
from medallion_platform_tests.docs.options import table, with_table

PAGE = REPOSITORY / "docs" / "healing.md"


def renewed(page: str) -> str:
    """The page with the tables of today. Pure."""
    head = ("class", "what it is", "within a try, after", "tries, after", "then")
    page = with_table(page, "policy", table(head, (row(*of) for of in POLICY.items())))
    advised = ((f"`{kind}`", of.text.format(table="TABLE", id="ID")) for kind, of in ADVICE.items())
    page = with_table(page, "advice", table(("class", "what to do"), advised))
    head = ("try", "what is done", "what it may change", "what it never touches")
    acts = ((f"`{act}`", reach.what, reach.changes, reach.never) for act, reach in ACTS.items())
    page = with_table(page, "acts", table(head, acts))
    head = ("class", "seen", "of them told so", "unseen", "of them told so", "the others were told")
    return with_table(page, "score", table(head, scores(seen(), unseen())))


def scores(seen: Score, unseen: Score) -> Iterable[tuple[str, ...]]:
    """How well failures of each class are classified, and all."""
    for kind in Kind:
        told = unseen.taken_for(kind)
        others = (f"{n} `{other}`" for other, n in told.items() if other is not kind)
        figures = (seen.of_class.get(kind, 0), seen.taken_for(kind).get(kind, 0))
        figures = (*figures, unseen.of_class.get(kind, 0), told.get(kind, 0))
        yield f"`{kind}`", *map(str, figures), ", ".join(others)
    for name, share in (("true class", "right"), ("another class", "wrong"), ("any class", "covered")):
        of_seen, of_unseen = (f"{float(getattr(found, share)):.1%}" for found in (seen, unseen))
        yield f"all: {name}", str(seen.total), of_seen, str(unseen.total), of_unseen, ""


def row(kind: Kind, policy: Policy) -> tuple[str, ...]:
    """What is told of a class."""
    tries = [f"{step.act}: {pauses(step.pauses)}" for step in policy.steps]
    last = policy.steps[-1].pauses[-1] if policy.steps else 0
    then = f"every {pause_in_words(last)} without end" if policy.endless else "waits for a change"
    return f"`{kind}`", policy.what, pauses(policy.in_process), "; ".join(tries) or "never", then


def pauses(seconds: Iterable[float]) -> str:
    """Pauses in words; the same ones many times as a number."""
    told = ((pause_in_words(pause), len(list(same))) for pause, same in groupby(seconds))
    return ", ".join(
        f"{pause} {times} times" if times > 2 else ", ".join([pause] * times) for pause, times in told
    )


def pause_in_words(seconds: float) -> str:
    """A pause in the largest unit that it is a whole number of."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds else "at once"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
