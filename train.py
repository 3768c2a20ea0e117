"""The composition root: hands the agents and the environments to rlkit's commands, and does nothing else."""

import sys

import agents
import envs
from rlkit import commands


def catalog() -> commands.Catalog:
    """The agents, environments and datasets of this project."""
    return commands.Catalog(
        agents=agents.REGISTRY,
        make_env=envs.make,
        references=envs.REFERENCES,
        datasets=envs.DATASETS,
        episodes=envs.episodes,
    )


def main() -> int:
    """The console command ``rlkit``; returns its exit code."""
    return commands.main(sys.argv[1:], catalog())


if __name__ == "__main__":
    sys.exit(main())
