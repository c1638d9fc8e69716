"""The code location of `many`, as Dagster loads it (`MEDALLION_TEST_MANY` tells how many sources).

`MEDALLION_TEST_MANY_BARE` leaves the platform's sensors out: what Dagster itself costs with as many assets.
"""

import os

import dagster as dg

from medallion_platform import definitions

__all__ = ["defs"]


def _without_sensors(found: dg.Definitions) -> dg.Definitions:
    return dg.Definitions(found.assets, jobs=found.jobs, resources=found.resources, executor=found.executor)


defs = _without_sensors(definitions.defs) if os.environ.get("MEDALLION_TEST_MANY_BARE") else definitions.defs
