"""Where a drill is: roots of its own, and of the user's catalog what the data of the drill reaches."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.storage import in_bucket

if TYPE_CHECKING:
    import dagster as dg

    from medallion_platform.installation.settings import Settings
    from medallion_platform.orchestration.lakehouse_resource import Lakehouse


class TooClose(MedallionError):
    """A drill would write where the user has data."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class Place:
    """The roots of a drill. sources: the tables of the sources that are fed. bucket: serves the landing zone,
    if any, by the variables in `variables`, as JSON."""

    home: Path
    sources: tuple[str, ...]
    bucket: str = ""
    variables: str = "{}"

    def as_dict(self) -> dict[str, Any]:
        """For the message to the process of a run."""
        return {**asdict(self), "home": str(self.home)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Place:
        """The place in what `as_dict` gave."""
        return cls(Path(told["home"]), tuple(told["sources"]), told["bucket"], told["variables"])

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process works here."""
        return json.loads(self.variables)

    @property
    def files(self) -> Path:
        """The folder of the files that land."""
        return self.home / "landing"

    @property
    def settings(self) -> Settings:
        """The user's settings with these roots."""
        from medallion_platform.installation.settings import Settings

        landing = f"s3://{self.bucket}/landing" if self.bucket else self.files
        return Settings().model_copy(
            update={
                "home": self.home,
                "lake": self.home / "lake",
                "landing": landing,
                "settle_seconds": 0.0,
                "backup": None,
            }
        )

    @property
    def catalog(self) -> Catalog:
        """The part of the user's catalog."""
        from medallion_platform.installation.catalog import catalog

        return part_of(catalog, self.sources)

    @property
    def lakehouse(self) -> Lakehouse:
        """Its tables."""
        from medallion_platform.orchestration.lakehouse_resource import lakehouse_of

        return lakehouse_of(self.settings, self.catalog)

    @property
    def definitions(self) -> dg.Definitions:
        """The platform's jobs and sensors for it."""
        from medallion_platform.orchestration.build import build_defs

        return build_defs(self.catalog, self.lakehouse)


def part_of(catalog: Catalog, sources: Collection[str]) -> Catalog:
    """The sources with these tables, and all that is made of nothing else; without features. Pure."""
    fed = {source.table for source in catalog.sources if source.table in sources}
    for table in catalog.in_order:
        if fed.issuperset(table.upstream_names):
            fed.add(table.name)
    return Catalog(
        tuple(source for source in catalog.sources if source.table in fed),
        tuple(table for table in catalog.tables if table.name in fed),
    )


def refuse_places_of(settings: Settings, home: Path) -> None:
    """Refuse a home for a drill that is, holds, or is within a place of the user's.

    Raises:
        TooClose: it does.
    """
    users = {
        "lake": settings.lake,
        "landing zone": settings.landing,
        "backup": settings.backup or "",
        "Dagster home": settings.dagster_home,
        "feature repository": settings.feature_repo,
    }
    refuse_close(home, {what: Path(p) for what, p in users.items() if str(p) and not in_bucket(p)})


def refuse_close(home: Path, users: Mapping[str, Path]) -> None:
    """Refuse a folder that is, holds, or is within one of these.

    Raises:
        TooClose: it does; the text names it.
    """
    here = home.resolve()
    for what, path in users.items():
        theirs = path.resolve()
        if here.is_relative_to(theirs) or theirs.is_relative_to(here):
            raise TooClose(
                f"a drill would work in {here}, and the {what} of this installation is at {theirs}. Nothing "
                "was done",
                remedy="move the one out of the other, or name another home (--home)",
            )
