"""Tables as programs and people write them: dialects of CSV, names and times of their own, parts, compressed files."""

from __future__ import annotations

import gzip
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlkit.commands import train
from rlkit.datasets import ColumnOptions, DataOptions, load
from rlkit.datasets.episodes import Names
from rlkit.datasets.formats import csv_dialect, table, table_recoding
from rlkit.types import InputError

CSV = """\
episode,step,observation_0,observation_1,action_0,reward,terminated,truncated
1,0,0.5,10,0.25,1.5,0,0
1,1,1.5,20,-0.25,2,1,0
2,0,2.5,30,0.75,-1.25,0,1
2,1,3.5,40,,,,
"""
BODY = CSV.partition("\n")[2]
OWN = """\
patient,hour,heart rate,bp,dose,score,dead
b,2026-11-27 14:00,80,120,0.5,1,no
b,2026-11-27 12:00,81,121,0.25,2,no
a,2026-11-27 12:30,82,122,0,3,yes
"""
OWN_COLUMNS = ColumnOptions(
    episode="patient",
    step="hour",
    observation=("bp", "heart rate"),
    action=("dose",),
    reward="score",
    terminated="dead",
)


def read(path, **options):
    return table.read(path, options=DataOptions(str(path), **options), infos=False)


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def check(recording):
    """The values of CSV, however they are written."""
    assert recording.observations.tolist() == [[0.5, 10], [1.5, 20], [2.5, 30]]
    assert recording.actions.tolist() == [[0.25], [-0.25], [0.75]]
    assert recording.rewards.tolist() == [1.5, 2, -1.25]
    assert recording.terminations.tolist() == [False, True, False]
    assert recording.truncations.tolist() == [False, False, True]
    assert recording.lengths.tolist() == [2, 1]
    assert recording.has_final.tolist() == [False, True] and recording.finals[1].tolist() == [3.5, 40]


SEMICOLONS = CSV.replace(",", ";")
FLAGS = ((",0,0\n", ",no,No\n"), (",1,0\n", ",yes,no\n"), (",0,1\n", ",NO,YES\n"))
YES = CSV
for old, new in FLAGS:
    YES = YES.replace(old, new)
DIALECTS = {
    "usual": (CSV, ""),
    "semicolons": (SEMICOLONS, "separated by semicolons"),
    "tabs": (CSV.replace(",", "\t"), "separated by tabs"),
    "vertical bars": (CSV.replace(",", "|"), "separated by vertical bars"),
    "decimal comma": (SEMICOLONS.replace(".", ","), "decimal comma: 1,5 was read as 1.5"),
    "decimal comma in quotes": (re.sub(r"(-?\d+)\.(\d+)", r'"\1,\2"', CSV), "decimal comma"),
    "blanks": (CSV.replace(",", ", "), "blanks around cells were left out"),
    "capitals": (CSV.replace("reward", "Reward").replace("episode", "Episode"), "capitals in names"),
    "NA": (CSV.replace("40,,,,", "40,NA,NA,NA,NA"), "cells such as NA were read as missing"),
    "null": (CSV.replace("40,,,,", "40,null,,null,"), "cells such as null were read as missing"),
    "NaN": (CSV.replace("40,,,,", "40,NaN,NaN,NaN,NaN"), "cells such as NaN were read as missing"),
    "yes and no": (YES, "yes was read as true"),
    "Excel": ("sep=;\n" + SEMICOLONS, "separated by semicolons"),
    "numpy": ("# " + CSV, ""),
    "UTF-8 with a mark": (b"\xef\xbb\xbf" + CSV.encode(), ""),
    "UTF-16": (CSV.encode("utf-16"), "the text is UTF-16"),
    "UTF-16 without a mark": (CSV.encode("utf-16-le"), "the text is UTF-16"),
    "Latin-1": (CSV.replace("\n", ",\n").replace("truncated,", "truncated,größe").encode("latin-1"), "read as Latin-1"),
    "old ends of lines": (CSV.replace("\n", "\r"), ""),
}


@pytest.mark.parametrize(("text", "note"), DIALECTS.values(), ids=DIALECTS)
def test_a_dialect_is_found_out_and_noted(tmp_path, text, note):
    recording = read(write(tmp_path / "x.csv", text))
    check(recording)
    notes = " ".join(recording.notes)
    assert note in notes and (note or not notes)


