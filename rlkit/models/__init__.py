"""Models that are learnt from data: of the dynamics, of the rewards, and rollouts of both."""
