"""Reads a Dockerfile, as far as ours and those of projects go, and which files of its folder it may use."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

KNOWN = {"RUN", "COPY", "ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name, and all behind it on one line."""

    name: str
    value: str


@dataclass(frozen=True)
class Mount:
    """What a `RUN` has at `target`: files of the folder or of a stage, a cache, or a secret."""

    type: str
    target: str
    source: str = ""
    stage: str = ""
    id: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage, and the image or the stage that it begins with."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]


def stages(dockerfile: Path) -> list[Stage]:
    """The stages of a Dockerfile; one without a name has its number.

    Raises:
        ValueError: an instruction is none of those known here.
    """
    found: list[Stage] = []
    for instruction in _instructions(dockerfile.read_text()):
        if instruction.name == "FROM":
            base, *name = re.split(r"\s+AS\s+", instruction.value)
            found.append(Stage(name[0] if name else str(len(found)), base, ()))
        elif instruction.name in KNOWN:
            last = found.pop()
            found.append(Stage(last.name, last.base, (*last.instructions, instruction)))
        else:
            raise ValueError(f"{dockerfile}: {instruction.name} is not known to this builder")
    return found


def _instructions(text: str) -> Iterator[Instruction]:
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    for line in filter(str.strip, lines):
        name, _, value = line.strip().partition(" ")
        yield Instruction(name.upper(), " ".join(value.split()))


def run_parts(value: str) -> tuple[list[Mount], str]:
    """The mounts of a `RUN`, and its command."""
    mounts: list[Mount] = []
    while value.startswith("--mount="):
        option, _, value = value.partition(" ")
        told = dict(part.split("=", 1) for part in option.removeprefix("--mount=").split(","))
        stage = told.pop("from", "")
        mounts.append(Mount(stage=stage, **told))
    return mounts, value


def words(value: str) -> list[str]:
    """The words of an instruction, in the form of JSON or of a shell."""
    return shlex.split(re.sub(r'^\[|\]$|(?<="),', "", value))


@dataclass(frozen=True)
class Context:
    """The folder of a Dockerfile, without what its .dockerignore leaves out."""

    folder: Path

    def files(self, source: str) -> list[tuple[PurePosixPath, Path]]:
        """The files below `source`, which may be one file: (path below `source`, file), in order.

        Raises:
            FileNotFoundError: there are none.
        """
        root = self.folder / source
        patterns = self._patterns()
        every = [root] if root.is_file() else sorted(p for p in root.rglob("*") if not p.is_dir())
        kept = [p for p in every if not is_ignored(PurePosixPath(p.relative_to(self.folder)), patterns)]
        if not kept:
            raise FileNotFoundError(f"{root}: no such file, or .dockerignore leaves it out")
        return [(PurePosixPath(p.relative_to(root)), p) for p in kept]

    def copy(self, source: str, target: Path) -> None:
        """Copy what is below `source` to `target`."""
        for path, file in self.files(source):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target / path)

    def _patterns(self) -> list[str]:
        file = self.folder / ".dockerignore"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#")]


def is_ignored(path: PurePosixPath, patterns: list[str]) -> bool:
    """Whether a .dockerignore leaves a file out: the last line that names it or a folder above decides."""
    ignored = False
    places = [p for p in (path, *path.parents) if p.name]
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        name = wanted.removeprefix("**/")
        if any(_matches(p.name if name != wanted else str(p), name) for p in places):
            ignored = not pattern.startswith("!")
    return ignored


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)
