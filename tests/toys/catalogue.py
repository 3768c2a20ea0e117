"""All toys."""

from . import bandits, environments, labels, luck, point_mass

TOYS = (*bandits.TOYS, *point_mass.TOYS, *labels.TOYS, *luck.TOYS, *environments.TOYS)
