"""Tests run on eight virtual CPU devices, with silent rank promotion made an error."""

import gc
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# By default XLA ends the process where a device waits 40 seconds for the others, as it may on a busy machine.
DEVICES = (
    "--xla_force_host_platform_device_count=8 --xla_cpu_collective_timeout_seconds=1200 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=1200"
)
# Compilation is most of the suite's time, and these programs are too small to profit from XLA's optimisations. With
# OPTIMISED, which `make test` sets for its second part, XLA compiles as it does for a user.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
# the caller's flags are kept, here and in the processes that tests start
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), DEVICES, "" if os.environ.get("OPTIMISED") else QUICK]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest

import agents
import envs
from rlkit import commands
from rlkit.buffer import abstract
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.record import Record, rebuild
from rlkit.testing import SLOW, bits
from rlkit.training.sharding import make_mesh
from rlkit.types import Stats

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes millions of objects that live on. Python's collector, which looks at them all again and again, would
# take a twentieth of the suite's time.
gc.set_threshold(100_000, 20, 50)

SMALL = ["--config.widths", "8", "--config.batch-size", "8", "--steps", "40", "--seeds", "2", "--eval-episodes", "2"]
PACE = ["--eval-every", "10", "--log-every", "5"]


def pytest_configure(config):
    """One compilation of each program in a session, shared by its workers and by the tests' subprocesses."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.compiled = tempfile.TemporaryDirectory(prefix="xla-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.compiled.name
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


# files that `make test-fast` leaves out whole: transformers and denoisers take longest to compile, and these commands
# train several runs
SLOW_FILES = {
    "test_collect", "test_decision_diffuser", "test_denoisers", "test_diffusion", "test_diffusion_policy", "test_doc",
    "test_dql", "test_dt", "test_fql", "test_guidance", "test_idql", "test_journeys", "test_odt", "test_pdt",
    "test_sweep",
}  # fmt: skip
SPREAD = {"test_interrupts"}  # files of which each test may go to another worker: it starts processes of its own
APART = SPREAD | {"test_notebooks"}  # files of which no two tests share a fixture that takes long
# CPU seconds of the files that take longest, by measurement; what is not named takes less
WEIGHTS = {
    "test_pdt": 60, "test_online_runs": 58, "test_semi_pessimistic": 50, "test_accelerator": 45, "test_dt": 40,
    "test_notebooks": 31, "test_online_futures": 30, "test_online": 34, "test_toys": 30,
    "test_diffusion_policy": 28, "test_online_sac": 22, "test_online_agents": 21, "test_online_episodes": 19,
    "test_networks": 18, "test_collect": 18, "test_cql": 13, "test_cli": 13, "test_divergence": 11, "test_sac": 11,
    "test_conformance": 10,
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that share a fixture go to one worker: those of a file, or of a case that names its group first.

    What takes longest comes first (`--no-loadscope-reorder` keeps it so), for no worker to be left alone with it.
    """
    for item in items:
        in_slow_file = item.module.__name__ in SLOW_FILES
        if in_slow_file or item.get_closest_marker("learning") or getattr(item, "originalname", "") in SLOW:
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    weights = {item: _weight(item) for item in items}
    waiting = [item for item in items if item.module.__name__ in SPREAD]
    for number, item in enumerate(waiting):
        weights[item] = 3 * number  # here and there, so that another worker computes while one waits
    items.sort(key=weights.get, reverse=True)


def _group(item):
    """The conformance suite has a group for each of its cases, the toys one for each of their worlds."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if "case" in item.fixturenames and "case" in params:
        return params["case"][0]
    return item.nodeid if item.module.__name__ in APART else item.module.__name__


def _weight(item):
    """CPU seconds of the item's group, roughly: of a file, of a case of the conformance suite, of one interrupt."""
    return WEIGHTS.get(item.module.__name__, 0)


@pytest.fixture
def mesh():
    """A mesh of one device."""
    return make_mesh(1, jax.devices()[:1])


@pytest.fixture(params=[False, True], ids=["continuous", "discrete"])
def discrete(request) -> bool:
    """Run the test for continuous and for discrete actions."""
    return request.param


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB of its own; where none can be mounted, the test is skipped."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "rlkit-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path, leave: int) -> None:
    """Write a file that leaves ``leave`` bytes free on its disk."""
    with path.open("wb") as stream:
        stream.write(bytes(max(shutil.disk_usage(path.parent).free - leave, 0)))


def _catalog(make_env):
    return commands.Catalog(agents.REGISTRY, make_env, envs.REFERENCES, envs.DATASETS, envs.episodes)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where the tests' runs cache the data."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def rlkit_command(cache, monkeypatch, capsys):
    """Run a command line in this process: (code, stdout, stderr)."""
    monkeypatch.setenv("RLKIT_CACHE_DIR", str(cache))

    def command(*argv, make_env=envs.make, catalog=None):
        catalog = catalog or _catalog(make_env)
        capsys.readouterr()
        code = commands.main([str(word) for word in argv], catalog)
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="session")
def trained(tmp_path_factory, cache):
    """A finished run of 40 updates."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLKIT_CACHE_DIR", str(cache))
        assert commands.main(["train", "bc", *SMALL, *PACE, "--out", str(folder)], _catalog(envs.make)) == 0
    return folder


def final_bits(folder):
    """The final state of a run, to be compared by its bits."""
    record = Record.read(folder)
    stages = rebuild(record)
    stats = Stats(**{name: np.array(value, np.float32) for name, value in record.stats.items()})
    with Checkpoints(folder / "checkpoints", identity=record.identity()) as checkpoints:
        rows = abstract(record.spec, record.data.rows, record.data.steps, ())
        last = checkpoints.last(stages, rows, stats, record.seeds, make_mesh(len(record.seeds)))
    assert last.step == stages[-1].steps
    return bits(last.state)
