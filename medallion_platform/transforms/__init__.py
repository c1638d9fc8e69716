"""What transforms of any domain need: histories of changing rows, and text made fit to compare.

All of it is pure: it takes data frames or columns and gives such, and knows no clock, path or random number.
What stands here counts as code of the tables that use it, as their own does (`pipeline.code`).
"""

from medallion_platform.transforms import history
from medallion_platform.transforms.several import looked_up_by_several, of_several
from medallion_platform.transforms.text import BLANKS, trimmed

versions = of_several(history.versions)
current = of_several(history.current)
as_of = looked_up_by_several(history.as_of)

__all__ = ["BLANKS", "as_of", "current", "trimmed", "versions"]