def test_what_the_beginning_does_not_show_is_found_out_later(tmp_path, monkeypatch):
    """A decimal comma, NA and letters of Latin-1 behind what the dialect is found out from."""
    monkeypatch.setattr(csv_dialect, "SAMPLE", 100)
    text = (
        SEMICOLONS.replace("3.5;40;;;;", "3,5;40;NA;NA;NA;NA").replace("2;0;2.5", "Ü;0;2,5").replace("\n2;1", "\nÜ;1")
    )
    text = text.replace("-0.25", "-0,25").replace("0.75;-1.25", "0,75;-1,25").replace("0.5;", "0,5;")
    text = text.replace("0.25;1.5", "0,25;1,5").replace("1.5", "1,5")
    recording = read(write(tmp_path / "x.csv", text.encode("latin-1")))
    check(recording)
    notes = " ".join(recording.notes)
    assert "Latin-1" in notes and "decimal comma" in notes and "NA" in notes


def test_a_table_without_a_header_is_read_by_number(tmp_path):
    columns = ColumnOptions("0", "1", ("2", "3"), (), ("4",), "5", "6", "7")
    recording = read(write(tmp_path / "x.csv", BODY), columns=columns)
    check_values = recording.observations.tolist() == [[0.5, 10], [1.5, 20], [2.5, 30]]
    assert check_values and recording.lengths.tolist() == [2, 1] and recording.finals[1].tolist() == [3.5, 40]
    assert recording.terminations.tolist() == [False, True, False]
    assert "the first line holds no names, so the columns are called 0 to 7" in recording.notes


def test_lines_may_be_longer_than_what_is_read_at_once(tmp_path):
    """A header of 300,000 bytes, and then lists of more than 1 MiB."""
    wide = 3_000
    names = [f"x{i:0100}" for i in range(wide)]
    rows = [[e, 0, *[e] * wide, 0.5, 1, 1] for e in (3, 4)]
    lines = [["episode", "step", *names, "action_0", "reward", "terminated"], *rows]
    text = "\n".join(",".join(map(str, line)) for line in lines)
    recording = read(write(tmp_path / "x.csv", text), columns=ColumnOptions(observation=("x*",)))
    assert recording.observations.shape == (2, wide) and recording.observations[1, -1] == 4
    numbers = ", ".join(["0.123"] * 200_000)
    text = f'episode,step,observation,action_0,reward,terminated\n0,0,"[{numbers}]",0.5,1,1\n'
    assert read(write(tmp_path / "x.csv", text)).observations.shape == (1, 200_000)


def test_a_line_of_units_is_told_by_its_cell(tmp_path):
    lines = CSV.splitlines(keepends=True)
    text = lines[0] + "-,-,bpm,mmHg,mg,-,-,-\n" + "".join(lines[1:])
    with pytest.raises(InputError, match="line 2: (observation_0 is 'bpm'|reward is '-')"):
        read(write(tmp_path / "x.csv", text))


def test_a_compressed_table_reads_the_same(tmp_path):
    path = write(tmp_path / "x.csv.gz", gzip.compress(CSV.encode()))
    check(read(path))
    episodes = load(DataOptions(str(path), cache_dir=tmp_path / "cache"))
    assert episodes.report.steps == 3


def test_a_compressed_table_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """A file that unpacks to 12 MB, where 4 MB are free."""
    text = CSV + "3,0,0.5,10,0.25,1.5,0,0\n" * 500_000
    path = write(tmp_path / "x.csv.gz", gzip.compress(text.encode(), 1))
    monkeypatch.setattr("rlkit.datasets.untrusted.fields.free_memory", lambda: 4 * 2**20)
    unpacked = []
    real = gzip.GzipFile.readinto

    def readinto(self, buffer):
        unpacked.append(len(buffer))
        return real(self, buffer)

    monkeypatch.setattr(gzip.GzipFile, "readinto", readinto)
    with pytest.raises(InputError, match="^x.csv.gz: unpacks to"):
        read(path)
    assert 0 < sum(unpacked) < 5 * 2**20


