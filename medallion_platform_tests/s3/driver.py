"""Takes a landing zone in a bucket in, a few rows a batch, until it is killed: `driver.py ROOT`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medallion_platform_tests.s3.zone import BucketZone

if __name__ == "__main__":
    print("begins", flush=True)
    BucketZone(sys.argv[1]).take(batch_rows=3)
