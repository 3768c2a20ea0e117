"""The command line from end to end: what is printed, what is written, and what is refused."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from conftest import PACE, SMALL, final_bits

import envs
import rlkit
from rlkit.evaluation.statistics import estimate
from rlkit.runs.record import Record
from rlkit.runs.run import evaluations
from rlkit.types import InputError

ROOT = Path(__file__).parent.parent


# ---- help


def _python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, **kwargs)


def _children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_general_help_is_quick_and_does_not_import_jax(words):
    code = f"import sys; sys.argv[1:] = {words}; import train; train.main(); assert 'jax' not in sys.modules"
    times = []
    while len(times) < 5 and min(times, default=1.0) >= 0.5:  # the best counts, in CPU seconds: others may be running
        begun = _children()
        done = _python(code)
        times.append(_children() - begun)
        assert done.returncode == 0, done.stderr
        assert "sac-rnd" in done.stdout if words[0] == "train" else "evaluate" in done.stdout
    assert min(times) < 0.5


def test_the_package_shows_what_a_user_calls_and_imports_neither_jax_nor_numpy():
    code = """
import rlcompleter, sys
import rlkit
assert {"load", "datasets", "train"} <= set(dir(rlkit))
rlkit.datasets.DataOptions("pendulum/mixed-v0")
completer = rlcompleter.Completer({"rlkit": rlkit})
assert completer.complete("rlkit.dat", 0) == "rlkit.datasets"
slow = {"jax", "numpy", "scipy", "gymnasium"} & set(sys.modules)
assert not slow, slow
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr


def test_an_agents_help_lists_its_hyper_parameters_and_imports_only_what_it_needs():
    code = """
import sys
import agents
import train
for name in agents.REGISTRY:
    sys.argv[1:] = ["train", name, "--help"]
    try:
        train.main()
    except SystemExit as end:
        assert end.code == 0
heavy = {"gymnasium", "minari", "orbax.checkpoint", "matplotlib", "h5py", "tensorboardX", "optax.contrib", "flax"}
heavy &= set(sys.modules)
assert not heavy, heavy
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr
    for text in ("--config.learning-rate", "Adam's step size", "--dataset", "--preset", "d4rl", "--resume"):
        assert text in done.stdout


def test_a_reader_that_goes_away_is_no_traceback():
    """As with `| head -1`: what is printed after the first line is read by nobody."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "train.py", "--help"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_closed_and_full_outputs_are_no_tracebacks():
    """As with `>&-`, which Python shows as None, and with `>/dev/full`."""
    code = """
import sys
import train
from rlkit import commands
catalog = train.catalog()
sys.stdout = None
assert commands.main(["judge", "run", "--replicates", "1"], catalog) == 2
sys.stdout = None
assert commands.main(["--help"], catalog) == 0
sys.stdout = open("/dev/full", "w")
sys.exit(commands.main(["--help"], catalog))
"""
    done = _python(code)
    few, full = done.stderr.splitlines()
    assert "--replicates 1: must be at least 2" in few
    assert full == "rlkit: the output cannot be written (No space left on device)"
    assert done.returncode == 1


def test_a_name_that_is_too_long_is_told_in_one_line(rlkit_command, trained, tmp_path):
    long = "q" * 300
    for argv in (["report", trained, "--out", tmp_path / f"{long}.html"], ["runs", long], ["judge", long],
                 ["train", "bc", *SMALL, *PACE, "--out", tmp_path / long]):  # fmt: skip
        code, _, err = rlkit_command(*argv)
        assert code == 2 and len(err.splitlines()) == 1 and ("too long" in err or "no such folder" in err), err
    for call in (rlkit.load, rlkit.judge):
        with pytest.raises(InputError, match="too long for the file system"):
            call(long)


