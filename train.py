"""The composition root: hands the agents and the environments to rlkit's commands, and does nothing else."""

import sys

import agents
import envs
from rlkit import commands


def world() -> commands.World:
    """What the commands work with."""
    return commands.World(agents.REGISTRY, envs.make, envs.REFERENCES, envs.DATASETS, envs.episodes)


def main() -> int:
    """The console command ``rlkit``; returns its exit code."""
    return commands.main(sys.argv[1:], world())


if __name__ == "__main__":
    sys.exit(main())
