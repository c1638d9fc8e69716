"""The code location of `many`, as Dagster loads it (`MEDALLION_MANY` tells how many sources)."""

from medallion_platform_tests.benchmarks import many  # isort: skip  # it says what the definitions are of
from medallion_platform.definitions import defs

__all__ = ["defs", "many"]
