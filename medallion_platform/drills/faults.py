"""Faults within the process of a run: what makes it die, stop, fail, or come second, at one table.

Most are put in where a table's rows are about to be committed, after its dead letters: the moment at which
most could go wrong. Damage comes right after that, before anybody has read what was written.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from medallion_platform.drills.traffic import POISON

if TYPE_CHECKING:
    from medallion_platform.lakehouse.lake import Lake


_SIGNALS = {"kill": signal.SIGKILL, "poison": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True)
class Fault:
    """A fault for the process of a run. type: of `drill.InARun`, or poison. table: at which it comes."""

    type: str
    table: str

    def as_dict(self) -> dict[str, str]:
        """For the message to the process."""
        return asdict(self)

    @property
    def lasts(self) -> bool:
        """Whether it comes again and again."""
        return self.type in ("fail", "poison")


@dataclass
class Strikes:
    """How often a fault has come."""

    count: int = 0


@contextmanager
def armed(fault: Fault | None, lake: Lake) -> Generator[Strikes]:
    """In the `with` block the fault comes to whoever reaches its table."""
    strikes = Strikes()
    with ExitStack() as stack:
        if fault is not None:
            for module, name, wrapper in _places(fault, lake, strikes):
                original = getattr(module, name)
                setattr(module, name, wrapper(original))
                stack.callback(setattr, module, name, original)
        yield strikes


Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def _places(fault: Fault, lake: Lake, strikes: Strikes) -> list[tuple[ModuleType, str, Wrapper]]:
    from medallion_platform.lakehouse import polars_writer
    from medallion_platform.lakehouse.lake import path_of
    from medallion_platform.pipeline.refresh import commit, transform
    from medallion_platform.sources.formats import text

    def strike() -> None:
        strikes.count += 1
        if fault.type in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[fault.type])
        elif strikes.count == 1:
            _commit_first(lake, fault.table)

    def before_its_rows(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(table: Any, *given: Any, **named: Any) -> Any:
            if path_of(table) == lake.path(fault.table):
                strike()
            return write(table, *given, **named)

        return wrapped

    def before_others_read_it(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(table: Any, *given: Any, **named: Any) -> Any:
            written = write(table, *given, **named)
            if path_of(table) == lake.path(fault.table):
                strikes.count += 1
                if strikes.count == 1:
                    _DAMAGES[fault.type](lake, fault.table)
            return written

        return wrapped

    def where_it_is_parsed(parse: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(parser: Any, block: Any, starts: Any, ends: Any, *given: Any) -> Any:
            if len(starts) and POISON in block.get(int(starts[0]), int(ends[-1])):
                strike()
            return parse(parser, block, starts, ends, *given)

        return wrapped

    def without_its_columns(run_transform: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(context: Any, *given: Any) -> Any:
            if context.table.name != fault.table:
                return run_transform(context, *given)
            strikes.count += 1
            table = replace(context.table, transform=lambda **frames: next(iter(frames.values())).select())
            return run_transform(replace(context, table=table), *given)

        return wrapped

    if fault.type == "fail":
        return [(transform, "run_transform", without_its_columns)]
    if fault.type == "poison":
        return [(text, "records_of_block", where_it_is_parsed)]
    wrapper = before_others_read_it if fault.type in _DAMAGES else before_its_rows
    return [(commit, "commit_files", wrapper), (polars_writer, "append_rows", wrapper)]


def _damage_file(lake: Lake, table: str) -> None:
    """A part of the data file that was written last does not reach the disk."""
    opened = lake.open(table)
    assert opened is not None
    _cut_off(max(map(Path, opened.file_uris()), key=lambda file: file.stat().st_mtime_ns))


def _damage_log(lake: Lake, table: str) -> None:
    """A part of a checkpoint of the log does not reach the disk."""
    opened = lake.open(table)
    assert opened is not None
    opened.create_checkpoint()
    (checkpoint,) = Path(lake.path(table), "_delta_log").glob(f"{opened.version():020}.checkpoint*.parquet")
    _cut_off(checkpoint)


_DAMAGES = {"damageFile": _damage_file, "damageLog": _damage_log}


def _cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _commit_first(lake: Lake, table: str) -> None:
    """What a second writer commits that finds nothing to do: the same rows, with a newer number."""
    from medallion_platform.lakehouse import dead_letters
    from medallion_platform.lakehouse.commit import commit_files
    from medallion_platform.lakehouse.counts import Counts
    from medallion_platform.pipeline.refresh.context import VERBS

    opened, last = lake.open(table), lake.last_record(table, VERBS)
    assert opened is not None
    assert last is not None
    sequence = max(lake.sequence(table), lake.sequence(dead_letters.name(table))) + 1
    record = replace(
        last,
        run_id="second-writer",
        counts=Counts(),
        sequence=sequence,
        partitions={},
        violations={},
        warnings={},
        masked={},
        notes=["written by a drill"],
    )
    commit_files(opened, record)
