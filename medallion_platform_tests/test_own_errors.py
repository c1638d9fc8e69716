"""Every error that a person can be told is one of the platform's own, with a class."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil

import medallion_platform
from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.lakehouse.commit import CommitConflict

SIGNALS = {
    "cli.exits.Interruption": "a signal of the system",
    "cli.exits.Stop": "how the command line ends, with an exit code",
    "contracts.sql.SqlError": "told as a ContractError",
    "kubernetes.lease.LeaseChanged": "the lease is looked at again",
    "pipeline.out_of_date.NeedsRows": "asked of a plan that reads logs alone",
    "sources.formats.avro.DecodeError": "a record that is a dead letter",
    "sources.formats.records.HeaderError": "told as an UnreadableFile",
    "sources.formats.json_shapes.NoShape": "another parser is asked",
}
"""Those that the room which raises them takes back itself, and what becomes of them."""


def own() -> dict[str, type[BaseException]]:
    """All classes of exceptions that the package defines, by module and name."""
    found: dict[str, type[BaseException]] = {}
    for module in pkgutil.walk_packages(medallion_platform.__path__, "medallion_platform."):
        for name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, BaseException) and kind.__module__ == module.name:
                found[f"{module.name.partition('.')[2]}.{name}"] = kind
    return found


def test_what_a_person_can_be_told_has_a_class_of_failure() -> None:
    others = {n for n, kind in own().items() if not issubclass(kind, MedallionError)}
    assert {n for n in others if not n.rpartition(".")[2].startswith("_")} == set(SIGNALS)
    ours = {n: kind for n, kind in own().items() if issubclass(kind, MedallionError)}
    told_by_their_cause = {"errors.MedallionError", "storage.Unusable"}
    assert {n for n, kind in ours.items() if kind.kind is Kind.UNKNOWN} == told_by_their_cause


def test_what_to_do_is_told_once_and_goes_with_the_error() -> None:
    error = CommitConflict("silver.x: another writer committed first", table="silver.x")
    assert str(error) == "silver.x: another writer committed first; run it again"
    again = pickle.loads(pickle.dumps(CommitConflict("x", remedy="optimize it again")))
    assert str(again) == "x; optimize it again"
    assert classify(error).remedy == "run it again"
    assert classify(again).remedy == "optimize it again"


def test_each_error_travels_between_processes() -> None:
    """Also one whose class asks for more than a text."""
    for name, kind in own().items():
        if not issubclass(kind, MedallionError):
            continue
        error = kind.__new__(kind, "what happened")
        MedallionError.__init__(error, "what happened", kind=Kind.GAP, table="silver.x", remedy="do this")
        vars(error)["path"] = "events/1.json"
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind, name
        assert (again.args, vars(again)) == (error.args, vars(error)), name
        assert str(again) == str(error), name
