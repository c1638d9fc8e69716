"""Pulls an API until it is killed: run as a program, `driver.py ADDRESS cursor|page LAKE`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.sources.connectors import rest
from medallion_platform_tests.pipeline.toy import NOW, RUN
from medallion_platform_tests.rest.server import Api
from medallion_platform_tests.rest.test_rest import CURSOR, PAGE, source_of

if __name__ == "__main__":
    address, paging, lake = sys.argv[1:]
    source = source_of(Api(address=address), {"cursor": CURSOR, "page": PAGE}[paging])
    print("begins", flush=True)
    intake(rest.Resource(source, NOW), Lake(Path(lake)), RUN, batch_rows=7)
