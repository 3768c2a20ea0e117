"""A table of malformed datasets: format x field x fault. Each row builds its file and says what must come of it.

The data are two episodes of 3 and 2 steps; observation i is [i, -i]. Writers take changes to the columns, so that one
fault is put into every format, and return the dataset's name and the file that faults in the bytes go into.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
from pyarrow import parquet

LENGTHS = (3, 2)
STEPS = sum(LENGTHS)
ID = "toy/small-v0"
MINARI = ("minari-hdf5", "minari-arrow", "minari-parquet")
LABELLED = ("npz", *MINARI)
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
Columns = dict[str, Any]
Written = tuple[str, Path]  # the dataset's name, and the file that its numbers lie in


class Case(NamedTuple):
    """``words`` must be in the message; with none the load must give all steps, and ``note`` be among its notes."""

    name: str
    build: Callable[[Path], Written]
    words: tuple[str, ...] = ()
    note: str = ""
    steps: int = STEPS


def columns() -> Columns:
    """Steps end to end, and the final observation of each episode."""
    return {
        "observations": np.array([[i, -i] for i in range(STEPS)], np.float32),
        "actions": np.linspace(-0.5, 0.7, STEPS, dtype=np.float32)[:, None],
        "rewards": np.arange(STEPS, dtype=np.float32),
        "terminations": np.array([0, 0, 1, 0, 0], bool),
        "truncations": np.array([0, 0, 0, 0, 1], bool),
        "finals": np.array([[9, 9], [8, 8]], np.float32),
    }


def slices() -> Iterator[tuple[int, slice]]:
    for number, end in enumerate(np.cumsum(LENGTHS)):
        yield number, slice(end - LENGTHS[number], end)


# ---- writers


def write_hdf5(folder: Path, data: Columns, **options: Any) -> Written:
    path = folder / "x.hdf5"
    names = {"terminations": "terminals", "truncations": "timeouts"}
    with h5py.File(path, "w") as file:
        for field in FIELDS:
            if field in data:
                file.create_dataset(names.get(field, field), data=data[field], **options)
    return str(path), path


def write_npz(folder: Path, data: Columns, save: Callable[..., None] = np.savez_compressed) -> Written:
    path = folder / "x.npz"
    rows: Columns = {}
    for field in ("observations", "actions", "rewards", "labelled"):
        if field in data:
            values = np.asarray(data[field])
            parts = []
            for number, part in slices():
                last = data["finals"][number : number + 1] if field == "observations" else np.zeros_like(values[:1])
                parts += [values[part], last if last.shape[1:] == values.shape[1:] else values[:1]]
            rows[field] = np.concatenate(parts)
    if "rewards" in rows:
        rows["masks"] = np.ones(STEPS + len(LENGTHS))
    ends = np.cumsum([n + 1 for n in LENGTHS]) - 1
    rows["terminals"] = np.isin(np.arange(STEPS + len(LENGTHS)), ends).astype(np.float32)
    if "terminations" not in data:
        rows.pop("terminals")
    save(path, **rows)
    return str(path), path


def write_robomimic(folder: Path, data: Columns) -> Written:
    path = folder / "x.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["total"] = STEPS
        for number, part in slices():
            group = file.create_group(f"data/demo_{number}")
            group.attrs["num_samples"] = LENGTHS[number]
            for field, name in {"actions": "actions", "rewards": "rewards", "terminations": "dones"}.items():
                if field in data:
                    group[name] = data[field][part]
            if "observations" in data:
                values = np.concatenate([data["observations"][part], data["finals"][number : number + 1]])
                for key, column in zip("ab", values.T, strict=True):
                    group[f"obs/{key}"], group[f"next_obs/{key}"] = column[:-1], column[1:]
    return str(path), path


def write_d3rlpy(folder: Path, data: Columns) -> Written:
    path = folder / "x.h5"
    with h5py.File(path, "w") as file:
        file["num_episodes"], file["version"] = len(LENGTHS), "2.1"
        for number, part in slices():
            for field in ("observations", "actions", "rewards"):
                if field in data:
                    file[f"{field}_{number}"] = data[field][part].reshape(LENGTHS[number], -1)
            if "terminations" in data:
                file[f"terminated_{number}"] = data["terminations"][part][-1]
    return str(path), path


def as_table(data: Columns) -> pa.Table:
    """The layout of a table, with a final observation per episode."""
    rows: dict[str, list] = {}
    for number, part in slices():
        steps = range(part.start, part.stop)
        rows.setdefault("episode", []).extend([number] * (len(steps) + 1))
        rows.setdefault("step", []).extend(range(len(steps) + 1))
        for field, base in {"observations": "observation", "actions": "action"}.items():
            if field in data:
                values = np.asarray(data[field])
                last = data["finals"][number] if field == "observations" else [None] * values.shape[1]
                for j in range(values.shape[1]):
                    cell = last[j] if j < len(last) else 0
                    rows.setdefault(f"{base}_{j}", []).extend([*(values[i, j].item() for i in steps), cell])
        for field, name in {"rewards": "reward", "terminations": "terminated", "truncations": "truncated"}.items():
            if field in data:
                rows.setdefault(name, []).extend([*(np.asarray(data[field])[i].item() for i in steps), None])
    return pa.table({name: [None if x is None else getattr(x, "item", lambda x=x: x)() for x in values]
                     for name, values in rows.items()})  # fmt: skip


def write_parquet(folder: Path, data: Columns, **options: Any) -> Written:
    path = folder / "x.parquet"
    parquet.write_table(as_table(data), path, **options)
    return str(path), path


def write_csv(folder: Path, data: Columns) -> Written:
    path = folder / "x.csv"
    table = as_table(data)
    lines = [",".join(table.column_names)]
    for row in table.to_pylist():
        lines.append(",".join("" if value is None else str(value) for value in row.values()))
    path.write_text("\n".join(lines) + "\n")
    return str(path), path


def metadata(form: str) -> dict[str, Any]:
    def box(bound: float, width: int) -> str:
        bounds = {"low": [-bound] * width, "high": [bound] * width}
        return json.dumps({"type": "Box", "dtype": "float32", "shape": [width], **bounds})

    spaces = {"observation_space": box(np.inf, 2), "action_space": box(1.0, 1)}
    return {"dataset_id": ID, "data_format": form, "total_episodes": 2, "total_steps": STEPS, **spaces}


def write_metadata(folder: Path, form: str, **changes: Any) -> Path:
    data = folder / ID / "data"
    data.mkdir(parents=True, exist_ok=True)
    told = {**metadata(form), **changes}
    (data / "metadata.json").write_text(json.dumps({key: value for key, value in told.items() if value is not ...}))
    return data


def write_minari_hdf5(folder: Path, data: Columns) -> Written:
    path = write_metadata(folder, "hdf5") / "main_data.hdf5"
    with h5py.File(path, "w") as file:
        for number, part in slices():
            group = file.create_group(f"episode_{number}")
            for field in FIELDS:
                if field in data:
                    values = np.asarray(data[field])[part]
                    if field == "observations":
                        last = data["finals"][number : number + 1]
                        values = np.concatenate([values, last if last.shape[1:] == values.shape[1:] else values[:1]])
                    group[field] = values
            if "labelled" in data:
                group["infos/labelled"] = np.asarray(data["labelled"])[part]
    return ID, path


def write_minari_table(folder: Path, data: Columns, form: str) -> Written:
    root = write_metadata(folder, form)
    for number, part in slices():
        rows = {}
        for field in FIELDS:
            if field in data:
                values = np.asarray(data[field])[part]
                last = data["finals"][number : number + 1] if field == "observations" else np.zeros_like(values[:1])
                values = np.concatenate([values, last if last.shape[1:] == values.shape[1:] else values[:1]])
                wide = values.ndim > 1 and values.dtype.kind in "biuf"
                rows[field] = (
                    pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
                    if wide
                    else pa.array(values.tolist())
                )
        if "labelled" in data:
            values = np.asarray(data["labelled"])[part]
            said = pa.array(np.concatenate([values[:1], values]).tolist())  # of T + 1 rows the first belongs to reset
            rows["infos"] = pa.StructArray.from_arrays([said], ["labelled"])
        table = pa.table(rows)
        (root / str(number)).mkdir(exist_ok=True)
        path = root / str(number) / f"part-0.{form}"
        if form == "parquet":
            parquet.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        (root / str(number) / "metadata.json").write_text(json.dumps({"id": number, "total_steps": LENGTHS[number]}))
    return ID, root / "1" / f"part-0.{form}"


WRITERS: dict[str, Callable[[Path, Columns], Written]] = {
    "hdf5": write_hdf5,
    "npz": write_npz,
    "robomimic": write_robomimic,
    "d3rlpy": write_d3rlpy,
    "csv": write_csv,
    "parquet": write_parquet,
    "minari-hdf5": write_minari_hdf5,
    "minari-arrow": partial(write_minari_table, form="arrow"),
    "minari-parquet": partial(write_minari_table, form="parquet"),
}

# Fields that a format may lack, and what it calls the others.
MAY_BE_ABSENT = {
    "hdf5": ("truncations",),
    "npz": ("rewards", "truncations"),
    "robomimic": ("terminations", "truncations"),
    "d3rlpy": ("truncations",),
    "csv": ("truncations",),
    "parquet": ("truncations",),
}
_TABLE = {"observations": "observation", "actions": "action", "rewards": "reward", "terminations": "terminated"}
NAMES = {
    "hdf5": {"terminations": "terminals"},
    "npz": {"terminations": "terminals"},
    "robomimic": {"observations": "obs"},
    "d3rlpy": {"terminations": "terminated"},
    "csv": _TABLE,
    "parquet": _TABLE,
}


# ---- faults in the values of a field


def change(form: str, field: str, index: Any, value: Any, folder: Path) -> Written:
    data = columns()
    data[field] = data[field].astype(np.result_type(data[field], type(value)))
    data[field][index] = value
    return WRITERS[form](folder, data)


def replace(form: str, field: str, values: Any, folder: Path) -> Written:
    data = columns()
    data[field] = values
    return WRITERS[form](folder, data)


def leave_out(form: str, field: str, folder: Path) -> Written:
    data = columns()
    del data[field]
    return WRITERS[form](folder, data)


def field_faults() -> Iterator[Case]:
    """Values that no learner can use, missing fields and wrong shapes, in every format."""
    for form in WRITERS:
        for value in (np.nan, np.inf, -np.inf, 1e300):
            shown = "inf" if value == 1e300 else str(value)
            words = {
                "observation": ("episode 1, index 1", "observations", shown, "element 1"),
                "reward": ("episode 0, index 1", "rewards", shown),
                "action": ("episode 1, index 0", "actions", shown),
            }
            if form in ("csv", "parquet") and value != value:  # NaN is no value in a table
                words = {
                    "observation": ("observation_1 is missing",),
                    "reward": ("reward is missing and action is not",),
                    "action": ("action is missing and reward is not",),
                }
            changes = {"observation": (4, 1), "reward": 1, "action": (3, 0)}
            for field, index in changes.items():
                build = partial(change, form, f"{field}s", index, float(value))
                yield Case(f"{form}: {field} of {value}", build, words[field])
        if form in MINARI:  # the others have no space to compare with
            yield Case(
                f"{form}: action out of bounds",
                partial(change, form, "actions", (2, 0), 1.5),
                ("episode 0, index 2", "actions", "outside [-1.0, 1.0]"),
            )
            yield Case(
                f"{form}: terminal in mid-episode",
                partial(change, form, "terminations", 0, True),
                ("episode 0, index 0", "terminations", "before the end"),
            )
            yield Case(
                f"{form}: two flags at the end",
                partial(change, form, "truncations", 1, True),
                ("episode 0, index 1", "truncations", "--repair ends"),
            )
        for field in FIELDS:
            if field in MAY_BE_ABSENT.get(form, ()):
                continue
            told = NAMES.get(form, {}).get(field, field)
            yield Case(f"{form}: no {field}", partial(leave_out, form, field), (told,))
            if form in MINARI:
                text = np.array([b"left"] * STEPS)
                yield Case(f"{form}: {field} of text", partial(replace, form, field, text), (told,))


def label(form: str, labelled: Any, reward: float, folder: Path) -> Written:
    """Labels for the steps, and a reward of the second step."""
    data = columns()
    data["rewards"][1] = reward
    return WRITERS[form](folder, data | {"labelled": np.asarray(labelled)})


def label_faults() -> Iterator[Case]:
    """Rewards that are missing where they should be known, and labels that are none."""
    for form in LABELLED:
        name = "labelled" if form == "npz" else "episode 0, index 1, labelled"
        yield Case(
            f"{form}: an unlabelled reward of NaN",
            partial(label, form, [True, False, True, True, True], np.nan),
            note="1 steps have no reward label",
        )
        yield Case(
            f"{form}: a labelled reward of NaN",
            partial(label, form, [True, True, False, True, True], np.nan),
            ("episode 0, index 1", "rewards", "nan"),
        )
        yield Case(f"{form}: labels as floats", partial(label, form, [1.0, 0.0, 1.0, 1.0, 1.0], 0), note="1 steps")
        for value in (0.5, 2.0, np.nan):
            yield Case(f"{form}: label of {value}", partial(label, form, [1, value, 1, 1, 1], 0), (name, str(value)))
        yield Case(f"{form}: labels of text", partial(label, form, [b"yes"] * STEPS, 0), ("labelled",))
        yield Case(
            f"{form}: no step labelled", partial(label, form, [False] * STEPS, 0), note="5 steps have no reward label"
        )
    wide = np.ones((STEPS, 2), bool)
    yield Case("npz: wide labels", partial(label, "npz", wide, 0), ("labelled", "shape"))
    yield Case("minari-hdf5: wide labels", partial(label, "minari-hdf5", wide, 0), ("labelled", "2 numbers wide"))
    for rows in (0, 1, 6, 8):
        yield Case(
            f"npz: {rows} labels for 7 states", partial(npz_labels, rows), ("labelled has", "observations has 7")
        )
    for rows in (0, 1, 2, 5):
        yield Case(
            f"minari-hdf5: {rows} labels for 3 steps",
            partial(relabel, lambda infos, rows=rows: infos.create_dataset("labelled", data=np.ones(rows, bool))),
            ("episode 0", "labelled"),
        )
    yield Case("minari-hdf5: labels are a group", partial(relabel, lambda infos: infos.create_group("labelled")),
               ("episode 0, infos/labelled: not an array",))  # fmt: skip
    yield Case(
        "minari-hdf5: labels are a link",
        partial(relabel, lambda infos: infos.__setitem__("labelled", h5py.SoftLink("/episode_1/infos/labelled"))),
        ("episode 0, infos/labelled: a link by name",),
    )
    yield Case("minari-arrow: labels twice", twice_labelled, ("episode 0, infos/labelled", "twice"))


def npz_labels(rows: int, folder: Path) -> Written:
    return write_npz(folder, columns(), partial(np.savez, labelled=np.ones(rows, bool)))


def relabel(edit: Callable[[h5py.Group], object], folder: Path) -> Written:
    name, path = label("minari-hdf5", np.ones(STEPS, bool), 0, folder)
    with h5py.File(path, "a") as file:
        del file["episode_0/infos/labelled"]
        edit(file["episode_0/infos"])
    return name, path


def twice_labelled(folder: Path) -> Written:
    name, path = label("minari-arrow", np.ones(STEPS, bool), 0, folder)
    path = path.parent.parent / "0" / path.name
    with pa.ipc.open_file(path) as file:
        table = file.read_all()
    said = table.column("infos").combine_chunks().field(0)
    both = pa.StructArray.from_arrays([said, said], ["labelled", "labelled"])
    table = table.set_column(table.column_names.index("infos"), "infos", both)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return name, path


def shape_faults() -> Iterator[Case]:
    for form in ("hdf5", "npz", "minari-hdf5", "minari-arrow", "minari-parquet"):
        wide = np.zeros((STEPS, 3), np.float32)
        if form in MINARI:
            yield Case(f"{form}: wide observations", partial(replace, form, "observations", wide), ("observations",))
            yield Case(f"{form}: wide actions", partial(replace, form, "actions", wide), ("actions",))
        if form in ("hdf5", "npz"):
            yield Case(f"{form}: wide rewards", partial(replace, form, "rewards", wide), ("rewards", "shape"))
            none = np.zeros((STEPS, 0), np.float32)
            yield Case(f"{form}: empty observations", partial(replace, form, "observations", none), ("observations",))
            yield Case(f"{form}: empty actions", partial(replace, form, "actions", none), ("actions",))
    for field in FIELDS:
        for rows in (0, 1, STEPS - 1, STEPS + 1):
            values = np.resize(columns()[field], (rows, *columns()[field].shape[1:]))
            yield Case(f"hdf5: {field} of {rows} rows", partial(replace, "hdf5", field, values), ("rows",))
            change_of = partial(resize_episode, field, rows)
            yield Case(f"minari-hdf5: {field} of {rows} rows", change_of, ("episode 0", "rows"))


def resize_episode(field: str, rows: int, folder: Path) -> Written:
    name, path = write_minari_hdf5(folder, columns())
    with h5py.File(path, "a") as file:
        values = file["episode_0"][field][()]
        rows = rows + 1 if field == "observations" and rows >= STEPS - 1 else rows
        del file["episode_0"][field]
        file["episode_0"][field] = np.resize(values, (rows, *values.shape[1:]))
    return name, path


# ---- faults in the bytes of a file


def damage(form: str, what: Callable[[bytes], bytes], folder: Path) -> Written:
    name, path = WRITERS[form](folder, columns())
    path.write_bytes(what(path.read_bytes()))
    return name, path


def remove(form: str, folder: Path) -> Written:
    name, path = WRITERS[form](folder, columns())
    path.unlink()
    return name, path


def make_folder(form: str, folder: Path) -> Written:
    name, path = remove(form, folder)
    path.mkdir()
    return name, path


def link_to_itself(form: str, folder: Path) -> Written:
    name, path = remove(form, folder)
    path.symlink_to(path.name)
    return name, path


def damaged(content: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    data = bytearray(content)
    for kind, place, amount in changes:
        part = slice(place, place + amount % 64)
        if place >= len(data):
            continue
        if kind == "flip":
            data[place] ^= 1 << amount % 8
        elif kind == "set":
            data[place] = amount
        elif kind == "zero":
            data[part] = bytes(len(data[part]))
        elif kind == "lose":
            del data[part]
        elif kind == "repeat":
            data[part.start : part.start] = data[part]
        else:
            del data[place:]
    return bytes(data)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "first quarter": lambda content: content[: len(content) // 4],
    "first half": lambda content: content[: len(content) // 2],
    "first three quarters": lambda content: content[: 3 * len(content) // 4],
    "first bytes zeroed": lambda content: bytes(8) + content[8:],
    "first half lost": lambda content: content[len(content) // 2 :],
    "all zero": lambda content: bytes(len(content)),
    "all ones": lambda content: b"\xff" * len(content),
    "a web page": lambda content: b"<!DOCTYPE html>\n<html><body>404: Not found</body></html>\n",
}


def byte_faults() -> Iterator[Case]:
    for form in WRITERS:
        for name, what in DAMAGES.items():
            place = "small-v0" if form in MINARI else "x."
            if form == "csv" and name == "first three quarters":  # may end with a line, and is a table then
                what = DAMAGES["first half"]
            yield Case(f"{form}: {name}", partial(damage, form, what), (place,))
        yield Case(f"{form}: no file", partial(remove, form), ("small-v0" if form in MINARI else "no such file",))
        yield Case(f"{form}: a folder", partial(make_folder, form), ("small-v0" if form in MINARI else "no such file",))
        yield Case(
            f"{form}: a link to itself",
            partial(link_to_itself, form),
            ("small-v0" if form in MINARI else "no such file",),
        )
    for form in ("parquet", "minari-parquet", "minari-arrow", "npz"):
        yield Case(f"{form}: last byte lost", partial(damage, form, lambda content: content[:-1]), ("cannot be read",))
        yield Case(f"{form}: end zeroed", partial(damage, form, lambda c: c[:-30] + bytes(30)), ("cannot be read",))


# ---- faults of one format


def metadata_faults() -> Iterator[Case]:
    def box(**changes: Any) -> str:
        return json.dumps(json.loads(metadata("hdf5")["observation_space"]) | changes)

    deep = '{"type": "Dict", "subspaces": {"a": ' * 3000 + "3" + "}}" * 3000
    changes: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "no total": ({"total_steps": ...}, ("metadata.json", "total_steps")),
        "total of text": ({"total_steps": "many"}, ("whole numbers",)),
        "negative total": ({"total_episodes": -1}, ("whole numbers",)),
        "true as a total": ({"total_episodes": True}, ("whole numbers",)),
        "more episodes": ({"total_episodes": 3}, ("promise 3 episodes", "holds 2")),
        "fewer episodes": ({"total_episodes": 1}, ("promise 1 episodes", "holds 2")),
        "huge total": ({"total_episodes": 10**18}, ("promise",)),
        "more steps": ({"total_steps": 6}, ("promise 6 steps", "holds 5")),
        "fewer steps": ({"total_steps": 4}, ("promise 4 steps", "holds 5")),
        "no space": ({"observation_space": ...}, ("observation_space",)),
        "null as a space": ({"action_space": None}, ("action_space",)),
        "space of text": ({"action_space": "Box"}, ("action_space",)),
        "space that is a list": ({"action_space": "[1]"}, ("action_space",)),
        "deep space": ({"observation_space": deep}, ("observation_space",)),
        "unknown space": ({"observation_space": '{"type": "Wicked"}'}, ("observation_space", "Wicked")),
        "MultiBinary": ({"action_space": '{"type": "MultiBinary", "n": 3}'}, ("action_space", "MultiBinary")),
        "shape beyond bounds": ({"observation_space": box(shape=[10**12])}, ("observation_space",)),
        "negative shape": ({"observation_space": box(shape=[-2])}, ("observation_space",)),
        "scalar bounds": ({"observation_space": box(low=0, shape=[10**9])}, ("observation_space",)),
        "bounds swapped": ({"observation_space": box(low=[1, 1], high=[0, 0])}, ("observation_space",)),
        "object dtype": ({"observation_space": box(dtype="object")}, ("observation_space",)),
        "unknown dtype": ({"observation_space": box(dtype="float99")}, ("observation_space",)),
        "other width": ({"observation_space": box(shape=[1], low=[0], high=[1])}, ("observations",)),
        "Dict for arrays": (
            {"observation_space": json.dumps({"type": "Dict", "subspaces": {"a": json.loads(box())}})},
            ("observations",),
        ),
        "no choices": ({"action_space": '{"type": "Discrete", "n": 0, "start": 0}'}, ("action_space",)),
        "fractions as choices": ({"action_space": '{"type": "Discrete", "n": 3, "start": 0}'}, ("actions",)),
        "too many choices": (
            {"observation_space": '{"type": "Discrete", "n": 1000000000000, "start": 0}'},
            ("observations",),
        ),
        "unknown format": ({"data_format": "tape"}, ("data_format", "tape")),
        "format of a list": ({"data_format": ["hdf5"]}, ("data_format",)),
        "path as a format": ({"data_format": "../../evil"}, ("data_format",)),
        "spec that is no JSON": ({"env_spec": "{"}, ("env_spec",)),
        "spec that is a list": ({"env_spec": "[1]"}, ("env_spec",)),
        "spec that is a number": ({"env_spec": 3}, ("env_spec",)),
        "score of text": ({"ref_min_score": "low", "ref_max_score": 1}, ("ref_min_score",)),
        "score of NaN": ({"ref_min_score": float("nan"), "ref_max_score": 1}, ("ref_min_score",)),
    }
    for form in ("hdf5", "arrow"):
        for name, (change_of, words) in changes.items():
            if form == "arrow" and name == "too many choices":
                continue
            yield Case(f"minari-{form}: {name}", partial(other_metadata, form, change_of), (ID, *words))
    for name, text in {
        "no JSON": "{",
        "a list": "[]",
        "deep JSON": "[" * 100_000,
        "no UTF-8": b"\xff\xfe{}",
        "huge number": '{"total_episodes": ' + "9" * 5000 + "}",
    }.items():
        yield Case(f"metadata.json: {name}", partial(metadata_text, text), ("metadata.json",))


def other_metadata(form: str, changes: dict[str, Any], folder: Path) -> Written:
    name, path = WRITERS[f"minari-{form}"](folder, columns())
    write_metadata(folder, form, **changes)
    return name, path


def metadata_text(text: str | bytes, folder: Path) -> Written:
    name, path = write_minari_hdf5(folder, columns())
    (folder / ID / "data" / "metadata.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return name, path


def csv_lines(edit: Callable[[list[str]], object], folder: Path) -> Written:
    name, path = write_csv(folder, columns())
    lines = path.read_text().splitlines()
    edit(lines)
    path.write_text("\n".join(lines) + "\n", newline="")
    return name, path


def csv_faults() -> Iterator[Case]:
    """Line 1 is the header: episode,step,observation_0,observation_1,action_0,reward,terminated,truncated."""

    def cell(line: int, column: int, value: str) -> Callable[[list[str]], None]:
        def edit(lines: list[str]) -> None:
            cells = lines[line - 1].split(",")
            cells[column] = value
            lines[line - 1] = ",".join(cells)

        return edit

    names = ("episode", "step", "observation_0", "observation_1", "action_0", "reward", "terminated", "truncated")
    for i, column in enumerate(names):
        if column != "episode":  # any text names an episode
            yield Case(f"csv: {column} is text", partial(csv_lines, cell(3, i, "abc")), ("x.csv", "abc"))
        yield Case(f"csv: {column} is missing", partial(csv_lines, cell(3, i, "")), ("line 3",))
        yield Case(f"csv: {column} twice", partial(csv_lines, cell(1, i, "step" if i != 1 else "reward")), ("x.csv",))
        misspelt = partial(csv_lines, cell(1, i, f"{column}x"))
        if column in ("observation_1", "truncated"):  # which may be absent
            yield Case(f"csv: {column} misspelt", misspelt, note=f"not read: {column}x")
        else:
            yield Case(f"csv: {column} misspelt", misspelt, ("x.csv: no column",))
    yield Case("csv: step jumps", partial(csv_lines, cell(3, 1, "7")), ("line", "step"))
    yield Case("csv: step 0 twice", partial(csv_lines, cell(3, 1, "0")), ("line 3", "twice"))
    yield Case("csv: step of a fraction", partial(csv_lines, cell(3, 1, "1.5")), ("line 3", "step"))
    yield Case("csv: step of NaN", partial(csv_lines, cell(3, 1, "nan")), ("line 3", "step"))
    yield Case("csv: step of 1e300", partial(csv_lines, cell(3, 1, "1e300")), ("step",))
    yield Case("csv: negative step", partial(csv_lines, cell(3, 1, "-1")), ("step",))
    yield Case("csv: flag of 2", partial(csv_lines, cell(3, 6, "2")), ("line 3", "terminated"))
    yield Case("csv: cell too many", partial(csv_lines, lambda lines: lines.append("1,2,3,4,5,6,7,8,9")), ("x.csv",))
    yield Case("csv: cell too few", partial(csv_lines, lambda lines: lines.append("1,2")), ("x.csv",))
    yield Case("csv: open quote", partial(csv_lines, cell(3, 0, '"1')), ("x.csv",))
    yield Case("csv: header alone", partial(csv_lines, lambda lines: lines.__delitem__(slice(1, None))), ("no rows",))
    yield Case("csv: no header", partial(csv_lines, lambda lines: lines.pop(0)), ("x.csv",))
    yield Case("csv: a row twice", partial(csv_lines, lambda lines: lines.append(lines[1])), ("twice",))
    yield Case("csv: rows in another order", partial(csv_lines, lambda lines: lines.append(lines.pop(1))))
    yield Case("csv: empty lines", partial(csv_lines, lambda lines: lines.append("")))
    yield Case("csv: Windows ends of lines", partial(damage, "csv", lambda c: c.replace(b"\n", b"\r\n")))
    yield Case("csv: byte order mark", partial(damage, "csv", lambda c: b"\xef\xbb\xbf" + c))
    yield Case("csv: UTF-16", partial(damage, "csv", lambda c: c.decode().encode("utf-16")), note="UTF-16")
    yield Case("csv: NUL bytes", partial(damage, "csv", lambda c: c.replace(b"-1", b"\0\0", 1)), ("x.csv",))
    yield Case(
        "csv: bytes that are no text", partial(damage, "csv", lambda c: c.replace(b"\n0,", b"\n\xff,", 1)), ("x.csv",)
    )


def hdf5_edit(edit: Callable[[h5py.File, Path], object], folder: Path) -> Written:
    return edit_hdf5("hdf5", edit, folder)


def swap(name: str, **options: Any) -> Callable[[h5py.File, Path], None]:
    def edit(file: h5py.File, folder: Path) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return edit


def hdf5_faults() -> Iterator[Case]:
    text = h5py.string_dtype()
    vlen = h5py.vlen_dtype(np.float32)
    opaque = np.dtype("V8")
    pair = np.dtype([("a", "f4"), ("b", "f4")])
    for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
        for kind, dtype in {"text": text, "lists": vlen, "opaque": opaque, "pairs": pair, "references": h5py.ref_dtype,
                            "complex": np.complex64}.items():  # fmt: skip
            options = {"shape": (STEPS,), "dtype": dtype}
            yield Case(
                f"hdf5: {name} of {kind}", partial(hdf5_edit, swap(name, **options)), (f"{name} is not an array",)
            )
        yield Case(f"hdf5: {name} is a scalar", partial(hdf5_edit, swap(name, data=1.0)), (name,))
        yield Case(
            f"hdf5: {name} was never written",
            partial(hdf5_edit, swap(name, shape=(STEPS, 1), dtype="f4")),
            (name, "unfinished"),
        )
        yield Case(
            f"hdf5: {name} lacks chunks",
            partial(hdf5_edit, swap(name, shape=(STEPS, 1), dtype="f4", chunks=(2, 1))),
            (name, "0 of its 3 chunks"),
        )
        yield Case(
            f"hdf5: {name} is huge",
            partial(hdf5_edit, swap(name, shape=(2**45,), dtype="f4", chunks=(1024,))),
            ("GiB", "use a smaller part"),
        )

    def a_group(file: h5py.File, folder: Path) -> None:
        del file["rewards"]
        file.create_group("rewards")

    def odd_name(file: h5py.File, folder: Path) -> None:
        file["two\nlines"] = np.zeros(3)

    def rearranged(file: h5py.File, folder: Path) -> None:
        file["next_observations"] = np.zeros((STEPS, 3), np.float32)

    yield Case("hdf5: rewards is a group", partial(hdf5_edit, a_group), ("rewards is not an array",))
    yield Case("hdf5: name of two lines", partial(hdf5_edit, odd_name), note="two\nlines")
    yield Case("hdf5: successors of another width", partial(hdf5_edit, rearranged), ("next_observations has shape",))
    yield Case("hdf5: an unfinished gzip", partial(gzip_cut), ("cannot be read",))


def gzip_cut(folder: Path) -> Written:
    name, path = write_hdf5(folder, columns(), compression="gzip", chunks=True)
    with h5py.File(path, "a") as file:
        item = file["observations"]
        chunk = item.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    return name, path


def numbered_faults() -> Iterator[Case]:
    """Of files with an array or a group per episode: what is missing, too much, or another kind of member."""

    def without(name: str) -> Callable[[h5py.File, Path], None]:
        return lambda file, folder: file.__delitem__(name)

    def put(name: str, value: Any) -> Callable[[h5py.File, Path], None]:
        return lambda file, folder: (file.pop(name, None), file.__setitem__(name, value))

    def attribute(group: str, name: str, value: Any) -> Callable[[h5py.File, Path], None]:
        return lambda file, folder: file[group].attrs.__setitem__(name, value)

    faults: dict[str, dict[str, tuple[Callable[[h5py.File, Path], object], tuple[str, ...]]]] = {
        "robomimic": {
            "a demonstration is lost": (without("data/demo_1"), ("promises 5 steps", "holds 3")),
            "a step too many": (put("data/demo_1/actions", np.zeros((3, 1))), ("demo_1", "num_samples", "3 rows")),
            "other members": (put("data/extra", np.zeros(2)), ("no demo_<number>: extra",)),
            "a demonstration is an array": (put("data/demo_1", np.zeros(2)), ("demo_1 is not a group",)),
            "the simulator's states alone": (without("data/demo_0/obs"), ("has no obs", "dataset_states_to_obs")),
            "other keys": (put("data/demo_1/obs/c", np.zeros(2)), ("demo_1, obs", "has the keys a, b, c")),
            "a key is a link": (put("data/demo_1/obs/a", h5py.SoftLink("/data/demo_0/obs/a")), ("link by name",)),
            "a short key": (put("data/demo_1/obs/a", np.zeros(1)), ("demo_1, obs/a: 1 rows", "2")),
            "a jump": (put("data/demo_0/next_obs/a", np.zeros(3)), ("demo_0, index 0, next_obs",)),
            "dones of 2": (put("data/demo_0/dones", [0, 2, 1]), ("demo_0, index 1, dones", "2")),
            "env_args that are no JSON": (attribute("data", "env_args", "{"), ("env_args cannot be read",)),
            "env_args that are a list": (attribute("data", "env_args", "[1]"), ("env_args cannot be read",)),
            "other total": (attribute("data", "total", 6), ("promises 6 steps", "holds 5")),
            "totals": (attribute("data", "total", [5, 5]), ("data, total: not one number",)),
            "total of text": (attribute("data", "total", "many"), ("data, total: not one number",)),
        },
        "d3rlpy": {
            "an episode too few": (put("num_episodes", 3), ("promises 3 episodes", "holds 2")),
            "an episode too many": (put("num_episodes", 1), ("promises 1 episodes", "holds 2")),
            "a count of text": (put("num_episodes", "two"), ("num_episodes: not one number",)),
            "an episode without observations": (without("observations_1"), ("episode 1, observations_1: missing",)),
            "tuples": (put("observations_1_0", np.zeros((2, 2))), ("episode 1: observations are tuples",)),
            "two flags": (put("terminated_0", [True, False]), ("episode 0, terminated: not one number",)),
            "a flag of 2": (put("terminated_0", 2), ("episode 0, index 2", "terminations", "2")),
            "a short reward": (put("rewards_1", np.zeros(1)), ("episode 1, rewards: 1 rows", "2")),
            "a link": (put("rewards_1", h5py.SoftLink("/rewards_0")), ("episode 1, rewards_1: a link by name",)),
        },
    }
    for form, cases in faults.items():
        for name, (edit, words) in cases.items():
            yield Case(f"{form}: {name}", partial(edit_hdf5, form, edit), ("x.h", *words))


def edit_hdf5(form: str, edit: Callable[[h5py.File, Path], object], folder: Path) -> Written:
    name, path = WRITERS[form](folder, columns())
    with h5py.File(path, "a") as file:
        edit(file, folder)
    return name, path


def sound() -> Iterator[Case]:
    """What looks odd and is right: without these, refusing everything would pass."""
    for form, write in WRITERS.items():
        yield Case(f"{form}: sound", lambda folder, write=write: write(folder, columns()))
    yield Case("npz: not compressed", lambda folder: write_npz(folder, columns(), np.savez))
    yield Case("hdf5: compressed", lambda folder: write_hdf5(folder, columns(), compression="gzip", chunks=True))
    yield Case(
        "parquet: Snappy, pages of version 2", lambda folder: write_parquet(folder, columns(), data_page_version="2.0")
    )
    yield Case(
        "parquet: Zstandard, one row a group",
        lambda folder: write_parquet(folder, columns(), compression="zstd", row_group_size=1),
    )
    yield Case("parquet: checksums", lambda folder: write_parquet(folder, columns(), write_page_checksum=True))


CASES = [
    *sound(), *field_faults(), *label_faults(), *shape_faults(), *byte_faults(), *metadata_faults(), *csv_faults(),
    *hdf5_faults(), *numbered_faults(),
]  # fmt: skip
