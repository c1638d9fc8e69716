"""Many tables fail at once, since the store of their lake refuses everyone; then it is back.

The looks are those of the real sensor, one every five seconds by a clock of the test's own; the ledger and
the tables are in a bucket, behind a proxy that counts. Runs are executed here, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest

from medallion_platform.errors import Kind
from medallion_platform.healing.incident import Known, known_from
from medallion_platform.healing.policy import AT_ONCE
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse import incidents
from medallion_platform.orchestration import runs, sensors
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse_resource import Lakehouse, lakehouse_of
from medallion_platform.orchestration.names import INTAKE
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform_tests.pipeline.toy import CSV, Zone, good
from medallion_platform_tests.s3.server import Proxy, Refusal, Request, Server, proxy

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
SECOND = timedelta(seconds=1)
DENIED = Refusal(403, "AccessDenied", "Access Denied")
"""All that has such an answer fails at once; clients are patient for a minute with a server that is busy."""


def sources(count: int) -> Catalog:
    """So many sources of files, each with a table of its own."""
    named = (f"t{n:03}" for n in range(count))
    return Catalog(
        tuple(replace(CSV, name=name, table=f"bronze.{name}", claims=(f"{name}/**",)) for name in named), ()
    )


@dataclass
class Installation:
    """A catalog whose lake is in a bucket. load: requests of each look with the runs that it asked for."""

    place: Lakehouse
    catalog: Catalog
    on: dg.DagsterInstance
    through: Proxy
    zone: Zone
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    cursor: str | None = None
    load: list[int] = field(default_factory=list[int])
    taken: list[int] = field(default_factory=list[int])
    failed_looks: int = 0

    def __post_init__(self) -> None:
        self.defs = build_defs(self.catalog, self.place)
        self.sensor = self.defs.get_repository_def().get_sensor_def("catch_up_sensor")

    def land(self, name: str) -> None:
        """A file for each source."""
        for n, source in enumerate(self.catalog.sources):
            self.zone.csv(f"{source.name}/{name}.csv", [good(f"{name} {n}")])

    def look(self) -> list[Any]:
        """One look, as the daemon makes it; gives the intakes that it asks for."""
        self.now += 5 * SECOND
        context = dg.build_sensor_context(self.on, cursor=self.cursor, resources={"lakehouse": self.place})
        try:
            seen: Any = self.sensor(context)
        except Exception:  # the daemon looks again later
            self.failed_looks += 1
            return []
        if isinstance(seen, dg.SkipReason):
            return []
        self.cursor = seen.cursor
        return [request for request in seen.run_requests or () if request.job_name == INTAKE]

    def do(self, request: Any) -> int:
        """Execute an intake; gives how many sources it was for."""
        job = self.defs.resolve_job_def(INTAKE)
        tags = {**request.tags, "dagster/run_key": request.run_key}
        job.execute_in_process(request.run_config, instance=self.on, raise_on_error=False, tags=tags)
        held = [op for op in request.run_config["ops"].values() if op["config"].get("held")]
        return len(self.catalog.sources) - len(held)

    def step(self) -> int:
        """A look and what it asks for."""
        before = len(self.through.seen)
        self.taken.append(sum(self.do(request) for request in self.look()))
        self.load.append(len(self.through.seen) - before)
        return self.taken[-1]

    @property
    def known(self) -> Known:
        return known_from(incidents.read(self.place.lake.snapshot()))

    def rows(self) -> list[int]:
        return [self.place.lake.rows(source.table) for source in self.catalog.sources]


@pytest.fixture
def away() -> list[bool]:
    """Whether the store is."""
    return [False]


@pytest.fixture
def shop(
    server: Server, tmp_path: Path, away: list[bool], long: bool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    def meddle(_: Request) -> Refusal | None:
        return DENIED if away[0] else None

    bucket = f"storm-{tmp_path.name.replace('_', '-')[-20:].lower().strip('-')}"
    (server.root / bucket).mkdir()
    with proxy(server, meddle) as through, runs.open_instance(tmp_path / "dagster") as on:
        for name, value in through.environment.items():
            monkeypatch.setenv(name, value)
        catalog = sources(200 if long else 24)
        settings = Settings(
            home=tmp_path, lake=f"s3://{bucket}/lake", landing=tmp_path / "landing", settle_seconds=0
        )
        found = Installation(lakehouse_of(settings, catalog), catalog, on, through, Zone(tmp_path))
        monkeypatch.setattr(sensors, "datetime", Mock(now=lambda _: found.now))
        yield found


@pytest.mark.long
def test_when_the_store_is_back_all_tables_follow_and_it_has_no_more_to_do_than_ever(
    shop: Installation, away: list[bool]
) -> None:
    count = len(shop.catalog.sources)
    shop.land("first")
    while shop.step():  # tables are made, which is more than they need later
        pass
    shop.land("usual")
    shop.load.clear()
    assert shop.step() == count
    usual = shop.load[-1]
    assert shop.step() == 0
    idle = shop.load[-1]

    shop.land("stormy")
    (request,) = shop.look()
    away[0] = True
    assert shop.do(request) == count
    for _ in range(3):
        assert shop.step() == 0, "without the ledger nothing is tried"
    away[0] = False
    assert shop.failed_looks == 3
    shop.load.clear()
    shop.taken.clear()
    looks = 0
    while shop.step() or shop.known.open or looks == 0:
        looks += 1
        assert looks < 100, shop.taken
    assert shop.failed_looks == 3
    assert {i.kind for i in shop.known.incidents.values()} == {Kind.AUTH}
    assert {i.closed for i in shop.known.incidents.values()} == {"healed"}
    assert {len(i.tries) for i in shop.known.incidents.values()} == {1}, "each was tried, and once"
    assert shop.rows() == [3] * count, "nothing is lost, nothing is there twice"
    followed = [n for n in shop.taken if n]  # whoever is well again is among them each time
    tried = [now - before for before, now in pairwise([0, *followed])]
    print(f"\nusual: {usual} requests, idle: {idle}; after the storm: {shop.load} for {tried}")
    assert sum(tried) == count
    assert tried[0] == 1
    assert max(tried) <= AT_ONCE
    assert all(n <= 1 + sum(tried[:before]) for before, n in enumerate(tried)), (
        "as many as were good, and one"
    )
    assert max(shop.load) < 2 * usual
    assert sum(shop.load) < 2 * (usual + idle * (len(shop.load) - 1))


def test_a_store_that_goes_again_meets_one_table_and_not_all(shop: Installation, away: list[bool]) -> None:
    shop.land("first")
    (request,) = shop.look()
    away[0] = True
    shop.do(request)
    away[0] = False
    shop.look()
    shop.now += 60 * SECOND
    (probe,) = shop.look()
    away[0] = True
    assert shop.do(probe) == 1
    away[0] = False
    assert shop.look() == [] or len(shop.known.open) == len(shop.catalog.sources)
    assert {len(i.tries) for i in shop.known.incidents.values()} == {0, 1}
