"""What goes wrong at an object store while files are taken in from it and tables are refreshed in it."""

from __future__ import annotations

import random
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.faults.shop_driver import Shop, small_shop
from medallion_platform_tests.faults.test_files import damaged
from medallion_platform_tests.pipeline.shop import EVENTS, assert_same, change, content, event
from medallion_platform_tests.pipeline.toy import Row, bad, check
from medallion_platform_tests.s3.server import EXPIRED, SKEWED, SLOW_DOWN, Refusal, Request, Server, proxy
from medallion_platform_tests.s3.zone import BucketZone

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
TRIES = 8


@dataclass
class Weather:
    """What happens to a request; calm unless a test changes it."""

    chance: random.Random = field(default_factory=lambda: random.Random(7))
    bad: float = 0.0
    """The share of requests to which each kind of trouble happens."""
    burst_until: float = 0.0
    refusal: Refusal | None = None
    after: int = 0
    """Requests that are answered before `refusal` holds for all."""
    met: dict[str, int] = field(default_factory=dict)

    def __call__(self, request: Request) -> str | Refusal | None:
        if self.refusal:
            self.after -= 1
            return self.refusal if self.after < 0 else None
        if time.monotonic() < self.burst_until or self._meets("refused"):
            return SLOW_DOWN
        if self._meets("slow"):
            time.sleep(self.chance.uniform(0.1, 1))
        return "lose" if request.method in ("PUT", "DELETE") and self._meets("lost", 4) else None

    def renewed(self) -> None:
        """The credentials hold again, in bad weather."""
        self.refusal, self.bad = None, 0.03

    def calm(self) -> None:
        self.refusal, self.bad, self.burst_until = None, 0.0, 0.0

    def met_each(self, times: int) -> bool:
        """Whether each kind of trouble happened so often that the test says something about it."""
        return all(self.met.get(trouble, 0) >= times for trouble in ("lost", "refused", "slow"))

    def _meets(self, trouble: str, weight: int = 1) -> bool:
        if self.chance.random() >= self.bad * weight:
            return False
        self.met[trouble] = self.met.get(trouble, 0) + 1
        return True


@dataclass
class OpenTables:
    """A shop whose every request goes through the weather, and who knows what it was given."""

    zone: BucketZone
    shop: Shop
    weather: Weather
    folder: Path
    delivered: int = 0

    def deliver(self) -> None:
        """New files: good, bad and repeated rows, hours late by turns, and a user's changes."""
        n, chance = self.delivered, self.weather.chance
        self.delivered += 1
        rows: list[Row] = []
        for i in range(8):
            user, amount = chance.choice("uvw"), chance.randint(0, 200)
            rows.append(event(f"{n}-{i}", chance.randint(0, 4), i, user_id=user, amount=amount))
        rows += [bad(b"{%d" % n), chance.choice(rows)]
        self.zone.json(f"events/{n:03}.json", rows)
        segment = chance.choice(["gold", "wrong", "forbidden"])
        self.zone.json(f"users/{n:03}.json", [change(chance.choice("uvw"), n, chance.randint(0, 4), segment)])

    def until_done(self, todo: str) -> list[str]:
        """Do it again until it succeeds; gives what was said before."""
        said: list[str] = []
        while why := self.shop(todo):
            said.append(why)
            assert len(said) < TRIES, said
        return said

    def proven(self, tmp_path: Path) -> None:
        """In calm weather all is there, once, and equal to what a rebuild on disk makes of bronze."""
        self.weather.calm()
        assert self.shop("take") is None
        assert self.shop("refresh") is None
        check(self.zone, EVENTS)  # type: ignore[arg-type]
        rebuilt = Lake(tmp_path / "lake")
        shutil.copytree(self.folder / "lake" / "bronze", tmp_path / "lake" / "bronze")
        with Shop(tmp_path) as other:
            assert other("refresh") is None
        assert_same(self.zone.lake, rebuilt, small_shop().tables)


@pytest.fixture(scope="module")
def kept(server: Server) -> Iterator[OpenTables]:
    """A shop in a bucket that has been open for a while."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    folder = server.root / name / "ein häuschen"
    folder.mkdir(parents=True)
    root = f"s3://{name}/ein häuschen"
    weather = Weather()
    with proxy(server, weather) as through, Shop(root, through.environment) as shop:
        opened = OpenTables(BucketZone(root), shop, weather, folder)
        for _ in range(2):
            opened.deliver()
            assert shop("take") is None
        assert shop("refresh") is None
        yield opened


def test_a_bucket_in_bad_weather_loses_and_doubles_nothing(
    kept: OpenTables, tmp_path: Path, long: bool, recovering: Any
) -> None:
    """Expired credentials stop all with one sentence. Renewed, all goes on through bursts of 503, slow
    answers, and connections that are reset after a request was taken, be it of a data file or a commit.
    """
    weather, chance = kept.weather, kept.weather.chance
    for turn in range(12):
        if turn and not long and weather.met_each(3):
            break
        kept.deliver()
        for n, (todo, most) in enumerate((("take", 200), ("refresh", 500))):
            weather.refusal, weather.after = (EXPIRED, SKEWED)[(n + turn) % 2], chance.randint(0, most)
            why = kept.shop(todo)
            if weather.after < 0:
                assert why, "refused, and nothing was said"
                assert weather.refusal.code in why or "the server says" in why, why  # HEAD tells no code
                promises = ("nothing is lost", "Nothing was taken in", "as it was")
                assert any(promise in why for promise in promises), why
                assert "\n" not in why
            weather.renewed()
            weather.burst_until = time.monotonic() + chance.uniform(0, 3)
            with recovering(f"a bucket in bad weather, {todo}"):
                for why in kept.until_done(todo):
                    assert "again" in why, why
    assert weather.met_each(3), weather.met
    kept.proven(tmp_path)


def test_a_damaged_file_stops_a_refresh_with_its_name_and_no_damage(kept: OpenTables, long: bool) -> None:
    kept.weather.calm()
    lake = kept.zone.lake
    maintenance.optimize(lake, "bronze.events")
    rows = content(lake, "silver.events")
    for damage in ("gone", "cut", "a bit flipped") if long else ("a bit flipped",):
        version = lake.version("silver.events")
        with damaged(lake, "bronze.events", damage) as file:
            said = kept.shop("rebuild")
            assert said
            assert said.startswith(f"bronze.events: its data file {file} is ")
            assert "Nothing was written" in said
            assert "\n" not in said
            assert lake.version("silver.events") == version
        assert kept.shop("rebuild") is None
        assert content(lake, "silver.events") == rows