REFUSED = {
    "colons": (CSV.replace(",", ":"), "what separates its columns is not known: the first line is 'episode:step"),
    "no header": (BODY, "the first line names no columns.*no column episode, .*found: 0, 1, .*--columns.episode"),
    "own names": (OWN, "no column episode, step, observation, action, reward, terminated"),
    "blanks before quotes": (CSV.replace("1,0,0.5", '"1", "0",0.5'), "blanks before quotation marks"),
    "decimal comma in a comma's table": (CSV.replace("0.5", "0,5"), "line 2|Expected 8 columns, got 9"),
    "both decimal marks": (
        SEMICOLONS.replace("0.5", "0,5"), "line 2: reward is '1.5'; expected a number with a decimal comma"
    ),
    "gaps": (
        CSV.replace(",10,", ",,").replace(",20,", ",NA,"), "line 2: observation_1 is missing; fill such gaps .*; 2 rows"
    ),
    "a word": (CSV.replace("2.5", "high"), "line 4: observation_0 is 'high'; expected a number"),
    "a word behind a line of Excel": ("sep=,\n" + CSV.replace("2.5", "high"), "line 5: observation_0 is 'high'"),
    "no number": (CSV.replace("2.5", "nan"), "line 4: observation_0 is missing"),
    "lists with decimal commas": (
        "episode;step;observation;action_0;reward;terminated\n1;0;[1,5, 2];1,5;1;1\n", "decimal comma cannot be told"
    ),
    "cut off": (CSV[:-9], "Expected 8 columns"),
    "a header alone": (CSV[: CSV.index("\n") + 1], "has no rows"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood_is_refused_with_its_cause(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"^x\.csv: .*({message})|^x\.csv: ({message})") as caught:
        read(write(tmp_path / "x.csv", text))
    assert "rename" not in str(caught.value) and str(caught.value).isprintable()


def test_a_damaged_compressed_table_is_refused(tmp_path):
    whole = gzip.compress((CSV + BODY.replace("1,", "8,")).encode())
    for content in (whole[:-30], b"no gzip", whole[:20] + bytes(20) + whole[40:]):
        with pytest.raises(InputError, match=r"^x\.csv\.gz: cannot be "):
            read(write(tmp_path / "x.csv.gz", content))


# ---- columns with names of their own


def test_own_names_are_mapped_and_kept(tmp_path):
    """Patient a comes first, b's rows are sorted by their hours, and the observation has the order that was told."""
    path = write(tmp_path / "x.csv", OWN)
    recording = read(path, columns=OWN_COLUMNS)
    assert recording.observations.tolist() == [[122, 82], [121, 81], [120, 80]]
    assert recording.actions.tolist() == [0, 0.25, 0.5] and recording.choices is False
    assert recording.rewards.tolist() == [3, 2, 1] and recording.lengths.tolist() == [1, 2]
    assert recording.terminations.tolist() == [True, False, False]
    assert recording.names == Names(("bp", "heart rate"), ("dose",))
    assert "rows are ordered by hour, whose values are 7200 s apart" in recording.notes
    options = DataOptions(str(path), columns=OWN_COLUMNS, cache_dir=tmp_path / "cache")
    first = load(options)
    again = load(options)  # from the cache
    assert first.names == again.names == recording.names
    other = load(DataOptions(str(path), columns=ColumnOptions(**(vars(OWN_COLUMNS) | {"observation": ("bp",)}))))
    assert other.obs.shape[1] == 1 and first.obs.shape[1] == 2


def test_a_pattern_stands_for_columns_in_their_order(tmp_path):
    columns = ColumnOptions(observation=("observation_*", "step"))
    with pytest.raises(InputError, match="step is named for observation and for step"):
        read(write(tmp_path / "x.csv", CSV), columns=columns)
    recording = read(tmp_path / "x.csv", columns=ColumnOptions(observation=("observation_*",)))
    check(recording)
    assert recording.names.observation == ("observation_0", "observation_1")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"reward": "scores"}, "--columns.reward scores: there is no such column .*do you mean score?"),
        ({"observation": ("lab_*",)}, "--columns.observation lab_*: no column is like that"),
        (
            {"reward": None},
            r"no column reward .*say which it is with --columns.reward NAME; --columns.reward none: no reward is known",
        ),
        ({"episode": None}, "no column episode"),
        ({"step": "dead"}, "dead is named for .* and for"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, columns, message):
    told = ColumnOptions(**(vars(OWN_COLUMNS) | columns))
    with pytest.raises(InputError, match="^x.csv: ") as caught:
        read(write(tmp_path / "x.csv", OWN), columns=told)
    assert all(part in str(caught.value) for part in message.split(" .*"))


