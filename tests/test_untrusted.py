"""Files from strangers: none of their code runs, no other file is read, and nothing is unpacked that does not fit."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from functools import partial
from pathlib import Path

import h5py
import malformations as made
import numpy as np
import pyarrow as pa
import pytest
from malformations import ID, STEPS, columns, hdf5_edit
from pyarrow import parquet

from rlkit.datasets import DataOptions, load
from rlkit.datasets.untrusted import fields
from rlkit.types import InputError


class Payload:
    """Makes a file called `payload-was-run` where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("payload-was-run",)


PICKLE = pickle.dumps(Payload())


def open_it(name: str, root: Path, **changes):
    return load(DataOptions(name, data_root=root, cache_dir=root / "cache", **changes))


def refused(name: str, root: Path, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        open_it(name, root)
    message = str(caught.value)
    assert message.isprintable()
    for word in words:
        assert word in message, message
    return message


# ---- nothing is run


def npz_objects(folder):
    values = np.array([Payload()] * 7, object)
    return made.write_npz(folder, columns(), lambda path, **rows: np.savez(path, **rows | {"actions": values}))


def npz_header(folder):
    """A dtype in a .npy header is a Python expression; only literals may be read."""
    name, path = made.write_npz(folder, columns())
    expression = "{'descr': __import__('os').mkdir('payload-was-run'), 'fortran_order': False, 'shape': (7, 1)}\n"
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members["actions.npy"] = b"\x93NUMPY\x01\x00" + len(expression).to_bytes(2, "little") + expression.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return name, path


def npz_bare_pickle(folder):
    name, path = made.write_npz(folder, {key: value for key, value in columns().items() if key != "actions"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("actions.npy", PICKLE)
    return name, path


def hdf5_opaque(file, folder):
    del file["actions"]
    file["actions"] = np.array([np.void(PICKLE)] * STEPS)


def hdf5_vlen(file, folder):
    del file["actions"]
    item = file.create_dataset("actions", (STEPS,), h5py.vlen_dtype(np.uint8))
    for i in range(STEPS):
        item[i] = np.frombuffer(PICKLE, np.uint8)


def minari_attributes(folder):
    """Attributes are read as numbers at most."""
    name, path = made.write_minari_hdf5(folder, columns())
    with h5py.File(path, "a") as file:
        file["episode_0"].attrs["total_steps"] = np.void(PICKLE)
    return name, path


def robomimic_attributes(folder):
    """The JSON in an attribute is read as text, and only as text."""

    def edit(file, folder):
        file["data"].attrs["env_args"] = np.void(PICKLE)

    return made.edit_hdf5("robomimic", edit, folder)


def parquet_of(kind, folder):
    """Types that carry Python: pyarrow's pickled extension types, pandas' metadata, cells of bytes."""
    name, path = made.write_parquet(folder, columns())
    table = parquet.read_table(path)
    if kind == "extension":
        told = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": PICKLE}
        table = table.set_column(
            4, pa.field("action_0", pa.binary(), metadata=told), pa.array([PICKLE] * table.num_rows)
        )
    elif kind == "cells":
        table = table.set_column(4, "action_0", pa.array([PICKLE] * table.num_rows))
    else:
        table = table.replace_schema_metadata({b"pandas": PICKLE})
    parquet.write_table(table, path)
    return name, path


def arrow_extension(folder):
    name, path = made.WRITERS["minari-arrow"](folder, columns())
    told = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": PICKLE}
    table = pa.table(
        [pa.array([PICKLE] * 3), *(pa.array([0.0] * 3),) * 2, *(pa.array([False] * 3),) * 2],
        schema=pa.schema(
            [pa.field("observations", pa.binary(), metadata=told), pa.field("actions", pa.float32()),
             pa.field("rewards", pa.float32()), pa.field("terminations", pa.bool_()),
             pa.field("truncations", pa.bool_())]
        ),
    )  # fmt: skip
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return name, path


def csv_cells(folder):
    call = "__import__('os').mkdir('payload-was-run')"
    return made.csv_lines(lambda lines: lines.__setitem__(1, lines[1].replace("0,0,", f"0,0,{call}", 1)), folder)


def minari_space(kind, folder):
    space = {
        "type": {"type": "wicked:Space"},
        "dtype": {"type": "Box", "dtype": "object", "shape": [1], "low": [0], "high": [1]},
        "module": {"type": "Box", "dtype": "wicked.dtype", "shape": [1], "low": [0], "high": [1]},
        "serialized": {":type:": "<class 'Space'>", ":serialized:": PICKLE.hex()},  # SB3's way
    }[kind]
    return made.other_metadata("hdf5", {"action_space": json.dumps(space)}, folder)


PAYLOADS = {
    "npz objects": npz_objects,
    "npz header": npz_header,
    "npz bare pickle": npz_bare_pickle,
    "hdf5 opaque": partial(hdf5_edit, hdf5_opaque),
    "hdf5 variable length": partial(hdf5_edit, hdf5_vlen),
    "minari attributes": minari_attributes,
    "robomimic attributes": robomimic_attributes,
    "parquet extension": partial(parquet_of, "extension"),
    "parquet cells": partial(parquet_of, "cells"),
    "arrow extension": arrow_extension,
    "csv cells": csv_cells,
    **{f"minari space by {kind}": partial(minari_space, kind) for kind in ("type", "dtype", "module", "serialized")},
}


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A folder to work in, on the import path with a module that must never be imported."""
    (tmp_path / "wicked.py").write_text("import os; os.mkdir('payload-was-run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "payload-was-run").exists()


@pytest.mark.parametrize("build", PAYLOADS.values(), ids=PAYLOADS)
def test_a_payload_is_refused_in_one_line_and_never_run(inside, build):
    name, _ = build(inside)
    refused(name, inside, "small-v0" if name == ID else Path(name).name)


def test_the_payload_would_run(inside, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(elsewhere := tmp_path_factory.mktemp("run"))
    pickle.loads(PICKLE)
    assert (elsewhere / "payload-was-run").exists()


def test_metadata_of_pandas_are_not_looked_at(inside):
    name, _ = parquet_of("pandas", inside)
    assert open_it(name, inside).report.steps == STEPS


@pytest.mark.parametrize(
    "spec",
    [
        {"id": "CartPole-v1", "entry_point": "wicked:Env"},
        {"id": "wicked:Env-v0"},
        {"id": "CartPole-v1", "additional_wrappers": [{"name": "W", "entry_point": "wicked:W", "kwargs": {}}]},
        {"id": "CartPole-v1", "vector_entry_point": "wicked:Env"},
    ],
)
def test_loading_imports_nothing_that_an_environments_spec_names(inside, spec):
    """That making the environment imports nothing either, and refuses, is tested with the environments."""
    name, _ = made.other_metadata("hdf5", {"env_spec": json.dumps(spec)}, inside)
    assert json.loads(open_it(name, inside).env_spec)["id"] == spec["id"]


# ---- nothing else is read


def external(kind, folder):
    """A D4RL file whose rewards lie in another file, by one of HDF5's ways to say so."""
    secret = folder / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["rewards"] = np.full(STEPS, 42.0, np.float32)
    (folder / "secret.bin").write_bytes(bytes(4 * STEPS))

    def edit(file, folder):
        del file["rewards"]
        if kind == "external link":
            file["rewards"] = h5py.ExternalLink(str(secret), "/rewards")
        elif kind == "link through a link":
            file["door"] = h5py.ExternalLink(str(secret), "/")
            file["rewards"] = h5py.SoftLink("/door/rewards")
        elif kind == "external storage":
            file.create_dataset("rewards", (STEPS,), "f4", external=[(str(folder / "secret.bin"), 0, 4 * STEPS)])
        else:
            layout = h5py.VirtualLayout((STEPS,), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "rewards", (STEPS,))
            file.create_virtual_dataset("rewards", layout)

    return hdf5_edit(edit, folder)


@pytest.mark.parametrize("kind", ["external link", "link through a link", "external storage", "virtual dataset"])
def test_hdf5_cannot_read_other_files(tmp_path, kind):
    name, path = external(kind, tmp_path)
    refused(name, tmp_path, "x.hdf5: rewards is", "link by name" if "link" in kind else "kept in other files")
    data = made.write_metadata(tmp_path, "hdf5")
    with h5py.File(data / "main_data.hdf5", "w") as file, h5py.File(path) as source:
        for number in range(2):
            source.copy(source["observations"], file.create_group(f"episode_{number}"), "observations")
            file[f"episode_{number}/actions"] = h5py.ExternalLink(str(path), "/actions")
    refused(ID, tmp_path, "episode 0, actions: a link by name")


@pytest.mark.parametrize("form", made.MINARI)
def test_links_cannot_lead_out_of_the_root(tmp_path, form):
    """However deep in the dataset's folder; and a pipe would be waited on for ever."""
    root = tmp_path / "root"
    root.mkdir()
    name, path = made.WRITERS[form](root, columns())
    path.rename(tmp_path / path.name)
    path.symlink_to(tmp_path / path.name)
    refused(name, root, "leads out of")
    path.unlink()
    os.mkfifo(path)
    refused(name, root, "neither a file nor a folder")


# ---- nothing is unpacked that does not fit


def npz_bomb(folder):
    """Zeros: 64 MB in 64 kB."""
    return made.write_npz(folder, columns() | {"observations": np.zeros((STEPS, 1 << 21), np.float64)})


def npz_long_header(folder):
    """A header of 64 MB, which numpy would read before it looks."""
    name, path = made.write_npz(folder, columns())
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    size = 1 << 26
    members["actions.npy"] = b"\x93NUMPY\x02\x00" + size.to_bytes(4, "little") + b" " * size
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return name, path


def hdf5_bomb(options, file, folder):
    del file["observations"]
    file.create_dataset("observations", compression="gzip", **options)


def parquet_repeated(folder):
    """One text of 8 kB, which a dictionary repeats for every row."""
    rows = 10_000
    table = pa.table({"episode": ["x" * 8000] * rows, "step": range(rows), "observation_0": np.zeros(rows),
                      "action_0": np.zeros(rows), "reward": np.zeros(rows), "terminated": [False] * rows})  # fmt: skip
    parquet.write_table(table, folder / "x.parquet")
    return str(folder / "x.parquet"), folder / "x.parquet"


def parquet_runs(folder):
    """Lists of one value over and over: a few bytes of run lengths."""
    table = pa.table({"episode": [0], "step": [0], "observation": [np.zeros(1 << 23)], "action": [[0.0]],
                      "reward": [0.0], "terminated": [True]})  # fmt: skip
    parquet.write_table(table, folder / "x.parquet", use_dictionary=True, compression="zstd")
    return str(folder / "x.parquet"), folder / "x.parquet"


def minari_many(folder):
    """No array is too big; all of them together are."""
    name, path = made.write_minari_hdf5(folder, columns())
    steps = (1 << 20) + (1 << 19) - 1
    with h5py.File(path, "w") as file:
        for number in range(2):
            group = file.create_group(f"episode_{number}")
            shapes = {"observations": (steps + 1, 2), "actions": (steps, 1), **dict.fromkeys(made.FIELDS[2:], (steps,))}
            for field, shape in shapes.items():
                group.create_dataset(field, data=np.zeros(shape, np.float32), compression="gzip")
    return name, path


def arrow_compressed(folder):
    name, path = made.WRITERS["minari-arrow"](folder, columns())
    table = pa.table({"observations": np.zeros(1 << 23)})
    with pa.OSFile(str(path), "wb") as sink:
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
    return name, path


LIMIT = 1 << 25  # bytes
BOMBS = {
    "npz": npz_bomb,
    "npz header": npz_long_header,
    "hdf5": partial(hdf5_edit, partial(hdf5_bomb, {"data": np.zeros((STEPS, 1 << 20))})),
    "hdf5 chunk": partial(
        hdf5_edit,
        partial(
            hdf5_bomb, {"shape": (STEPS, 1), "maxshape": (None, 1), "chunks": (1 << 23, 1), "data": np.ones((STEPS, 1))}
        ),
    ),
    "parquet text": parquet_repeated,
    "parquet lists": parquet_runs,
    "arrow": arrow_compressed,
    "minari": minari_many,
}


@pytest.mark.parametrize("build", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, build):
    """With a low limit, so that the test itself is small. Peak memory tells that nothing was allocated here; the
    process that reads Parquet and Arrow cannot allocate more than its limit."""
    name, path = build(tmp_path)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(fields, "LIMIT", LIMIT)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    refused(name, tmp_path, "GiB, more than the free memory", "use a smaller part of the data")
    assert tracemalloc.get_traced_memory()[1] < LIMIT
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < LIMIT


@pytest.mark.parametrize("form", made.WRITERS)
def test_a_sound_dataset_fits_into_that_limit(tmp_path, monkeypatch, form):
    monkeypatch.setattr(fields, "LIMIT", LIMIT)
    name, _ = made.WRITERS[form](tmp_path, columns())
    assert open_it(name, tmp_path).report.steps == STEPS


def test_compressed_arrow_is_read_within_the_limit_on_memory(tmp_path):
    name, path = made.WRITERS["minari-arrow"](tmp_path, columns())
    with pa.ipc.open_file(path) as file:
        table = file.read_all()
    with pa.OSFile(str(path), "wb") as sink:
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
    assert open_it(name, tmp_path).report.steps == STEPS


def test_a_page_that_claims_more_values_than_it_has_is_refused(tmp_path):
    name, path = parquet_runs(tmp_path)
    content = path.read_bytes()
    told = io.BytesIO()
    value = (1 << 23) << 1  # zigzag, in the page header
    while value > 127:
        told.write(bytes([value & 127 | 128]))
        value >>= 7
    told.write(bytes([value]))
    place = content.index(told.getvalue())
    path.write_bytes(content[:place] + bytes([content[place] | 2]) + content[place + 1 :])
    refused(name, tmp_path, "x.parquet: cannot be read as Parquet", "do not match num_values in page header")


def test_images_must_have_the_size_of_their_space(tmp_path):
    """The header is looked at alone: a picture of 2,000 x 2,000 pixels takes a few bytes."""
    from PIL import Image

    space = {"type": "Box", "dtype": "uint8", "shape": [32, 32], "low": [[0] * 32] * 32, "high": [[255] * 32] * 32}
    data = made.write_metadata(tmp_path, "hdf5", total_episodes=1, total_steps=1, observation_space=json.dumps(space))
    for size in (32, 2_000):
        frame = io.BytesIO()
        Image.new("L", (size, size)).save(frame, format="PNG")
        with h5py.File(data / "main_data.hdf5", "w") as file:
            group = file.create_group("episode_0")
            item = group.create_dataset("observations", (2,), h5py.vlen_dtype(np.uint8))
            item[0] = item[1] = np.frombuffer(frame.getvalue(), np.uint8)
            for field, values in {
                "actions": [[0.5]],
                "rewards": [1.0],
                "terminations": [0],
                "truncations": [1],
            }.items():
                group[field] = values
        if size == 32:
            assert open_it(ID, tmp_path).obs.shape == (2, 1024)
    refused(ID, tmp_path, "episode 0, observations: image 0 ")
