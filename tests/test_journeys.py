"""docs/journeys.md: its commands and its code, run as they stand there, with few updates."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlkit.types import InputError

PAGE = Path(__file__).parent.parent / "docs/journeys.md"
FEW = {
    "train": ["--steps", "4", "--config.batch-size", "8", "--config.widths", "8"],
    "judge": ["--replicates", "2", "--updates", "4"],
}
REACH = '''
import gymnasium, numpy as np
from gymnasium.wrappers import TimeLimit


class Reach(gymnasium.Env):
    """An arm on a line, whose hand is to be at 0."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.hand = self.np_random.uniform(-2, 2, 1).astype(np.float32)
        return self.hand, {}

    def step(self, action):
        self.hand = np.clip(self.hand + 0.5 * action, -9, 9).astype(np.float32)
        return self.hand, -float(abs(self.hand[0])), False, False, {}


def make():
    return TimeLimit(Reach(), 5)
'''


@pytest.fixture
def follow(rlkit_command, tmp_path, monkeypatch):
    """Run what stands under a heading of the page, in a folder of its own; returns what its Python has defined."""
    monkeypatch.chdir(tmp_path)

    def run(heading):
        _, found = PAGE.read_text().split(f"## {heading}\n", 1)
        text = found.split("\n## ", 1)[0]
        defined = {}
        for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
            if language == "python":
                exec(block, defined)
                continue
            for line in re.sub(r"\n +", " ", block).splitlines():
                _, *words = shlex.split(line)
                few = FEW.get(words[0], [])
                code, out, err = rlkit_command(*words, *few)
                assert code == 0, err
                defined[words[0]] = out + err
        return defined

    return run


def ward(path, seed):
    """Twelve patients of three visits, of whom every second one leaves alive."""
    rng = np.random.default_rng(seed)
    lines = ["patient;hour;heart_rate;lactate;dose;alive;left"]
    for patient in range(12):
        for hour in range(0, 12, 4):
            rate, lactate = rng.normal(80, 9), rng.uniform(1, 4)
            left = hour == 8
            alive = int(left and patient % 2)
            lines.append(
                f"p{patient};{hour};{rate:.1f};{lactate:.2f};{rng.integers(3)};{alive};{'yes' if left else 'no'}"
            )
    Path(path).write_text("\n".join(lines) + "\n")


def test_a_clinician_with_a_table_and_no_simulator(follow):
    ward("visits.csv", 0)
    ward("later.csv", 1)
    said = follow("A table of patients, and no simulator")
    assert "36" in said["data"] and "without evaluation" in said["train"]
    policy = said["policy"]
    assert policy.action_space.contains(said["dose"]) and policy.action_space.n == 3
    assert said["preferences"].shape == (3,) and said["preferences"].argmax() == said["dose"]
    in_order = policy.q(np.array([91.0, 2.1]))  # heart rate, then lactate, as --columns.observation had them
    np.testing.assert_allclose(said["preferences"], in_order, rtol=1e-6)
    with pytest.raises(InputError, match="heart_rate"):
        policy.act({"lactate": 2.1, "pulse": 91.0})
    assert "on held-out data: later.csv" in said["judge"] and "minus the recorded return" in said["judge"]
    page = Path("dose.html").read_text()
    assert "Of 100 patients like these" in page and "lactate" in page and "given \\ proposed" in page


def test_a_roboticist_with_an_environment_in_a_file(follow):
    Path("reach.py").write_text(REACH)
    Path("episodes").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        hand = rng.uniform(-2, 2, (6, 1)).astype(np.float32)
        actions = rng.uniform(-1, 1, (5, 1)).astype(np.float32)
        np.savez(f"episodes/{number}.npz", observations=hand, actions=actions, rewards=-np.abs(hand[:5, 0]))
    said = follow("Episodes of a robot, and an environment in a file")
    assert "bc" in said["evaluate"] or "return" in said["evaluate"]


def test_a_game_company_with_logs_of_choices(follow):
    rng = np.random.default_rng(0)
    Path("logs").mkdir()
    rows = 24
    columns = {
        "match": np.repeat(np.arange(4), 6),
        "turn": np.tile(np.arange(6), 4),
        "move": rng.integers(0, 5, rows),  # nobody ever made the last of the six moves
        "points": rng.normal(size=rows),
    }
    for number in range(4):
        columns[f"state_{number}"] = rng.normal(size=rows)
    table = pa.table(columns)
    parquet.write_table(table.slice(0, 9), "logs/part-0.parquet")  # the second match goes on in the second file
    parquet.write_table(table.slice(9), "logs/part-1.parquet")
    said = follow("Logs of a game in many Parquet files")
    policy = said["policy"]
    assert policy.action_space.n == 6 and said["moves"].shape == (5,) and set(said["moves"].tolist()) <= set(range(6))
    assert said["chances"].shape == (6,) and abs(said["chances"].sum() - 1) < 1e-5
    assert "4 episodes" in said["train"] or "episodes" in said["train"]