def test_what_a_table_does_not_have_is_told_so(tmp_path):
    """Without a column of steps the rows are in order; without one of rewards none is known."""
    columns = ColumnOptions("patient", "none", ("heart rate",), (), ("dose",), "none", "none")
    recording = read(write(tmp_path / "x.csv", OWN), columns=columns)
    assert recording.observations.tolist() == [82, 80, 81] and recording.lengths.tolist() == [1, 2]
    assert not recording.labelled.any() and not recording.terminations.any()
    notes = " ".join(recording.notes)
    assert "in the order in which they stand" in notes and "no reward is known" in notes
    assert "columns that were not read: hour, bp, score, dead" in notes


@pytest.mark.parametrize(
    ("steps", "is_right", "words"),
    [
        (["7", "5", "3"], True, "ordered by hour, whose values are 2 apart"),
        (["1.5", "-0.5", "1e3"], True, "whose values are 2 apart"),
        (["1764252000", "1764251999", "1764252001"], True, "1 apart"),
        (["2026-11-27T14:00:01Z", "2026-11-27T14:00:00Z", "2026-11-27T14:00:00Z"], True, "1 s apart"),
        (
            ["27.11.2026", "26.11.2026", "27.11.2026"],
            False,
            r"line 2: hour is '27.11.2026'; expected a number, or a time.*; write it so in pandas: "
            r"`t\['hour'\] = pandas.to_datetime\(t\['hour'\], dayfirst=True\)`$",
        ),
        (["3", "3", "1"], False, "episode b: hour 3 is there twice"),
        (["3", "", "1"], False, "line 3: hour is missing"),
    ],
)
def test_steps_may_be_times_if_told(tmp_path, steps, is_right, words):
    text = OWN
    for old, new in zip(("27 14:00", "27 12:00", "27 12:30"), steps, strict=True):
        text = text.replace(f"2026-11-{old}", new)
    path = write(tmp_path / "x.csv", text)
    if not is_right:
        with pytest.raises(InputError, match=words):
            read(path, columns=OWN_COLUMNS)
        return
    recording = read(path, columns=OWN_COLUMNS)
    assert recording.rewards.tolist() == [3, 2, 1]
    assert words in " ".join(recording.notes)


def recoding(tmp_path, column, first, second, third=""):
    """What is said of a column of CSV that holds these words in its first rows."""
    text = CSV.replace("action_0", "action")
    header = text.partition("\n")[0].split(",")
    lines = [line.split(",") for line in text.splitlines()]
    for line, word in zip(lines[1:], (first, second, third), strict=False):
        line[header.index(column)] = word or line[header.index(column)]
    with pytest.raises(InputError) as refusal:
        read(write(tmp_path / "x.csv", "\n".join(map(",".join, lines)) + "\n"))
    return str(refusal.value)


MAPPED = "; number its words in pandas: `t['action'] = t['action'].map({}).astype('Int64')`"
DAYS = "; count the days in pandas: `t['observation_1'] = pandas.to_datetime(t['observation_1']{}).pipe("


@pytest.mark.parametrize(
    ("column", "words", "told"),
    [
        ("action", ("right", "left", "left"), MAPPED.format("{'left': 0, 'right': 1}")),
        ("action", ("no", "True", "False"), MAPPED.format("{'False': 0, 'True': 1, 'no': 2}")),
        ("action", ("True", "True", "False"), "; number them in pandas: `t['action'] = t['action'].astype('boolean')"),
        ("action", ("left", "right"), ""),  # the third row has a number
        ("observation_1", ("31.01.2021", "01.02.2021", "03.02.2021"), ""),  # the fourth row has a number
        ("action", ("-", "?", "-"), ""),
    ],
)
def test_words_are_refused_with_the_line_that_numbers_them(tmp_path, column, words, told):
    message = recoding(tmp_path, column, *words)
    assert message.startswith(f"x.csv: line 2: {column} is '{words[0]}'; expected a number")
    assert told in message and ("pandas" in message) is bool(told)


