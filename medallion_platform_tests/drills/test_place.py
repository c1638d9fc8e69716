"""Where a drill may work, and with which part of a catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

from medallion_platform.drills.place import Place, TooClose, part_of, refuse_close, refuse_places_of
from medallion_platform.drills.world import CannotDrill, folder_of_drills
from medallion_platform.installation.catalog import catalog
from medallion_platform.installation.settings import Settings


@pytest.mark.parametrize("theirs", ["drills", "drills/lake", ".", "other/../drills"])
def test_a_drill_works_in_no_place_of_the_user(tmp_path: Path, theirs: str) -> None:
    with pytest.raises(TooClose, match=r"the lake of this installation is at .*Nothing was done"):
        refuse_close(tmp_path / "drills", {"lake": tmp_path / theirs})


def test_a_drill_works_in_no_place_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "drills").symlink_to(tmp_path / "lake")
    with pytest.raises(TooClose):
        refuse_places_of(Settings(home=tmp_path), tmp_path / "drills")


def test_the_usual_places_are_far_enough(tmp_path: Path) -> None:
    refuse_places_of(Settings(home=tmp_path), tmp_path / "drills")
    refuse_close(tmp_path / "drills", {"lake": tmp_path / "drills-of-the-user"})


def test_a_landing_zone_that_is_the_home_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, landing=tmp_path)
    with pytest.raises(TooClose, match="landing zone"), folder_of_drills(settings):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_drill_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    left = tmp_path / "drills" / "world-abc" / "lake"
    left.mkdir(parents=True)
    (tmp_path / "drills" / "of the user").mkdir()
    (tmp_path / "drills" / "world-link").symlink_to(tmp_path / "lake")
    with folder_of_drills(Settings(home=tmp_path)) as folder:
        assert not left.exists()
        assert (folder / "of the user").is_dir()
        assert (folder / "world-link").exists()
        assert (tmp_path / "lake").is_dir()


def test_two_commands_do_not_drill_at_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with folder_of_drills(settings) as folder:
        (folder / "world-1").mkdir()
        with pytest.raises(CannotDrill, match="another command runs drills"), folder_of_drills(settings):
            pass
        assert (folder / "world-1").is_dir()


def test_a_place_survives_the_way_to_another_process(tmp_path: Path) -> None:
    place = Place(tmp_path, ("bronze.events",), "drill-1", '{"AWS_REGION": "x"}')
    assert Place.of(place.as_dict()) == place
    assert place.settings.landing == "s3://drill-1/landing"
    assert Place(tmp_path, ()).settings.lake == tmp_path / "lake"


def test_of_a_catalog_remains_what_the_traffic_reaches() -> None:
    every = part_of(catalog, [source.table for source in catalog.sources])
    assert every.names == catalog.names
    assert every.features == ()
    departments = part_of(catalog, ["bronze.departments"])
    assert departments.names == ("bronze.departments", "silver.departments")
    assert part_of(catalog, []).names == ()
