"""What a drill does to its world."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from medallion_platform.drills.drill import Drill, FillDisk, InARun, Poison, Refuse, Spoil
from medallion_platform.drills.faults import Fault
from medallion_platform.drills.world import World

End = Callable[[], None]


def inject(drill: Drill, world: World, target: str) -> End | None:
    """Cause the fault; gives what ends it once a run has failed by it, None where it ends by itself, or never
    does."""
    match drill.injection:
        case InARun(type=type):
            world.fault = Fault(type, target)
        case Poison(type=type):  # so does the row
            world.fault = Fault(type, target)
        case Refuse() as refusal:
            return _refuse(refusal, world, target)
        case FillDisk():
            return _fill_disk(world)
        case Spoil():  # comes with the rows that `run.py` lets arrive
            pass
    return None


def _refuse(refusal: Refuse, world: World, target: str) -> End:
    """To whoever reads the landing zone: all of it, or the files of the target."""
    bucket = world.bucket
    assert bucket is not None
    if refusal.files == "target":
        (source,) = (s for s in world.catalog.file_sources if s.table == target)
        bucket.concerns = lambda key: source.claims_path(key.removeprefix("landing/"))
    bucket.answer = refusal.answer

    def end() -> None:
        bucket.answer = None

    return end


def _fill_disk(world: World) -> End:
    """To whoever writes to the lake."""
    filler = world.place.home / "lake" / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))

    def end() -> None:
        filler.unlink(missing_ok=True)

    return end