@pytest.mark.parametrize(
    ("dates", "how"),
    [
        (("31.01.2021", "01.02.2021 12:00"), ", dayfirst=True"),
        (("01/02/2021", "03/02/2021"), ", dayfirst=True"),
        (("01/31/2021", "02/01/2021"), ""),
        (("2021-01-31", "2021-02-01T12:00"), ""),
    ],
)
def test_dates_are_refused_with_the_line_that_counts_their_days(dates, how):
    told = table_recoding.cure("observation_1", [*dates, None, ""])
    assert told.startswith(DAYS.format(how))
    assert how or "dayfirst" not in told


def test_many_words_are_numbered_without_naming_each():
    told = table_recoding.cure("action", [f"move {letter}" for letter in "abcdefgh"])
    assert "enumerate(sorted(t['action'].dropna().unique()))" in told and "move" not in told


def test_times_in_a_column_of_steps_are_taken_where_that_is_said(tmp_path):
    message = recoding(tmp_path, "step", "2026-11-27", "2026-11-28")
    assert "step is '2026-11-27'; expected a number: 0, 1, 2, ... (--columns.step step takes times too)" in message


def test_times_of_parquet_order_the_rows(tmp_path):
    times = pa.array([5_000, 3_000, 1_000], pa.timestamp("ms"))
    columns = {"episode": [0, 0, 0], "at": times, "observation": [3.0, 2.0, 1.0], "action": [0.5, 0.25, 0.0]}
    parquet.write_table(pa.table(columns | {"reward": [1, 2, 3], "terminated": [False] * 3}), tmp_path / "x.parquet")
    recording = read(tmp_path / "x.parquet", columns=ColumnOptions(step="at"))
    assert recording.observations.tolist() == [1, 2, 3] and "2 s apart" in " ".join(recording.notes)


# ---- the next observation


NEXT = """\
episode,step,observation,next_observation,action,reward,terminated
1,0,0.5,1.5,0.25,1,0
1,1,1.5,2.5,0.5,2,0
2,0,3.5,,0.75,3,1
"""


def test_the_next_observation_of_the_last_step_is_the_final_one(tmp_path):
    recording = read(write(tmp_path / "x.csv", NEXT))
    assert recording.has_final.tolist() == [True, False] and recording.finals[0] == 2.5
    assert recording.observations.tolist() == [0.5, 1.5, 3.5] and not recording.notes
    wide = NEXT.replace("observation", "observation_0")
    recording = read(write(tmp_path / "x.csv", wide))
    assert recording.has_final.tolist() == [True, False] and recording.finals[0].tolist() == [2.5]


def test_a_next_observation_that_is_not_the_next_one_is_refused_unless_it_is_left_out(tmp_path):
    path = write(tmp_path / "x.csv", NEXT.replace("0.5,1.5", "0.5,1.25"))
    with pytest.raises(InputError, match="line 2: next_observation is 1.25 in component 0, where .* has 1.5; 1 rows"):
        read(path)
    recording = read(path, columns=ColumnOptions(next_observation=("none",)))
    assert not recording.has_final.any() and recording.notes == ["columns that were not read: next_observation"]


# ---- choices or amounts


def test_numbers_of_databases_and_truth_values_are_numbers(tmp_path):
    exact = pa.array([1, 2, 3], pa.decimal128(10, 2))
    columns = {"episode": [1, 1, 1], "step": [0, 1, 2], "observation": exact, "action": [True, False, True]}
    columns |= {"reward": [0.5, 1.0, 2.0], "terminated": [False, False, True]}
    parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    recording = read(tmp_path / "x.parquet")
    assert recording.observations.tolist() == [1, 2, 3] and recording.observations.dtype == float
    assert recording.actions.tolist() == [1, 0, 1] and recording.choices is True


