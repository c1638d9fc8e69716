"""All that this project runs."""

from medallion_platform import Catalog

from .tables import BANQUETS, MEALS, banquet, hungry

catalog = Catalog(sources=(MEALS, BANQUETS), tables=(hungry, banquet))
