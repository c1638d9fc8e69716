"""What transforms of any domain need: histories of changing rows, and text made comparable.

Everything here is pure: it takes and returns data frames or columns, without clock, path or random number.
It counts as code of the tables that use it, like their own functions (`pipeline.code`).
"""

from medallion_platform.transforms import history
from medallion_platform.transforms.composite_keys import with_composite_key, with_composite_lookup_key
from medallion_platform.transforms.text import BLANKS, trimmed

versions = with_composite_key(history.versions)
current = with_composite_key(history.current)
as_of = with_composite_lookup_key(history.as_of)

__all__ = ["BLANKS", "as_of", "current", "trimmed", "versions"]
