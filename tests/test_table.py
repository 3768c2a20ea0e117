"""CSV and Parquet tables, worked by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from gymnasium.spaces import Discrete
from pyarrow import parquet

from rlkit.datasets import DataOptions, rows
from rlkit.datasets.formats import table
from rlkit.types import InputError

# Episode 2 comes first in the file and last in order; episode 10 ends with a final observation. Lines are numbered
# from the header, so the first row is line 2.
CSV = """\
episode,step,observation_0,observation_1,action_0,action_1,reward,terminated,truncated
10,1,4,40,0.3,-0.3,2,0,1
10,0,3,30,0.2,-0.2,1,0,0
10,2,5,50,,,,,
2,0,1,10,0.1,-0.1,0.5,false,false
2,1,2,20,0.4,-0.4,-1,True,false
"""
ROWS = {
    "episode": ["a", "a", "a", "b"],
    "step": [0, 1, 2, 0],
    "observation": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]],
    "action": [0, 2, None, 1],
    "reward": [1.0, 2.0, None, 3.0],
    "terminated": [False, True, None, False],
}


def read(path, env=None, infos=False):
    return table.read(path, options=DataOptions(str(path), env=env), infos=infos)


def csv(path, text):
    path.write_text(text)
    return path


def write(path, **changes):
    """ROWS as Parquet, with columns added, replaced or (None) left out."""
    columns = {name: values for name, values in (ROWS | changes).items() if values is not None}
    parquet.write_table(pa.table(columns), path)
    return path


def check_csv(recording):
    assert recording.observations.tolist() == [[1, 10], [2, 20], [3, 30], [4, 40]]
    np.testing.assert_array_equal(recording.actions, [[0.1, -0.1], [0.4, -0.4], [0.2, -0.2], [0.3, -0.3]])
    assert recording.rewards.tolist() == [0.5, -1, 1, 2]
    assert recording.terminations.tolist() == [False, True, False, False]
    assert recording.truncations.tolist() == [False, False, False, True]
    assert recording.lengths.tolist() == [2, 2]
    assert recording.has_final.tolist() == [False, True] and recording.finals[1].tolist() == [5, 50]
    assert recording.action_space is None


def test_csv_with_numbered_columns(tmp_path):
    recording = read(csv(tmp_path / "x.csv", CSV), env="Mine-v0")
    check_csv(recording)
    assert recording.name == "x.csv" and recording.env_spec == "Mine-v0" and recording.notes == []


def test_csv_with_lists_as_text_reads_the_same(tmp_path):
    text = """\
