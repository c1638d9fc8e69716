"""A failure of the corpus: what was known of it, and its true class."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from medallion_platform.errors import Kind
from medallion_platform.healing.classify import classify, fingerprint
from medallion_platform.healing.evidence import Evidence

FOLDER = Path(__file__).parent
SEEN, UNSEEN = FOLDER / "seen.jsonl", FOLDER / "unseen.jsonl"
"""Failures by which the rules were made, and those that were captured after the rules were frozen."""


@dataclass(frozen=True)
class Line:
    """A failure that a test made. captured: the commit of the platform at that time."""

    evidence: Evidence
    kind: Kind
    test: str
    captured: str

    def to_json(self) -> str:
        told = {"evidence": json.loads(self.evidence.to_json()), "kind": self.kind.value}
        return json.dumps({**told, "test": self.test, "captured": self.captured})

    @classmethod
    def from_json(cls, text: str) -> Line:
        told = json.loads(text)
        evidence = Evidence.from_json(json.dumps(told["evidence"]))
        return cls(evidence, Kind(told["kind"]), told["test"], told["captured"])


def read(place: Path) -> list[Line]:
    """All failures in a file, none if there is no such file."""
    return [Line.from_json(text) for text in place.read_text().splitlines()] if place.exists() else []


def distinct(line: Line) -> str:
    """The same for failures that are one, at whichever table."""
    evidence = replace(line.evidence, table="")
    return fingerprint(evidence, classify(evidence))