@pytest.mark.parametrize(
    ("name", "actions", "choices", "ambiguous"),
    [
        ("action", [0, 2, 1], True, ""),
        ("action_0", [0, 2, 1], False, ""),
        ("dose", [0, 2, 1], None, "the column dose holds whole numbers"),
        ("action", [0.0, 2.0, None], None, "whole numbers written as floats, and is empty in some rows"),
        ("action", [0.0, 2.0, np.nan], None, "whole numbers written as floats, and is empty in some rows"),
        ("action", [0.0, 2.0, 1.0], None, ""),
        ("action", [0.0, 2.5, None], False, ""),
        ("action", [0, 2, None], True, ""),
        ("action", [[0], [2], [1]], False, ""),
    ],
)
def test_choices_are_told_from_amounts_or_asked_for(tmp_path, name, actions, choices, ambiguous):
    rewards = [None if action is None or action != action else 1.0 for action in actions]
    flags = [None if reward is None else False for reward in rewards]
    columns = {"episode": [1, 1, 1], "step": [0, 1, 2], "observation": [1.0, 2.0, 3.0], name: actions}
    action = pa.array(actions) if np.nan not in actions else pa.array(np.array(actions), from_pandas=False)
    columns = columns | {name: action, "reward": rewards, "terminated": flags}
    parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    told = ColumnOptions() if name.startswith("action") else ColumnOptions(action=(name,))
    recording = read(tmp_path / "x.parquet", columns=told)
    assert recording.choices is choices
    assert ambiguous in recording.ambiguous and bool(recording.ambiguous) is bool(ambiguous)
    steps = rewards.index(None) if None in rewards else 3
    assert recording.actions.ravel().tolist() == np.ravel(actions[:steps]).tolist()


# ---- one table in several parts


def parts(folder, text=CSV, cuts=(2, 3)):
    """``text`` in three files, each with a header."""
    folder.mkdir()
    header, *lines = text.splitlines(keepends=True)
    bounds = [0, *cuts, len(lines)]
    for number, name in enumerate(("part1", "part2", "part10")):
        piece = lines[bounds[number] : bounds[number + 1]]
        (folder / f"{name}.csv").write_text(header + "".join(piece))
    return folder


def test_parts_are_one_table_and_an_episode_may_cross_them(tmp_path):
    folder = parts(tmp_path / "parts", cuts=(1, 3))
    whole = load(DataOptions(str(write(tmp_path / "x.csv", CSV)), cache_dir=tmp_path / "cache"))
    (folder / "_SUCCESS").write_text("")
    (folder / ".part1.csv.crc").write_text("")
    for name in (str(folder), f"{folder}/part*.csv"):
        options = DataOptions(name, cache_dir=tmp_path / "cache")
        episodes = load(options)
        assert episodes.fingerprint == whole.fingerprint and episodes.report.steps == 3
        np.testing.assert_array_equal(episodes.obs, whole.obs)
        again = load(options)  # from the cache
        assert again.fingerprint == whole.fingerprint
    (folder / "part11.csv").write_text(CSV.splitlines()[0] + "\n3,0,1,1,1,1,1,0\n")
    assert load(options).report.steps == 4


def test_rows_are_named_by_part_and_line(tmp_path):
    folder = parts(tmp_path / "parts", CSV.replace("2,1,3.5", "2,5,3.5"))
    with pytest.raises(InputError, match="^part10.csv: line 2: episode 2: step 1 is missing before 5"):
        load(DataOptions(str(folder)), use_cache=False)
    (folder / "part2.csv").write_text(CSV.replace("reward", "gain"))
    with pytest.raises(InputError, match="^part2.csv: no column reward"):
        load(DataOptions(str(folder)), use_cache=False)
    (folder / "part2.csv").write_text(CSV.replace("truncated", "cut"))
    with pytest.raises(InputError, match="^part2.csv: its columns are"):
        load(DataOptions(str(folder)), use_cache=False)


def test_without_steps_an_episode_must_not_cross_parts(tmp_path):
    columns = ColumnOptions(step="none")
    episodes = load(DataOptions(str(parts(tmp_path / "whole", cuts=(2, 4))), columns=columns), use_cache=False)
    assert episodes.report.steps == 3
    with pytest.raises(InputError, match="part2.csv: line 2: episode 1 began in another part, .*--columns.step"):
        load(DataOptions(str(parts(tmp_path / "cut", cuts=(1, 3))), columns=columns), use_cache=False)


def test_names_that_stand_for_no_parts_are_refused(tmp_path):
    folder = parts(tmp_path / "parts")
    with pytest.raises(InputError, match="no file is called so"):
        load(DataOptions(f"{tmp_path}/nothing*.csv"))
    write(folder / "x.parquet", b"")
    with pytest.raises(InputError, match="its files are not of one kind"):
        load(DataOptions(f"{folder}/*"))