truncated,terminated,reward,action,observation,step,episode
1,0,2,"[0.3, -0.3]","[4, 40]",1,10
0,0,1,"[0.2, -0.2]","[3, 30]",0,10
,,,,"[5, 50]",2,10
0,0,0.5,"[0.1, -0.1]","[1, 10]",0,2
0,1,-1,"[0.4, -0.4]",[2\\, 20],1,2
""".replace("[2\\, 20]", '" [2,20] "')
    check_csv(read(csv(tmp_path / "x.CSV", text)))


def test_parquet_with_lists_and_choices(tmp_path):
    recording = read(write(tmp_path / "x.parquet"))
    assert recording.observations.tolist() == [[1, 2], [3, 4], [7, 8]]
    assert recording.actions.tolist() == [0, 2, 1] and recording.choices
    assert rows.assemble(recording).action_space == Discrete(3)
    assert recording.rewards.tolist() == [1, 2, 3]
    assert recording.terminations.tolist() == [False, True, False] and not recording.truncations.any()
    assert recording.lengths.tolist() == [2, 1]
    assert recording.has_final.tolist() == [True, False] and recording.finals[0].tolist() == [5, 6]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2), pa.list_(pa.int32())]
)
def test_kinds_of_lists(tmp_path, kind):
    """Lists hold amounts, so integers in them are no choices; null lists are the missing ones."""
    actions = pa.array([[1, 0], [0, 1], None, [1, 1]], kind)
    recording = read(write(tmp_path / "x.parquet", action=actions))
    assert recording.actions.tolist() == [[1, 0], [0, 1], [1, 1]] and recording.actions.dtype.kind == "f"
    assert not recording.choices


def test_single_columns_tell_choices_from_amounts_by_their_text(tmp_path):
    text = "episode,step,observation,action,reward,terminated\n0,0,0.5,{},1,0\n0,1,0.25,1,0,1\n"
    recording = read(csv(tmp_path / "x.csv", text.format("3")))
    assert recording.choices and recording.actions.tolist() == [3, 1]
    assert recording.observations.tolist() == [0.5, 0.25]
    recording = read(csv(tmp_path / "x.csv", text.format("3.0")))
    assert not recording.choices and recording.actions.tolist() == [3, 1]
    assert rows.assemble(recording).action[:2].tolist() == [[3], [1]]


def test_other_columns_are_infos_or_noted(tmp_path):
    path = write(tmp_path / "x.parquet", speed=[0.1, 0.2, 0.3, 0.4], label=["p", "q", "r", "s"])
    recording = read(path)
    assert recording.infos == {} and recording.notes == ["columns that were not read: speed, label"]
    recording = read(path, infos=True)
    assert recording.infos["speed"].tolist() == [0.1, 0.2, 0.4]
    gaps = read(write(tmp_path / "gaps.parquet", speed=[0.1, None, 0.3, np.nan]), infos=True).infos["speed"]
    np.testing.assert_array_equal(gaps, [0.1, np.nan, np.nan])
    assert recording.notes == ["columns that were not read: label"]


def test_a_nan_is_no_value(tmp_path):
    with pytest.raises(InputError, match="line 5: reward is missing and action is not"):
        read(csv(tmp_path / "x.csv", CSV.replace(",0.5,", ",nan,")))
    final = [0.5, 0.25, np.nan, 1.0]
    recording = read(write(tmp_path / "x.parquet", action=final, reward=final))
    assert recording.rewards.tolist() == [0.5, 0.25, 1] and recording.has_final.tolist() == [True, False]


def test_episodes_of_categories_over_several_row_groups(tmp_path):
    path = tmp_path / "x.parquet"
    columns = ROWS | {"episode": pa.array(ROWS["episode"]).dictionary_encode()}
    parquet.write_table(pa.table(columns), path, row_group_size=1)
    assert read(path).lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10,1,4,", "10,0,4,", "line 3: episode 10: step 0 is there twice"),
        ("2,1,2,", "2,2,2,", "line 6: episode 2: step 1 is missing before 2"),
        ("2,0,1,", "2,-1,1,", "line 5: episode 2: step 0 is missing before -1"),
        ("10,2,5,", "10,1.5,5,", "line 4: step 1.5 is not a whole number"),
        ("10,2,5,", "10,,5,", "line 4: step is missing"),
        ("10,2,5,50,,,,,", "10,2,5,50,,,7,,", "line 4: action is missing and reward is not"),
        ("0.3,-0.3,2,", "0.3,-0.3,,", "line 2: reward is missing and action is not"),
        ("0.3,-0.3,2,", "0.3,,2,", "line 2: action_1 is missing; give all of these columns or none"),
        ("4,40,0.3,-0.3,2,0,1", "4,40,,,,,", "line 2: episode 10 goes on after this row"),
        ("10,2,5,50,,,,,", "10,2,5,50,,,,1,", "line 4: terminated is set on a final observation"),
        ("2,0,1,10,0.1,-0.1,0.5,false", "2,0,1,10,0.1,-0.1,0.5,maybe", "line 5: terminated is 'maybe'"),
        ("2,0,1,10,0.1,-0.1,0.5,false", "2,0,1,10,0.1,-0.1,0.5,", "line 5: terminated is missing"),
        ("2,0,1,10", "2,0,,", "line 5: observation is missing"),
        ("10,2,5,50,,,,,", "10,2,5,50,,,,,\n11,0,1,1,,,,,", "episode 11 has no step"),
        ("reward", "gain", "no column reward .found: episode, step, observation_0"),
        ("observation_1", "observation_2", "no column observation_1, but observation_2"),
        ("observation_1", "observation", "has both observation and observation_0"),
        ("action_1", "action_0", "two columns action_0"),
        ("10,0,3,", "10,0,abc,", "line 3: observation_0 is 'abc'; expected a number"),
        ("10,0,3,", "10,zero,3,", "line 3: step is 'zero'; expected a number"),
        ("10,0,3,30,", "10,0,3,", "cannot be read as CSV .*Expected 9 columns, got 8"),
    ],
)
def test_what_is_wrong_in_a_csv_is_named(tmp_path, old, new, message):
    assert old in CSV
    with pytest.raises(InputError, match=rf"^x\.csv: .*{message}|^x\.csv: {message}") as caught:
        read(csv(tmp_path / "x.csv", CSV.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[3, 4]", "[3, 4, 5]", "line 3: observation has 3 elements where the rows before have 2"),
        ("[3, 4]", "[3, four]", r"line 3: observation is '\[3, four\]'; expected a list of numbers"),
        ("[3, 4]", "3", "line 3: observation is '3'; expected a list of numbers"),
        ("[3, 4]", "[]", r"line 3: observation is '\[\]'; expected a list"),
    ],
)
def test_what_is_wrong_in_a_list_is_named(tmp_path, old, new, message):
    text = 'episode,step,observation,action,reward,terminated\n0,0,"[1, 2]",0,1,0\n0,1,"[3, 4]",1,1,1\n'
    with pytest.raises(InputError, match=rf"^x\.csv: {message}"):
        read(csv(tmp_path / "x.csv", text.replace(old, new)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": [[1.0], [2.0, 3.0], [4.0], [5.0]]}, "row 1: observation has 2 elements"),
        ({"observation": [[1.0], [None], [4.0], [5.0]]}, "row 1: observation has an element that is null"),
        ({"observation": [["x"]] * 4}, "observation holds lists of string"),
        ({"observation": [[[1.0]]] * 4}, "observation holds lists of list"),
        ({"action": [None] * 4, "reward": [None] * 4}, "row 0: episode a goes on after this row"),
        ({"reward": [1.0, None, None, 1.0]}, "row 1: reward is missing"),
        ({"terminated": [0, 2, None, 0]}, "row 1: terminated is 2"),
        ({"episode": None}, "no column episode"),
        ({name: values[:0] for name, values in ROWS.items()}, "has no rows"),
    ],
)
def test_what_is_wrong_in_a_parquet_file_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=rf"^x\.parquet: {message}"):
        read(write(tmp_path / "x.parquet", **changes))


def test_damaged_files(tmp_path):
    path = write(tmp_path / "x.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="x.parquet: cannot be read as Parquet"):
        read(path)
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00 not text")
    with pytest.raises(InputError, match="^x.csv: what separates its columns is not known"):
        read(tmp_path / "x.csv")
    with pytest.raises(InputError, match="the file is empty"):
        read(csv(tmp_path / "y.csv", ""))


def test_a_table_bigger_than_the_limit_is_refused(tmp_path, monkeypatch):
    """Parquet has its limit from the process that reads it: see the bombs of test_untrusted.py."""
    monkeypatch.setattr("rlkit.datasets.untrusted.fields.LIMIT", 100)
    with pytest.raises(InputError, match="unpacks to"):
        read(csv(tmp_path / "x.csv", CSV))


def test_a_column_of_another_programs_type_is_refused(tmp_path):
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((4, 2, 2), np.float32))
    with pytest.raises(InputError, match="^x.parquet: observation is of type extension<arrow.fixed_shape_tensor"):
        read(write(tmp_path / "x.parquet", observation=tensors))
