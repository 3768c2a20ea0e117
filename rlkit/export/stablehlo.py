"""A policy as two StableHLO programs, which jax.export reads: any agent, its memory an argument and a result.

observe(weights, memory, obs, reward, t) -> memory
act(weights, memory, key) -> plan, memory

Weights and memory are dicts of arrays. Every argument but the weights has an axis of environments first, whose length
the programs leave open. Observations, rewards and plans are in the environment's units. ``t`` counts the steps since
the reset; ``key`` holds the two uint32 of a threefry key. A plan [H, A], or [H] choices, is played before the next
is asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.acting import first_goal
from rlkit.export import episode
from rlkit.export.part import Part, Subject
from rlkit.types import Array, InputError, Percept

PLATFORMS = ("cpu", "cuda", "tpu")
OBSERVE, ACT = "observe.stablehlo", "act.stablehlo"
READER = "policy_jax.py"


def _require_flatbuffers() -> None:
    """Raises InputError where the package is missing that jax.export writes with."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError("--format stablehlo: jax.export needs flatbuffers: pip install 'rlkit-jax[export]'")


def part_of(subject: Subject) -> Part:
    """The part of a policy, greedy and asked for the first of its agent's goals, with an episode as the
    run's own code plays it. Raises InputError where flatbuffers is missing."""
    _require_flatbuffers()
    policy = subject.policy
    agent, normaliser = policy.agent, policy.normaliser
    state_names, state_leaves, state_tree = _named(policy.state, "state")
    begun = agent.begin(policy.state, first_goal(agent))
    memory_names, memory_leaves, memory_tree = _named(begun, "memory")
    kinds = [leaf.dtype for leaf in memory_leaves]

    # --- of one environment ---
    def state_of(weights: Mapping[str, Array]) -> Any:
        leaves = [weights.get(name, leaf) for name, leaf in zip(state_names, state_leaves, strict=True)]
        return jax.tree.unflatten(state_tree, leaves)

    def memory_of(memory: Mapping[str, Array]) -> Any:
        leaves = [memory[name].astype(kind) for name, kind in zip(memory_names, kinds, strict=True)]
        return jax.tree.unflatten(memory_tree, leaves)

    def stored(memory: Any) -> dict[str, Array]:
        leaves = jax.tree.leaves(memory)
        return {name: _storable(leaf) for name, leaf in zip(memory_names, leaves, strict=True)}

    def observe(weights: Any, memory: Any, obs: Array, reward: Array, t: Array) -> dict[str, Array]:
        shown = jnp.where(t == 0, 0.0, normaliser.reward(reward))
        percept = Percept(normaliser.obs(obs), shown, t)
        return stored(agent.observe(state_of(weights), memory_of(memory), percept))

    def act(weights: Any, memory: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        typed = jax.random.wrap_key_data(key, impl="threefry2x32")
        plan, after = agent.act(state_of(weights), memory_of(memory), typed, greedy=True)
        return jax.vmap(normaliser.env_action)(plan), stored(after)

    # --- what they are given ---
    weights = {name: jnp.asarray(leaf) for name, leaf in zip(state_names, state_leaves, strict=True)}
    memory = stored(begun)
    width = normaliser.obs_mean.shape
    percept = (_shape(width, np.float32), _shape((), np.float32), _shape((), np.int32))
    key = _shape((2,), np.uint32)
    needed = _needed(observe, weights, memory, *percept) | _needed(act, weights, memory, key)
    weights = {name: leaf for name, leaf in weights.items() if name in needed}
    plan, _ = jax.eval_shape(act, weights, memory, key)
    programs = {
        OBSERVE: _exported(observe, weights, memory, *percept),
        ACT: _exported(act, weights, memory, key),
    }
    tensors = {name: np.asarray(_storable(leaf)) for name, leaf in (weights | memory).items()}
    entry: dict[str, Any] = {
        "programs": list(programs),
        "platforms": PLATFORMS,
        "weights": list(weights),
        "memory": list(memory),
        "actions_per_call": plan.shape[0],
        "reset": "at the start of an episode: memory as stored, t 0, no plan",
    }
    played = episode.play(policy, subject.sample.rows)
    entry["check"] = {"steps": episode.STEPS, "from": subject.sample.source, "tolerance": episode.TOLERANCE}
    source = Path(__file__).with_name("jax_loader.py").read_text()
    reader = source.replace("from rlkit.export import loader", "import policy as loader")
    files = programs | {READER: reader.encode()}
    return Part(files, tensors | played.tensors(), {"stablehlo": entry}, episode.check_alone)


def _named(tree: Any, root: str) -> tuple[list[str], list[Array], Any]:
    """The names of the leaves of a tree, its leaves, and its form."""
    found, form = jax.tree_util.tree_flatten_with_path(tree)
    names = [f"{root}{jax.tree_util.keystr(path)}" for path, _ in found]
    return names, [jnp.asarray(leaf) for _, leaf in found], form


def _storable(leaf: Array) -> Array:
    """An array as float32 or int32, which the file holds."""
    return leaf.astype(jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.int32)


def _shape(shape: tuple[Any, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _needed(function: Callable, weights: Mapping[str, Array], *others: Any) -> set[str]:
    """The weights that ``function`` uses: critics and optimisers stay behind."""
    traced = jax.make_jaxpr(function)(weights, *others).jaxpr
    used = {id(variable) for equation in traced.eqns for variable in equation.invars}
    used |= {id(variable) for variable in traced.outvars}
    names = sorted(weights)  # the order in which jax flattens a dict
    return {name for name, variable in zip(names, traced.invars, strict=False) if id(variable) in used}


def _exported(function: Callable, weights: Mapping[str, Array], *others: Any) -> bytes:
    """The program for any number of environments."""
    from jax import export

    (number,) = export.symbolic_shape("b")
    batched = jax.tree.map(lambda leaf: _shape((number, *leaf.shape), leaf.dtype), others)
    alone = jax.tree.map(lambda leaf: _shape(leaf.shape, leaf.dtype), weights)
    lanes = jax.vmap(function, in_axes=(None, *(0 for _ in others)))
    return export.export(jax.jit(lanes), platforms=PLATFORMS)(dict(alone), *batched).serialize()
