"""The conformance suite over the registry: every agent and the VARIANTS of its file, with both kinds of actions."""

import importlib

import jax
import pytest

import agents
from rlkit.testing import Conformance, build
from rlkit.types import InputError

# One agent of each kind of program is trained on many devices: a regression, choices, an ensemble, two stages, three
# stages with relabelling in between, a transformer over windows, a denoiser. The loop divides any agent's batch alike.
ON_MANY_DEVICES = {"bc", "discrete-cql", "edac", "sac-rnd", "semi-pessimistic", "dt", "diffusion-policy"}

# agents whose networks take longest to compile
LARGE = {"odt", "pdt", "doc", "diffusion-policy", "idql", "dql", "decision-diffuser"}


def cases():
    """Variants, choices and large agents are slow, as is what rlkit.testing.SLOW lists."""
    for name, entry in agents.REGISTRY.items():
        for changes in ({}, *getattr(importlib.import_module(entry.module), "VARIANTS", ())):
            for kind in ("continuous", "discrete"):
                marks = pytest.mark.slow if changes or kind == "discrete" or name in LARGE else ()
                group = "-".join((name, *changes, kind))
                yield pytest.param((group, name, kind, changes), id=group, marks=marks)


class TestRegistry(Conformance):
    @pytest.fixture(scope="class", params=cases())
    def case(self, request):
        _, name, kind, changes = request.param
        try:
            return build(importlib.import_module(agents.REGISTRY[name].module), kind, **changes)
        except InputError as refusal:
            assert len(str(refusal).splitlines()) == 1 and name in str(refusal)
            pytest.skip(f"refuses {kind} actions, in one line")

    def test_many_devices_equal_one(self, request, case, straight):
        """Of one agent of each kind of program, and not of its variants."""
        _, name, _, changes = request.node.callspec.params["case"]
        if name not in ON_MANY_DEVICES:
            pytest.skip("its batch is divided among devices as that of another agent is")
        if changes:
            pytest.skip("a variant shares its batch among devices as its agent does")
        super().test_many_devices_equal_one(case, straight)


def test_there_are_many_devices():
    assert len(jax.devices()) == 8
