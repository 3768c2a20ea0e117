"""All toys."""

from . import asking, bandits, chunks, environments, fork, labels, luck, point_mass

TOYS = (
    *bandits.TOYS,
    *point_mass.TOYS,
    *labels.TOYS,
    *environments.TOYS,
    *asking.TOYS,
    *fork.TOYS,
    *luck.TOYS,
    *chunks.TOYS,
)
