"""What a drill is: a YAML file of this folder, checked; pure.

The words are those of Litmus and of operator-chaos (https://litmuschaos.io): a steady state that holds
before and after, an injection, a hypothesis about what follows, a blast radius.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.pipeline.catalog import Catalog

Check = Literal["conserved", "caughtUp"]
"""What holds in the steady state: each row that was read is on record (written, a dead letter, a duplicate);
nothing waits in a source, and no table is out of date."""
End = Literal["healed", "contained"]
"""Either all is as if nothing had happened, or one table is left alone and all others are."""
Radius = Literal["target", "sources", "lake"]
"""The tables that an injection may disturb: one, those of all sources, or all."""

_UNITS = {"s": 1, "m": 60}


class NoSuchDrill(MedallionError):
    """There is no drill of a name that was asked for."""

    kind = Kind.PERMANENT


def _seconds(told: object) -> float:
    """The seconds of a duration such as `90s` or `2m`."""
    found = re.fullmatch(r"([1-9]\d*)([sm])", str(told))
    if not found:
        raise ValueError("is no duration such as 90s or 2m")
    return float(int(found[1]) * _UNITS[found[2]])


Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z]+(-[a-z]+)*$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True)


class Target(_Section):
    """What is disturbed: the first table of the catalog that fits.

    role: `lookup` is a source that others are enriched by, `beside others` a table from which no other one is
    made while there are others of its kind, `upstream` one from which another is made.
    """

    work: Literal["intake", "refresh"]
    role: Literal["any", "lookup", "beside others", "upstream"] = "any"

    def table_in(self, catalog: Catalog) -> str | None:
        """The table; None if no table of the catalog fits."""
        if self.work == "intake":
            names = [source.table for source in catalog.sources]
        else:
            names = [table.name for table in catalog.in_order]
        return next((name for name in names if self._plays_its_role(name, catalog)), None)

    def _plays_its_role(self, name: str, catalog: Catalog) -> bool:
        match self.role:
            case "lookup":
                looked_up = {lookup.table for table in catalog.tables for lookup in table.lookups.values()}
                return len(catalog.sources) > 1 and name in catalog.with_upstream(looked_up)
            case "beside others":
                return len(catalog.tables) > 1 and not any(name in t.upstream_names for t in catalog.tables)
            case "upstream":
                return any(name in table.upstream_names for table in catalog.tables)
            case "any":
                return True

    def __str__(self) -> str:
        role = {
            "any": "",
            "lookup": " that others are enriched by",
            "beside others": " beside others",
            "upstream": " that others are made from",
        }
        return ("a source" if self.work == "intake" else "a table") + role[self.role]


class SteadyState(_Section):
    """What holds before the fault, and after it."""

    checks: Annotated[tuple[Check, ...], Field(min_length=1)]


class InARun(_Section):
    """A fault in the process of the run that commits rows of the target: it dies before, it is
    stopped, its transform fails, somebody else commits first, or what it wrote is damaged: a data file, or
    the Delta log."""

    type: Literal["kill", "stop", "fail", "write", "damageFile", "damageLog"]


class Refuse(_Section):
    """What the server of the landing zone answers: that it is busy, that it knows nobody by these
    credentials, or nothing; to requests for all files, or for those of the target."""

    type: Literal["refuse"]
    answer: Literal[503, 403, "none"]
    files: Literal["all", "target"]


class FillDisk(_Section):
    """The disk of the lake is full."""

    type: Literal["fillDisk"]


class Spoil(_Section):
    """Rows that nobody can read are among those that arrive."""

    type: Literal["spoil"]


class Poison(_Section):
    """A row is among those that arrive that kills whatever process parses it."""

    type: Literal["poison"]


class Hypothesis(_Section):
    """What follows. recovery_timeout: seconds until all is well, from when the fault is over."""

    description: Text
    recovery_timeout: Annotated[float, BeforeValidator(_seconds)]
    end: End = "healed"


class BlastRadius(_Section):
    """What may be disturbed."""

    tables: Radius


class Drill(_Section):
    """One drill.

    resilient_by: who heals it even where nothing is tried again ("the run itself"); "" where nobody does.
    """

    name: Name
    description: Text
    target: Target
    steady_state: SteadyState
    injection: Annotated[InARun | Refuse | FillDisk | Spoil | Poison, Field(discriminator="type")]
    hypothesis: Hypothesis
    blast_radius: BlastRadius
    resilient_by: str = ""


def drill_of(text: str) -> Drill:
    """The drill in the text of a YAML file.

    Raises:
        ValueError: it is not as it has to be; the text says where.
    """
    return Drill.model_validate(yaml.safe_load(text))


def named(drills: Iterable[Drill], names: Collection[str]) -> list[Drill]:
    """The drills of these names, or all of them for `all`.

    Raises:
        NoSuchDrill: there is none of a name.
    """
    every = {drill.name: drill for drill in drills}
    if unknown := set(names) - every.keys() - {"all"}:
        raise NoSuchDrill(f"there is no drill {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return [drill for drill in every.values() if "all" in names or drill.name in names]
