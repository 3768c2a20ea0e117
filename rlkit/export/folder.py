"""Writes the folder of an exported policy: aside, tried in a process of its own, and then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.export import loader, numpy_form, onnx_form, stablehlo, tensors
from rlkit.export.part import Part, Subject
from rlkit.export.sample import Sample
from rlkit.runs import serialization
from rlkit.runs.policy import Policy
from rlkit.types import InputError, one_line

WEIGHTS = "weights.safetensors"
LOADER = "policy.py"
CONTRACT = "policy.json"
# name -> what makes a policy's part in that format
FORMATS: Mapping[str, Callable[[Subject], Part]] = {
    "numpy": numpy_form.part_of,
    "stablehlo": stablehlo.part_of,
    "onnx": onnx_form.part_of,
}


def write(
    policy: Policy, out: Path, contract: Mapping[str, Any], sample: Sample, formats: Sequence[str] = ("numpy",)
) -> dict[str, float]:
    """Export ``policy`` to the new folder ``out``.

    Args:
        policy: of a loaded run.
        out: it must not be there yet.
        contract: what rlkit.export.contract.describe says of the policy.
        sample: observations on which it is tried.
        formats: of FORMATS.

    Returns:
        The largest difference from the run's own policy, as a share of half the range of an action, for each format.

    Raises:
        InputError: if the folder is there or cannot be written, or if the policy does not have a format.
        RunError: if the exported policy acts otherwise than ``policy``. Nothing is written then.
    """
    if out.exists():
        raise InputError(f"{out} is there already: choose another --out")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise InputError(f"formats: {list(formats)} must be of {', '.join(FORMATS)}")
    subject = Subject(policy, contract, sample)
    parts = {name: FORMATS[name](subject) for name in formats}
    said = dict(contract)
    arrays = numpy_form.normaliser_tensors(policy)
    contents: dict[str, bytes] = {}
    for part in parts.values():
        said |= part.said
        arrays |= part.tensors
        contents |= part.files
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    differences = {}
    try:
        aside.mkdir(parents=True)
        fill(aside, said, arrays, contents)
        for name, part in parts.items():
            differences[name] = part.check(aside)
        os.rename(aside, out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({one_line(error)}): choose another --out") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return differences


def fill(
    folder: Path,
    contract: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the files of a policy into ``folder``, with their sums in the contract. ``files``: further ones."""
    contents = {WEIGHTS: tensors.to_bytes(arrays), LOADER: Path(loader.__file__).read_bytes()} | dict(files or {})
    sums = {}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        sums[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    said = serialization.encode(contract | {"files": sums})
    serialization.write_json(folder / CONTRACT, said | {"seal": loader.seal(said)})
