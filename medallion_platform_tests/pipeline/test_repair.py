"""Work goes on after each damaged file that it meets was repaired, once each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medallion_platform.errors import Kind, chain_of
from medallion_platform.lakehouse.damaged_files import DamagedFile
from medallion_platform.pipeline.repair import repair_what_is_met, table_of


class Files:
    """Damaged files, each with those that have to be whole before it can be repaired."""

    def __init__(self, damaged: dict[str, list[str]], never: str = "") -> None:
        self.damaged, self.never, self.repaired = dict(damaged), never, list[str]()

    def read(self, *names: str) -> Callable[[], str]:
        def work() -> str:
            for name in names:
                if name in self.damaged:
                    raise damage(name)
            return "read"

        return work

    def repair(self, found: DamagedFile) -> None:
        self.read(*self.damaged[found.file])()
        self.repaired.append(found.file)
        if found.file != self.never:
            del self.damaged[found.file]


def damage(name: str) -> DamagedFile:
    return DamagedFile("silver.a", f"/lake/silver/a/day=2026-01-05/{name}", "is gone")


def test_what_is_whole_is_read_and_nothing_repaired() -> None:
    files = Files({"other": []})
    assert repair_what_is_met(files.read("a"), files.repair) == "read"
    assert files.repaired == []


def test_each_file_is_repaired_after_those_that_it_needs() -> None:
    files = Files({"a": ["b", "c"], "b": ["c"], "c": [], "d": []})
    assert repair_what_is_met(files.read("d", "a"), files.repair) == "read"
    assert files.repaired == ["d", "c", "b", "a"]


@pytest.mark.parametrize("of", [Files({"a": []}, never="a"), Files({"a": ["b"], "b": ["a"]})])
def test_what_stays_damaged_is_not_repaired_for_ever(of: Files) -> None:
    with pytest.raises(DamagedFile):
        repair_what_is_met(of.read("a"), of.repair)
    assert of.repaired in (["a"], [])


def test_another_error_ends_it() -> None:
    def fail(_: DamagedFile) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        repair_what_is_met(Files({"a": []}).read("a"), fail)


def test_the_writer_of_dead_letters_is_that_of_their_table() -> None:
    letters = DamagedFile("dead_letters.silver.a", "/lake/dead_letters/silver.a/x", "is gone")
    assert table_of(letters) == table_of(damage("x")) == "silver.a"


def test_evidence_names_table_and_file_and_no_folder_with_a_value() -> None:
    error = RuntimeError("it failed")
    error.__cause__ = DamagedFile("silver.a", "/lake/silver/a/email=x@y.z/part-1.parquet", "is gone")
    chain = chain_of(error)
    assert (chain.said, chain.table, chain.file) == (Kind.CORRUPT, "silver.a", "part-1.parquet")
    assert "x@y.z" not in str(chain.as_dict())
    assert type(chain).from_dict(chain.as_dict()) == chain
