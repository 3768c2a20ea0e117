"""All toys."""

from . import asking, bandits, chunks, constraints, environments, fork, labels, luck, modes, point_mass, stacking

TOYS = (
    *bandits.TOYS,
    *point_mass.TOYS,
    *labels.TOYS,
    *environments.TOYS,
    *asking.TOYS,
    *fork.TOYS,
    *luck.TOYS,
    *modes.TOYS,
    *constraints.TOYS,
    *stacking.TOYS,
    *chunks.TOYS,
)