def test_parts_of_parquet_and_own_names_reach_the_process_that_reads_them(tmp_path):
    """Integers in one part and floats in the other become floats."""
    for number, action in enumerate((pa.array([1.5, 2.0]), pa.array([3, 4], pa.int32()))):
        rows = {"who": [number] * 2, "step": [0, 1], "x": [1.0 + number, 2.0], "y": [0.5, 0.5], "dose": action}
        columns = rows | {"reward": [1.0, 2.0], "terminated": [False, True]}
        parquet.write_table(pa.table(columns), tmp_path / f"part-{number}.parquet")
    columns = ColumnOptions(episode="who", observation=("y", "x"), action=("dose",))
    episodes = load(DataOptions(f"{tmp_path}/part-*.parquet", columns=columns, cache_dir=tmp_path / "cache"))
    assert episodes.obs.tolist() == [[0.5, 1], [0.5, 2], [0.5, 2], [0.5, 2], [0.5, 2], [0.5, 2]]
    assert episodes.action[:, 0].tolist() == [1.5, 2, 0, 3, 4, 0]
    assert episodes.names == Names(("y", "x"), ("dose",))


# ---- beside other data


def test_tables_are_joined_where_their_columns_have_the_same_names(tmp_path):
    write(tmp_path / "x.csv", OWN)
    write(tmp_path / "y.csv", OWN.replace("heart rate", "pulse rate"))
    both = (str(tmp_path / "x.csv"), str(tmp_path / "x.csv"))
    episodes = load(DataOptions(both, columns=OWN_COLUMNS), use_cache=False)
    assert episodes.report.episodes == 4 and episodes.names == Names(("bp", "heart rate"), ("dose",))
    columns = ColumnOptions(**(vars(OWN_COLUMNS) | {"observation": ("bp", "*rate")}))
    with pytest.raises(InputError, match="y.csv and x.csv cannot be joined: their columns have different names"):
        load(DataOptions((both[0], str(tmp_path / "y.csv")), columns=columns), use_cache=False)


def test_columns_are_told_of_tables_alone(tmp_path):
    write(tmp_path / "x.npz", b"")
    with pytest.raises(InputError, match="x.npz: is no table, and --columns names the columns of tables"):
        load(DataOptions(str(tmp_path / "x.npz"), columns=OWN_COLUMNS), use_cache=False)


def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path):
    for name in ("x.xlsx", "*.XLS"):
        with pytest.raises(InputError, match="spreadsheets are not read: save it as CSV"):
            load(DataOptions(str(tmp_path / name), columns=OWN_COLUMNS))


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("logs/part-*.parquet", "part"), ("logs/*.csv", "logs"), ("/data/my logs", "data-my-logs"), ("a/b-v0", "a-b-v0")],
)
def test_the_folder_of_a_run_is_named_after_the_data(dataset, name):
    options = SimpleNamespace(agent="bc", data=DataOptions(dataset))
    assert train.default_folder(options).name.startswith(f"bc-{name}-2")


@pytest.mark.parametrize("ids", [
    ["17", "0017"], ["100000", "1e5"], ["14757395258967641292", "14757395258967641293"],
    ["9007199254740993.0", "9007199254740992.0"],
])  # fmt: skip
def test_episodes_are_told_apart_as_they_are_written(tmp_path, ids):
    """As numbers each pair is one, and two patients would become one episode."""
    lines = ["episode,step,observation,action,reward,terminated"]
    lines += [f"{name},{step},{step}.5,0.5,1,{step}" for name in ids for step in (0, 1)]
    recording = read(write(tmp_path / "x.csv", "\n".join(lines) + "\n"))
    assert recording.lengths.tolist() == [2, 2] and recording.observations.tolist() == [0.5, 1.5, 0.5, 1.5]


def test_commas_between_thousands_are_not_taken_for_decimal_ones(tmp_path):
    text = "episode;step;observation;action_0;reward;terminated\n1;0;950;0.5;{};0\n1;1;951;0.5;7;1\n"
    for cell, both in ("1,250", "1.250 or 1250"), ("-2,100", "-2.100 or -2100"):
        with pytest.raises(
            InputError, match=f"line 2: reward is '{cell}'; expected a number; with its comma .* {both}"
        ):
            read(write(tmp_path / "x.csv", text.format(cell)))
    decisive = text.format("1,250").replace("0.5", "0,5")
    assert read(write(tmp_path / "x.csv", decisive)).rewards.tolist() == [1.25, 7]
