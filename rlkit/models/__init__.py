"""Models that are learnt of the world: of its moves, of its rewards, and rollouts of both."""
