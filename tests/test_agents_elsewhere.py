"""An agent in a package of the user's own: named by an entry point, or typed; trained, evaluated, loaded, resumed."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import percent_bc
import pytest
from conftest import PACE, SMALL

import rlkit
from rlkit.buffer import Buffer
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.runs import registry
from rlkit.testing import Conformance
from rlkit.types import InputError

SOURCE = Path(__file__).parent / "percent_bc.py"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder on Python's path with the module `elsewhere`."""
    shutil.copy(SOURCE, tmp_path / "elsewhere.py")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("elsewhere", None)


@pytest.fixture
def installed(package):
    """The same with what an installer leaves beside it."""
    info = package / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rlkit.agents]\nbest-tenth = elsewhere\n")
    return package


def test_an_installed_agent_is_listed_trained_evaluated_loaded_and_resumed(rlkit_command, installed, tmp_path):
    code, out, _ = rlkit_command("train")
    assert code == 0 and "best-tenth" in out and "from elsewhere" in out
    run = tmp_path / "run"
    argv = ["train", "best-tenth", *SMALL, *PACE, "--config.share", "0.2", "--out", run]
    assert rlkit_command(*argv)[0] == 0
    code, out, _ = rlkit_command(*argv, "--resume", "auto")
    assert code == 0 and "already finished" in out
    assert rlkit_command("evaluate", run)[0] == 0
    assert rlkit.load(run).act(np.zeros(3)).shape == (1,)
    shutil.rmtree(installed / "elsewhere-1.0.dist-info")
    with pytest.raises(InputError, match="'elsewhere' is not a module of the package agents or of an installed"):
        rlkit.load(run)


def test_a_typed_agent_is_typed_again_where_its_run_is_used(rlkit_command, package, tmp_path):
    run, name = tmp_path / "run", "elsewhere:Config"
    assert rlkit_command("train", name, *SMALL, *PACE, "--out", run)[0] == 0
    assert json.loads((run / "run.json").read_text())["module"] == name
    assert rlkit_command("train", name, *SMALL, *PACE, "--out", run, "--resume", "auto")[0] == 0
    code, _, err = rlkit_command("evaluate", run)
    assert code == 2 and f"add --agent {name}" in err and err.count("\n") == 1
    assert rlkit_command("evaluate", run, "--agent", name)[0] == 0
    with pytest.raises(InputError, match="is not imported unless it is named"):
        rlkit.load(run)
    assert rlkit.load(run, agent=name).act(np.zeros(3)).shape == (1,)
    assert rlkit_command("report", run)[0] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere:Config", "there is no module nowhere"), ("elsewhere:Nothing", "the module elsewhere has no Nothing")],
)
def test_what_is_typed_wrongly_is_said_in_one_line(rlkit_command, package, name, message):
    code, _, err = rlkit_command("train", name)
    assert code == 2 and message in err and err.count("\n") == 1


def test_the_best_tenth_alone_is_drawn():
    episodes = [
        {
            "observations": np.full((4, 1), e, np.float32),
            "actions": np.zeros((3, 1), np.float32),
            "rewards": np.full(3, (7 * e) % 20, np.float32),
        }
        for e in range(20)
    ]
    data = from_episodes(episodes)
    normaliser = Normaliser.fit(data, DataOptions("test"))
    learner = percent_bc.Config(share=0.1).stages(spec(data, None), 1)[0].learner
    assert hash(learner) == hash(dataclasses.replace(learner))
    buffer = Buffer.from_episodes(data, normaliser, learner.needs)
    drawn = set(np.asarray(learner.sample(buffer, jax.random.key(0)).obs).ravel())
    assert drawn == {17.0, 14.0}  # rewards 19 and 18 a step


class TestPercentBC(Conformance):
    module = percent_bc


def test_the_name_of_an_entry_does_not_hide_one_of_ours():
    assert registry.recorded("agents.bc").module == "agents.bc"
    assert not registry.is_typed("bc") and registry.is_typed("my_package.my_agent:Config")
