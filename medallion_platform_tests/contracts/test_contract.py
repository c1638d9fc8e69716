"""The compiled form: plain data, frozen, with a stable fingerprint, and light to import."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys

import pytest

from medallion_platform.contracts.contract import Severity

from .rows import model

HEAVY = ("pandera", "polars", "pyspark", "pandas", "pyarrow")


def test_the_types_import_no_engine_and_no_pandera() -> None:
    program = (
        "import sys, medallion_platform.contracts, medallion_platform.contracts.contract,"
        " medallion_platform.contracts.masking, medallion_platform.contracts.sql;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_validating_in_polars_imports_neither_pandera_nor_spark() -> None:
    program = (
        "import sys, medallion_platform.contracts.polars_engine;"
        "print([name for name in ('pandera', 'pyspark') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_contract_is_frozen_and_can_be_sent() -> None:
    contract = model({"a": ("string", {"isin": ["x", "y"]})}).contract
    assert pickle.loads(pickle.dumps(contract)) == contract
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract.name = "other"  # type: ignore[misc]


def test_the_fingerprint_says_what_decides_over_rows() -> None:
    def told(options: dict[str, object], **config: object) -> str:
        return model({"a": ("string", options)}, **config).contract.fingerprint

    before = told({"isin": ["x", "y"], "description": "one"})
    assert before == told({"isin": ["y", "x"], "description": "other"})
    others = [
        told({"isin": ["x"]}),
        told({"isin": ["x", "y"], "nullable": True}),
        told({"isin": ["x", "y"], "metadata": {"severity": "warn"}}),
        told({"isin": ["x", "y"]}, metadata={"key": ["a"]}),
        told({"isin": ["x", "y"]}, metadata={"rows": {"r": "a <> 'z'"}}),
        told({"isin": ["x", "y"], "metadata": {"pii": "email"}}),
    ]
    assert len({before, *others}) == 7


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    program = (
        "import pyspark.sql.types as T\n"
        "from medallion_platform.contracts.model import ContractModel, Field\n"
        "class Made(ContractModel):\n"
        "    a: T.StringType = Field(isin=['x', 'y', 'z'])\n"
        "print(Made.contract.fingerprint)"
    )
    other = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=other
    )
    assert told.stdout.strip() == model({"a": ("string", {"isin": ["z", "y", "x"]})}).contract.fingerprint


def test_what_a_contract_can_be_asked() -> None:
    contract = model(
        {"a": ("string", {}), "b": ("string", {"nullable": True, "metadata": {"pii": "phone"}})},
        metadata={"rows": {"same": "a = b"}},
    ).contract
    assert contract.column_names == ("a", "b")
    assert contract.column("b").nullable
    assert contract.pii == {"b": "phone"}
    assert contract.named(Severity.REJECT)[-1] == "same"
