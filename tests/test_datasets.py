"""Episodes in memory: the layout of the rows, every check, the counts of the report."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from gymnasium import Env, spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.datasets import check_env, from_episodes, rows, summary
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL
from rlkit.datasets.recording import Recording
from rlkit.types import InputError

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
UNIT = spaces.Box(-1, 1, (1,), np.float32)
STEP = HAS_ACTION | HAS_NEXT | LABELLED


def episode(steps: int, terminal: bool = True, start: float = 0.0) -> dict:
    """Observation i is [start + i, -1], action i is [0.1 i], reward i is i + 1."""
    ends = np.arange(steps) == steps - 1
    return {
        "observations": np.stack([start + np.arange(steps + 1.0), np.full(steps + 1, -1.0)], 1),
        "actions": 0.1 * np.arange(steps)[:, None],
        "rewards": np.arange(steps) + 1.0,
        "terminations": ends & terminal,
        "truncations": ends & (not terminal),
    }


def toy(*episodes: dict, **options):
    return from_episodes(episodes, name="toy", observation_space=BOX, action_space=UNIT, **options)


def recording(lengths, terminal, has_final) -> Recording:
    """Observations are (episode, steps since reset), final ones too."""
    lengths, terminal, has_final = (np.asarray(x) for x in (lengths, terminal, has_final))
    of = np.repeat(np.arange(len(lengths)), lengths)
    t = np.concatenate([np.arange(n) for n in lengths])
    last = t == lengths[of] - 1
    return Recording(
        name="toy",
        observations=np.stack([of, t], 1).astype(np.float64),
        actions=np.zeros((len(t), 1)),
        rewards=np.ones(len(t)),
        terminations=last & terminal[of],
        truncations=last & ~terminal[of],
        lengths=lengths,
        finals=np.stack([np.arange(len(lengths)), lengths], 1).astype(np.float64),
        has_final=has_final,
    )


def test_three_episodes_are_laid_out_by_hand():
    cut = {**episode(1, start=20), "terminations": None, "truncations": None}  # no flag at the end
    data = toy(episode(2), episode(1, terminal=False, start=10), cut)
    assert data.obs.tolist() == [[0, -1], [1, -1], [2, -1], [10, -1], [11, -1], [20, -1], [21, -1]]
    np.testing.assert_array_equal(data.action[:, 0], np.float32([0, 0.1, 0, 0, 0, 0, 0]))
    assert data.reward.tolist() == [1, 2, 0, 1, 0, 1, 0]
    assert data.t.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert data.flags.tolist() == [STEP, STEP | TERMINAL, 0, STEP, 0, STEP, 0]
    assert data.starts.tolist() == [0, 3, 5]
    assert data.returns().tolist() == [3, 1, 1]
    dtypes = [c.dtype for c in (data.obs, data.action, data.reward, data.t, data.flags)]
    assert dtypes == [np.float32, np.float32, np.float32, np.int32, np.uint8]
    report = data.report
    assert (report.episodes, report.steps, report.used, report.no_successor) == (3, 4, 4, 0)
    assert (report.terminal_episodes, report.truncated_episodes, report.unflagged_ends) == (1, 2, 1)
    assert (report.both_flags, report.on_bounds, report.repaired, report.notes) == (0, 0, 0, ())
    assert ("steps in the source", "4") in summary(report)


def test_terminal_wins_where_both_flags_are_set():
    data = toy({**episode(3), "truncations": [False, False, True]})
    assert data.report.both_flags == 1
    assert data.report.terminal_episodes == 1
    assert data.flags[2] & TERMINAL


def test_a_step_without_recorded_successor_is_kept_but_not_drawn_unless_terminal():
    data = rows.assemble(recording([2, 2], [False, True], [False, False]))
    assert data.obs.tolist() == [[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [1, 1]]
    assert data.flags.tolist() == [STEP, STEP - HAS_NEXT, 0, STEP, STEP - HAS_NEXT + TERMINAL, 0]
    assert (data.report.steps, data.report.used, data.report.no_successor) == (4, 3, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_nothing_leaks_across_episodes_and_no_step_is_lost(episodes):
    lengths, terminal, has_final = (np.array(column) for column in zip(*episodes, strict=True))
    data = rows.assemble(recording(lengths, terminal, has_final))
    flags, (of, t) = data.flags, data.obs.T
    drawable = ((flags & HAS_ACTION) > 0) & ((flags & (HAS_NEXT | TERMINAL)) > 0)
    assert drawable.sum() == data.report.used
    assert data.report.used + data.report.no_successor == data.report.steps == lengths.sum()
    step = np.flatnonzero(flags & HAS_NEXT)
    np.testing.assert_array_equal(of[step + 1], of[step])
    np.testing.assert_array_equal(t[step + 1], t[step] + 1)
    ends = np.append(data.starts[1:], len(t)) - 1
    assert not flags[ends].any()  # the row of a final observation holds no step
    np.testing.assert_array_equal((flags[ends - 1] & TERMINAL) > 0, terminal)
    np.testing.assert_array_equal((flags[ends - 1] & HAS_NEXT) > 0, has_final)
    assert (flags & TERMINAL).astype(bool).sum() == terminal.sum()
    np.testing.assert_array_equal(np.diff(np.append(data.starts, len(t))), lengths + 1)


def changed(field: str, index, value) -> dict:
    bad = {key: np.array(column) for key, column in episode(3).items()}
    bad[field][index] = value
    return bad


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (changed("observations", (1, 0), np.nan), ["index 1", "observations", "nan"]),
        (changed("observations", (3, 1), np.inf), ["index 3", "observations", "inf"]),
        (changed("observations", (0, 0), 1e300), ["index 0", "observations", "inf"]),
        (changed("actions", (2, 0), np.nan), ["index 2", "actions", "nan"]),
        (changed("rewards", 1, -np.inf), ["index 1", "rewards", "inf"]),
        (changed("actions", (1, 0), 1.1), ["index 1", "actions", "1.1", "outside [-1.0, 1.0]"]),
        (changed("actions", (1, 0), -1.001), ["index 1", "actions", "outside"]),
        (changed("terminations", 0, True), ["index 0", "terminations", "before the end"]),
        (changed("truncations", 0, True), ["index 0", "truncations", "before the end"]),
        (changed("terminations", 1, True), ["index 1", "terminations", "last two", "1 episodes", "--repair ends"]),
        ({**episode(3), "observations": episode(3)["observations"][:3]}, ["observations", "3 rows for 3 steps"]),
        ({**episode(3), "observations": np.zeros((4, 5))}, ["index 0", "observations", "[5]", "[2]"]),
        ({**episode(3), "actions": np.zeros((3, 2))}, ["index 0", "actions", "[2]", "[1]"]),
        ({**episode(3), "rewards": [1.0, 2.0]}, ["rewards", "2 rows", "actions has 3"]),
        ({**episode(3), "terminations": [0, 0, 2]}, ["index 2", "terminations", "2"]),
        ({**episode(3), "actions": [[0.0], [0.0, 1.0], [0.0]]}, ["actions", "differ in width"]),
        ({**episode(3), "observations": np.full((4, 2), "x")}, ["observations", "numbers"]),
        ({**episode(3), "observations": np.full((4, 2), None)}, ["observations", "numbers"]),
        ({**episode(3), "rewards": None}, ["rewards", "missing"]),
        ({key: column[:0] for key, column in episode(3).items()}, ["no step"]),
    ],
)
def test_bad_values_are_refused_with_their_place(bad, words):
    with pytest.raises(InputError) as error:
        toy(episode(2), bad)
    message = str(error.value)
    assert "\n" not in message
    for word in ["toy: ", "episode 1", *words]:
        assert word in message


def test_an_empty_set_and_an_empty_episode_are_refused_for_every_source():
    with pytest.raises(InputError, match="toy: holds no episode"):
        toy()
    data = recording([2, 1], [True, True], [True, True])
    data.lengths = np.array([3, 0])
    with pytest.raises(InputError, match="toy: episode 1 has no step"):
        rows.assemble(data)


def test_widths_other_than_the_spaces_are_refused_for_every_source():
    data = recording([2], [True], [True])
    data.observation_space = spaces.Box(-1, 1, (3,))
    with pytest.raises(InputError, match="toy: episode 0, index 0, observations: 2 numbers wide, but the space has 3"):
        rows.assemble(data)
    data.observation_space, data.action_space = None, spaces.Discrete(2)
    data.actions = np.zeros((2, 2))
    with pytest.raises(InputError, match="toy: episode 0, index 0, actions: 2 numbers wide"):
        rows.assemble(data)


def test_repair_ends_keeps_the_second_flag():
    twice = changed("terminations", 1, True)
    data = toy(twice, episode(2), twice, repair=("ends",))
    assert data.report.repaired == 2
    assert np.flatnonzero(data.flags & TERMINAL).tolist() == [2, 5, 9]
    mid = changed("terminations", 1, True)
    mid["terminations"][2] = False  # not a double end: the flag is simply in the wrong place
    with pytest.raises(InputError, match="episode 0, index 1, terminations: set before the end"):
        toy(mid, repair=("ends",))


def test_actions_on_their_bounds_are_counted_and_rounding_beyond_them_is_clipped():
    data = toy(changed("actions", (slice(None), 0), [1.0, -1.0, 1.000005]))
    assert data.action[:3, 0].tolist() == [1, -1, 1]
    assert data.report.on_bounds == 3
    assert "1 steps had an action beyond its bound by rounding" in data.report.notes[0]


def test_discrete_actions():
    def load(actions, **options):
        return from_episodes([{**episode(3), "actions": actions}], name="toy", observation_space=BOX, **options)

    space = spaces.Discrete(3, start=1)
    data = load([1.0, 3.0, 2.0], action_space=space)
    assert data.action.tolist() == [1, 3, 2, 0]
    assert data.action.dtype == np.int32
    for actions, index in ([1, 4, 1], 1), ([1, 1, 0], 2), ([1.5, 1, 1], 0), ([1, np.nan, 1], 1):
        with pytest.raises(InputError, match=f"toy: episode 0, index {index}, actions: .* 1 to 3"):
            load(actions, action_space=space)
    assert load([0, 2, 1]).action_space == spaces.Discrete(3)
    with pytest.raises(InputError, match="MultiBinary"):
        load(np.zeros((3, 2), int), action_space=spaces.MultiBinary(2))


def test_spaces_that_are_not_given_are_derived_and_noted():
    data = from_episodes([episode(3)])
    assert data.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert data.action_space == spaces.Box(np.float32(0), np.float32(0.2), (1,))
    wide = from_episodes([changed("actions", (slice(None), 0), [-3, 0, 2])])
    assert (wide.action_space.low, wide.action_space.high) == (-3, 2)
    assert len(wide.report.notes) == 2 and wide.report.on_bounds == 0


def test_discrete_and_dict_observations_are_flattened_as_gymnasium_does():
    space = spaces.Dict(
        {
            "where": spaces.Dict({"y": spaces.Box(-9, 9, (2, 2)), "x": spaces.Box(-9, 9, ())}),
            "door": spaces.Discrete(3, start=5),
        }
    )
    samples = [space.sample() for _ in range(4)]
    stacked = {
        "where": {key: np.stack([sample["where"][key] for sample in samples]) for key in "xy"},
        "door": np.array([sample["door"] for sample in samples]),
    }
    data = from_episodes([{**episode(3), "observations": stacked}], observation_space=space)
    np.testing.assert_array_equal(data.obs, [spaces.flatten(space, sample) for sample in samples])
    assert data.observation_space == space
    stacked["door"][2] = 8
    with pytest.raises(InputError, match="toy: episode 0, index 2, observations/door: 8 is not one"):
        from_episodes([{**episode(3), "observations": stacked}], name="toy", observation_space=space)
    del stacked["door"]
    with pytest.raises(InputError, match="observations/door: missing"):
        from_episodes([{**episode(3), "observations": stacked}], observation_space=space)
    with pytest.raises(InputError, match="observations/text: Text"):
        space = spaces.Dict({"text": spaces.Text(3)})
        from_episodes([{**episode(3), "observations": {"text": list("abcd")}}], observation_space=space)
    one_hot = from_episodes(
        [{**episode(2), "observations": [0, 2, 1]}], observation_space=spaces.Discrete(3), action_space=UNIT
    )
    assert one_hot.obs.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_episodes_may_be_objects():
    class Thing:
        observations, actions, rewards = episode(2)["observations"], episode(2)["actions"], [1.0, 2.0]

    assert toy(Thing()).report.unflagged_ends == 1


def test_rows_of_float32_are_copied_once():
    """A first load is to take hardly longer than reading; the copy is the one that puts final observations in place."""
    data = recording([1000] * 50, [True] * 50, [True] * 50)
    data.observations = np.random.default_rng(0).normal(size=(50_000, 20)).astype(np.float32)
    data.finals = np.zeros((50, 20), np.float32)
    tracemalloc.start()
    rows.assemble(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * data.observations.nbytes


def test_equal_data_have_equal_fingerprints():
    assert toy(episode(2)).fingerprint == toy(episode(2)).fingerprint
    assert toy(episode(2)).fingerprint != toy(episode(2, terminal=False)).fingerprint
    other = from_episodes([episode(2)], observation_space=BOX, action_space=spaces.Box(-2, 2, (1,)))
    assert toy(episode(2)).fingerprint != other.fingerprint


class World(Env):
    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Box(-np.inf, np.inf, (3,)), UNIT, ["observation has shape [2]", "[3]"]),
        (spaces.Discrete(3), UNIT, ["observation is a Box", "Discrete"]),
        (spaces.Box(0, 9, (2,), int), UNIT, ["observation is float32", "int64", "low[0] is -inf"]),
        (BOX, spaces.Box(-1, 2, (1,)), ["action high[0] is 1", "2"]),
        (BOX, spaces.Discrete(2), ["action is a Box", "Discrete"]),
    ],
)
def test_an_environment_with_other_spaces_is_refused(observation, action, words):
    with pytest.raises(InputError) as error:
        check_env(toy(episode(2)), World(observation, action))
    for word in ["toy", "World", *words]:
        assert word in str(error.value)


def test_a_dict_with_keys_in_another_order_would_flatten_otherwise_and_is_refused():
    parts = {"a": BOX, "b": spaces.Box(0, 1, (1,))}
    observations = {"a": np.zeros((3, 2)), "b": np.zeros((3, 1))}
    data = from_episodes([{**episode(2), "observations": observations}], observation_space=spaces.Dict(parts))
    swapped = spaces.Dict([("b", parts["b"]), ("a", parts["a"])])
    with pytest.raises(InputError, match="observation keys are"):
        check_env(data, World(swapped, data.action_space))
    wider = spaces.Dict({**parts, "b": spaces.Box(0, 2, (1,))})
    with pytest.raises(InputError, match=r"observation/b high\[0\] is 1, the environment's 2"):
        check_env(data, World(wider, data.action_space))


def test_float64_observations_of_an_environment_fit_float32_data():
    data = toy(episode(2))
    assert check_env(data, World(spaces.Box(-np.inf, np.inf, (2,), np.float64), UNIT)) is data


def test_spaces_that_the_source_did_not_name_are_taken_from_the_environment():
    data = from_episodes([changed("actions", (slice(None), 0), [-1.9, 0, 1.8])], name="toy")
    world = World(spaces.Box(-5, 5, (2,)), spaces.Box(-2, 2, (1,)))
    fitted = check_env(data, world)
    assert (fitted.observation_space, fitted.action_space) == (world.observation_space, world.action_space)
    with pytest.raises(InputError, match=r"toy .* action\[0\] goes from -1.9 to 1.8"):
        check_env(data, World(spaces.Box(-5, 5, (2,)), UNIT))
    chosen = from_episodes([{**episode(2), "actions": [1, 3]}])
    assert check_env(chosen, World(BOX, spaces.Discrete(3, start=1))).action_space.start == 1
    with pytest.raises(InputError, match=r"action\[0\] goes from 1 to 3"):
        check_env(chosen, World(BOX, spaces.Discrete(3)))


def test_options_can_be_imported_without_any_heavy_library():
    heavy = {"jax", "numpy", "gymnasium", "minari", "h5py"}
    code = f"import sys, rlkit.datasets.options; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
