"""All toys."""

from . import bandits, environments, fork, labels, point_mass

TOYS = (*bandits.TOYS, *point_mass.TOYS, *labels.TOYS, *environments.TOYS, *fork.TOYS)