# ---- mistakes


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train"),
        (["train", "sac-rdn"], "unknown agent 'sac-rdn'; did you mean sac-rnd"),
        (["train", "bc", "--preset", "d4r"], "unknown preset 'd4r'; did you mean d4rl?"),
        (["train", "bc", "--steps", "0"], "--steps 0: must be at least 1"),
        (["train", "bc", "--eval-seed", "-1"], "--eval-seed -1: must be at least 0"),
        (["train", "bc", "--eval-every", "7", "--log-every", "5"], "--eval-every 7 is not a multiple of --log-every 5"),
        (["train", "bc", "--resume", "must"], "no checkpoint to continue from"),
        (["train", "--steps", "10", "bc"], "name the agent before its options: rlkit train bc --steps 10"),
        (["train", "--dry-run", "bc", "--seeds=2"], "rlkit train bc --dry-run --seeds=2"),
        (["train", "--steps", "10", "mine:Config"], "rlkit train mine:Config --steps 10"),
        (["train", "bc", "--dataset", "no/such-v0"], "no/such-v0: not found"),
        (["train", "bc", "--env", "NoSuchEnv-v0", *SMALL], "environment NoSuchEnv-v0: "),
        (["evaluate", "no-such-run"], "no-such-run is not a run directory"),
        (["evaluate", "no-such-run", "--config.beta", "3"], "there is no run directory among no-such-run"),
        (["evaluate"], "evaluate: name a run directory"),
        (["finetune"], "finetune: name a run directory"),
        (["verify"], "verify: name a run directory"),
        (["inspect"], "inspect: name the folder of an exported policy"),
        (["report"], "report: name a run directory"),
        (["data", "check"], "name a dataset: a Minari id"),
        (["report", "--out", "x"], "report: name the run directories"),
        (["data", "check", "no/such-v0"], "no/such-v0: not found"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_code_2(rlkit_command, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = rlkit_command(*argv)
    assert code == 2
    assert err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


def test_a_command_that_imports_jax_says_first_that_it_starts(rlkit_command, monkeypatch):
    """On a terminal, where nothing else is seen for as long as that takes."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert rlkit_command("evaluate", "no-such-run")[1] == "starting\n"
    assert "starting" not in rlkit_command("train", "--help")[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert rlkit_command("evaluate", "no-such-run")[1] == ""


def test_a_wrong_option_exits_with_code_2(rlkit_command):
    with pytest.raises(SystemExit) as end:
        rlkit_command("train", "bc", "--no-such-option", "3")
    assert end.value.code == 2


# ---- training


def test_a_run_directory_is_complete(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "run.json", "metrics.jsonl", "timing.jsonl", "tensorboard", "checkpoints", "result.json", "curve.png",
        "episodes.sums",
    }  # fmt: skip
    record = Record.read(trained)
    assert (record.agent, record.steps, record.seeds) == ("bc", 40, (0, 1))
    assert record.config["widths"] == [8]
    assert {"jax", "numpy", "gymnasium"} <= set(record.versions)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "metrics" in line] == list(range(5, 41, 5))
    assert [line["step"] for line in lines if "returns" in line] == [0, 10, 20, 30, 40]
    assert all(len(line["metrics"]["policy/loss"]) == 2 for line in lines if "metrics" in line)
    assert evaluations(trained)[0].returns.shape == (2, 2)
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["30", "40"]
    assert any((trained / "tensorboard").iterdir())


def test_the_result_is_that_of_the_logged_evaluations(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["updates"] == 40
    last = evaluations(trained)[-1].returns
    assert result["run"]["returns"]["value"] == pytest.approx(last.mean())
    assert result["run"]["episode_returns"] == last.tolist()


def test_a_run_is_not_overwritten(rlkit_command, trained):
    before = (trained / "metrics.jsonl").read_bytes()
    code, _, err = rlkit_command("train", "bc", *SMALL, *PACE, "--out", trained)
    assert code == 2 and "--resume auto" in err
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_says_so(rlkit_command, trained):
    before = (trained / "metrics.jsonl").read_bytes()
    for resume in ("auto", "must"):
        code, out, _ = rlkit_command("train", "bc", *SMALL, *PACE, "--out", trained, "--resume", resume)
        assert code == 0 and "already finished" in out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_a_run_with_other_settings_is_not_continued(rlkit_command, trained):
    other = ["--config.learning-rate", "0.5", "--normalise", "standard"]
    code, _, err = rlkit_command("train", "bc", *SMALL, *PACE, *other, "--out", trained, "--resume", "auto")
    assert code == 2
    assert "config.learning_rate: 0.0003 -> 0.5" in err and 'data.normalise: "none" -> "standard"' in err


class Fails(gymnasium.Wrapper):
    """An environment that breaks at some of the resets of the process."""

    resets = range(0)
    count = 0

    def reset(self, **kwargs):
        Fails.count += 1
        if Fails.count in Fails.resets:
            raise RuntimeError("the simulator broke")
        return super().reset(**kwargs)


@pytest.fixture
def fails(monkeypatch):
    """Set at which resets it fails; the check makes one, and an evaluation four."""

    def at(resets):
        monkeypatch.setattr(Fails, "resets", resets)
        monkeypatch.setattr(Fails, "count", 0)
        return lambda spec: Fails(envs.make(spec))

    return at


def test_an_evaluation_that_fails_is_marked_invalid_and_training_goes_on(rlkit_command, trained, tmp_path, fails):
    argv = ["train", "bc", *SMALL, *PACE, "--out", tmp_path / "run", "--resume", "auto"]
    code, _, err = rlkit_command(*argv, make_env=fails(range(7, 8)))
    assert code == 1
    assert "after 10 updates is invalid: evaluation of seed 0, episode 1" in err
    assert err.splitlines()[-1].endswith("1 evaluations are invalid; metrics.jsonl says why")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "returns" in line] == [0, 20, 30, 40]
    assert [(line["step"], "simulator broke" in line["invalid"]) for line in lines if "invalid" in line] == [(10, True)]
    assert final_bits(tmp_path / "run") == final_bits(trained)
    assert (tmp_path / "run" / "result.json").exists()


def test_without_its_last_evaluation_a_run_is_not_finished_and_makes_it_when_it_is_resumed(
    rlkit_command, trained, tmp_path, fails
):
    argv = ["train", "bc", *SMALL, *PACE, "--out", tmp_path / "run", "--resume", "auto"]
    code, _, err = rlkit_command(*argv, make_env=fails(range(18, 99)))
    assert code == 1 and "its last evaluation is invalid" in err.splitlines()[-1]
    assert not (tmp_path / "run" / "result.json").exists()
    assert rlkit_command(*argv)[0] == 0
    assert final_bits(tmp_path / "run") == final_bits(trained)
    for name in ("metrics.jsonl", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


def test_a_preset_is_a_default_that_options_win_over(rlkit_command):
    code, out, _ = rlkit_command(
        "train", "bc", "--preset", "d4rl", "--dataset", "pendulum/mixed-v0", "--config.batch-size", "32", "--dry-run"
    )
    assert code == 0
    shown = json.loads(out[: out.index("\n\n")])
    assert (shown["steps"], shown["preset"], shown["config"]["batch_size"]) == (1_000_000, "d4rl", 32)
    assert shown["data"]["normalise"] == "standard"


def test_dry_run_tells_the_size_and_writes_nothing(rlkit_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = rlkit_command("train", "bc", *SMALL, "--dry-run", "--out", tmp_path / "run")
    assert code == 0 and not list(tmp_path.iterdir())
    assert "float32[8, 3]" in out
    assert f"{3 * 8 + 8 + 8 * 1 + 1:,}" in out  # 3 observations, 8 hidden units, 1 action
    assert "memory: data" in out


def test_without_an_environment_training_goes_on_and_says_so_once(rlkit_command, tmp_path):
    def missing(spec):
        raise InputError("environment X: simulator is not installed")

    code, out, err = rlkit_command("train", "bc", *SMALL, *PACE, "--out", tmp_path / "run", make_env=missing)
    assert code == 0
    assert err.count("training without evaluation: environment X: simulator is not installed") == 1
    assert Record.read(tmp_path / "run").evaluation is None
    assert "run" not in json.loads((tmp_path / "run" / "result.json").read_text())


# ---- what a run is good for


def test_evaluate_repeats_the_last_evaluation_of_training(rlkit_command, trained):
    closing, evaluated = (
        rlkit_command(*argv)[1]
        for argv in (["train", "bc", *SMALL, *PACE, "--out", trained, "--resume", "auto"], ["evaluate", trained])
    )
    found = estimate(evaluations(trained)[-1].returns)
    assert found.over == "seeds and starts"
    cell = f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"
    for table in (closing, evaluated):  # the same checkpoint and starts: the same mean, with the same interval
        rows = [re.split("  +", line) for line in table.splitlines() if line.startswith("bc")]
        assert [row[1] for row in rows] == [cell]
        assert "[95 % t interval] over seeds and starts; (*) over episodes alone" in table


def test_the_seed_of_the_starts_is_recorded_and_can_be_chosen(rlkit_command, trained, tmp_path):
    assert Record.read(trained).evaluation.seed == 1_000_000
    resets = []

    class Watched(gymnasium.Wrapper):
        def reset(self, *, seed=None, options=None):
            resets.append(seed)
            return super().reset(seed=seed, options=options)

    def make_env(spec):
        return Watched(envs.make(spec))

    argv = ["train", "bc", *SMALL, *PACE, "--eval-seed", "77", "--out", tmp_path / "run"]
    assert rlkit_command(*argv, make_env=make_env)[0] == 0
    assert Record.read(tmp_path / "run").evaluation.seed == 77
    assert {one.seed for one in evaluations(tmp_path / "run")} == {77}
    assert set(resets) == {77, 78}
    for asked, seeds in (([], {77, 78}), (["--eval-seed", "5"], {5, 6})):
        resets.clear()
        assert rlkit_command("evaluate", tmp_path / "run", *asked, make_env=make_env)[0] == 0
        assert set(resets) == seeds
    other = ["train", "bc", *SMALL, *PACE, "--out", tmp_path / "run", "--resume", "auto"]
    code, out, err = rlkit_command(*other)  # it is finished, so nothing is left to be evaluated otherwise
    assert code == 0 and "already finished" in out and "stays as it is (evaluation.seed: 77 -> 1000000)" in err
    assert Record.read(tmp_path / "run").evaluation.seed == 77


def test_report_puts_runs_side_by_side(rlkit_command, trained, tmp_path):
    code, out, _ = rlkit_command("report", trained, trained, "--out", tmp_path)
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith("bc ")]
    assert len(rows) == 1 and "pendulum/mixed-v0" in out
    assert f"note: {trained} was named twice, and counts once" in out
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_evaluations_has_a_row_that_says_so(rlkit_command, trained, tmp_path):
    silent = tmp_path / "silent"
    silent.mkdir()
    for name in ("run.json", "metrics.jsonl"):
        shutil.copy(trained / name, silent / name)
    logged = [json.loads(line) for line in (silent / "metrics.jsonl").read_text().splitlines()]
    kept = [json.dumps(line) + "\n" for line in logged if "returns" not in line]
    (silent / "metrics.jsonl").write_text("".join(kept))
    code, out, _ = rlkit_command("report", trained, silent, "--out", tmp_path / "report")
    assert code == 0
    assert any(line.startswith(f"bc ({silent}): no evaluations") for line in out.splitlines())
    assert any(line.startswith(f"bc ({trained})") and "[" in line for line in out.splitlines())
    assert (tmp_path / "report" / "curve.png").exists()
    code, _, err = rlkit_command("report", silent)
    assert code == 2 and "bc on pendulum/mixed-v0: no evaluations" in err and err.count("\n") == 1


def test_a_loaded_policy_scores_what_the_evaluator_measured(trained):
    """The same environment, seed and state give the same return, one environment at a time."""
    policy = rlkit.load(trained, member=1)
    env = gymnasium.make("Pendulum-v1")
    for episode, measured in enumerate(evaluations(trained)[-1].returns[1]):
        obs, _ = env.reset(seed=1_000_000 + episode)
        policy.reset()
        total, reward, over = 0.0, 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy.act(obs, reward))
            total, over = total + reward, terminated or truncated
        assert total == pytest.approx(measured, rel=1e-4)


def test_a_loaded_policy_refuses_other_observations_and_seeds(trained):
    with pytest.raises(InputError, match="observation: 4 numbers wide, but the space has 3"):
        rlkit.load(trained).act(np.zeros(4))
    with pytest.raises(InputError, match="has 2 seeds; member 2 is not one of them"):
        rlkit.load(trained, member=2)


def test_load_refuses_modules_that_are_not_agents(trained, tmp_path):
    form = json.loads((trained / "run.json").read_text())
    for module in ("os", "agents", "agents..bc", "agents.__init__", "rlkit.runs.run", "agents.no_such"):
        (tmp_path / "run.json").write_text(json.dumps(form | {"module": module}))
        with pytest.raises(InputError, match="module"):
            rlkit.load(tmp_path)


def test_evaluate_takes_other_settings_of_the_agent_if_its_networks_stay_as_they_are(rlkit_command, trained, capsys):
    code, out, _ = rlkit_command("evaluate", trained, "--config.learning-rate", "0.5")
    assert code == 0 and "with other settings than in training: learning_rate: 0.0003 -> 0.5" in out
    code, _, err = rlkit_command("evaluate", trained, "--config.widths", "4")
    assert code == 2 and err.count("\n") == 1
    assert "config (widths: [8] -> [4]): the networks of" in err and "the agent's settings are widths, " in err
    with pytest.raises(SystemExit):
        rlkit_command("evaluate", trained, "--config.widhts", "4")
    assert "--config.widths" in capsys.readouterr().err
    code, _, err = rlkit_command("evaluate", trained, "--config.learning-rate", "-1")
    assert code == 2 and "--config.learning-rate -1.0: must be" in err


def test_load_takes_other_settings_of_the_agent(trained):
    assert rlkit.load(trained, config={"learning_rate": 0.5}).act(np.zeros(3)).shape == (1,)
    with pytest.raises(InputError, match="config has no setting 'learning_rates'; did you mean learning_rate"):
        rlkit.load(trained, config={"learning_rates": 0.5})
    with pytest.raises(InputError, match="^config: learning_rate -1.0: must be"):
        rlkit.load(trained, config={"learning_rate": -1})
    for wrong in ({"batch_size": 5.5}, {"widths": 8}):
        with pytest.raises(InputError, match=r"^config\.") as refusal:
            rlkit.load(trained, config=wrong)
        assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="takes no goal"):
        rlkit.load(trained).reset(goal=3.0)


def test_a_file_is_no_folder_to_write_to(rlkit_command, trained, tmp_path):
    """It is told before anything is played or trained, and the file stays."""
    file = tmp_path / "file"
    file.write_text("mine")
    for words in ["train", "bc", *SMALL], ["evaluate", trained], ["report", trained]:
        code, out, err = rlkit_command(*words, "--out", file)
        assert code == 2 and err.count("\n") == 1 and str(file) in err and not out
    code, _, err = rlkit_command("train", "--resume", "auto", "--out", tmp_path / "absent")
    assert code == 2 and "absent is no run to go on with" in err
    assert file.read_text() == "mine"


def test_a_run_goes_on_from_another_folder(rlkit_command, tmp_path, monkeypatch):
    """Its data are recorded by their whole path."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    rows = ["episode,step,observation,action,reward,terminated", "0,0,0.5,0,1,0", "0,1,0.25,1,0,1"]
    Path("x.csv").write_text("\n".join(rows) + "\n")
    words = ["--steps", "2", "--config.widths", "8", "--config.batch-size", "8"]
    code, out, err = rlkit_command("train", "bc", "--dataset", "x.csv", *words, "--out", "run")
    assert code == 0 and "x.csv: no scores: nothing was evaluated" in out, err
    monkeypatch.chdir(tmp_path)
    code, _, err = rlkit_command("train", "--resume", "auto", "--out", "here/run", "--steps", "4")
    assert code == 0, err
    assert Record.read(Path("here/run")).steps == 4
