"""``rlkit inspect FOLDER``: what an exported policy takes and gives, and whether it still acts as it did."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlkit.commands import Catalog
from rlkit.commands.options import InspectOptions
from rlkit.export import loader
from rlkit.export.loader import Policy, Refused
from rlkit.types import InputError


def run(options: InspectOptions, catalog: Catalog) -> int:
    """Print the contract of the folder and the result of its checks. Its own code is not run.

    Raises InputError for what is no exported policy, or not the one that was written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are no names is printed below
            contract = loader.read_contract(options.folder)
            _check_files(options.folder, contract)
            policy = loader.load(options.folder) if "network" in contract else None
        lines = [*_lines(contract), _checked(contract, policy)]
    except Refused as error:
        raise InputError(str(error)) from error
    except loader.MALFORMED as error:
        raise InputError(f"{options.folder}/policy.json: not a contract of this format ({error})") from error
    for line in lines:
        print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
    return 0


def _check_files(folder: Path, contract: Mapping[str, Any]) -> None:
    """Raises Refused unless each file is what was written."""
    for name in contract["files"]:
        if Path(name).name != name:
            raise Refused(f"{folder}/policy.json: {name} is no file of the folder")
        loader.read_file(folder, contract, name)


def _lines(contract: Mapping[str, Any]) -> Iterable[str]:
    run, written = contract["run"], contract["written"]
    versions = ", ".join(f"{name} {version}" for name, version in written["versions"].items())
    trained = f"{run['updates']:,} updates on {run['dataset']}, seed {run['seed']}"
    yield f"policy       {run['agent']}, {trained}, {run['acts']}"
    yield f"written      {written['time']} with {versions}"
    yield f"judged       {_judged(contract['judged'])}"
    if "network" in contract:
        kinds = [layer["kind"] for layer in contract["network"]["layers"]]
        yield f"numpy        {' '.join(kinds)}, then {contract['network']['head']}"
    if "stablehlo" in contract:
        program = contract["stablehlo"]
        yield f"stablehlo    {', '.join(program['programs'])} for {', '.join(program['platforms'])}"
    if "onnx" in contract:
        yield f"onnx         {contract['onnx']['file']}, opset {contract['onnx']['opset']}"
    yield from _action(contract["action"])
    yield from _observation(contract["observation"])
    for name, entry in contract["files"].items():
        yield f"file         {name}: {entry['bytes']:,} bytes, as written"


def _checked(contract: Mapping[str, Any], policy: Policy | None) -> str:
    if policy is None:
        return "check        none here: its programs are run by policy_jax.py, which needs jax"
    check = contract["check"]
    return (
        f"check        {check['observations']} observations from {check['from']}: acts as the run did, but for "
        f"{policy.largest_difference:.1g} of half the range of an action ({check['tolerance']:g} are allowed)"
    )


def _judged(judged: Mapping[str, Any] | None) -> str:
    if judged is None:
        return "by nobody: the run has no evaluation"
    span = f"{judged['least_return']:.1f} to {judged['largest_return']:.1f}"
    where = judged["environment"][:80]
    return f"return {judged['mean_return']:.1f} ({span}) over {judged['episodes']} episodes in {where}"


def _action(action: Mapping[str, Any]) -> Iterable[str]:
    names = f"names {', '.join(action['names'])}" if action["names"] else "no names"
    if action["kind"] == "discrete":
        last = action["start"] + action["choices"] - 1
        yield f"action       a choice from {action['start']} to {last}; {names}"
        return
    units = ", ".join(unit or "-" for unit in action["units"] or ["not told"])
    bounds = f"from {action['low']} to {action['high']}"
    yield f"action       {action['dtype']} {action['shape']} {bounds}; {names}; units {units}"


def _observation(observation: Mapping[str, Any]) -> Iterable[str]:
    features = observation["features"]
    names = (
        f"names from {observation['names_from']}" if observation["named"] else "no names: their order cannot be checked"
    )
    yield f"observation  {len(features)} numbers, {names}; usual are the {observation['usual_range']}"
    for place, feature in enumerate(features):
        low, high = feature["usual"]
        name = feature["name"] if observation["named"] else "-"
        yield f"  {place:4d}  {name}  {feature['unit'] or '-'}  usual {low:.4g} to {high:.4g}"
