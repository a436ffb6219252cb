"""Arrays that jit has sharded are stepped where they are, without a collective."""

import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcomp.kernels import adam8bit
from jaxcomp.kernels.adam8bit_lax import moments_of
from tests.kernels.moment_cases import FOUR, LION, case

COLLECTIVES = re.compile(r" (all-reduce|all-gather|all-to-all|collective-permute)[a-z\-]*\(")


def step(static, g, numbers, *arrays):
    maps, block = static["maps"], static["block"]
    return adam8bit.run(static["rule"], g, moments_of(arrays), numbers, maps=maps, block=block)


@pytest.mark.parametrize(
    "static, spec, kept",
    [
        (LION, P("a", "b"), P("a", "b")),
        (FOUR, P(None, ("a", "b")), P(None, ("a", "b"))),
        (LION, P("b"), P("b", None)),
    ],
    ids=["rows and blocks", "blocks over two axes", "rows"],
)
def test_shards_are_stepped_alone(static, spec, kept):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    arrays = case(static, rows=8, blocks=8)
    lies = lambda spec: NamedSharding(mesh, spec)  # noqa: E731
    placed = [jax.device_put(x, lies(P() if x.ndim == 1 else spec)) for x in arrays]
    compiled = jax.jit(functools.partial(step, static)).lower(*placed).compile()
    assert not COLLECTIVES.search(compiled.as_text())
    got = jax.tree.leaves(compiled(*placed))
    expected = jax.tree.leaves(jax.jit(functools.partial(step, static))(*arrays))
    for x, y in zip(got, expected, strict=True):
        assert x.sharding.is_equivalent_to(lies(kept), 2)
        np.testing.assert_allclose(np.float32(x), np.float32(y), rtol=1e-6)


def test_a_shard_that_would_cut_a_block_is_whole():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    arrays = case(LION, rows=2, blocks=4)
    placed = [jax.device_put(arrays[0], NamedSharding(mesh, P(None, "a"))), *arrays[1:]]
    got = jax.tree.leaves(jax.jit(functools.partial(step, LION))(*placed))
    expected = jax.tree.leaves(jax.jit(functools.partial(step, LION))(*arrays))
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.float32(x), np.float32(y), rtol=1e-6)
