"""Slabs are the step on blocks, and no moment of a whole leaf is in memory as float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.kernels import adam8bit_cpu
from jaxcomp.kernels.adam8bit_cpu import cpu
from jaxcomp.kernels.adam8bit_lax import reference
from tests.kernels.moment_cases import FOUR, LION, MIXED, MOMENTUM, STATIC, case


@pytest.mark.parametrize(
    "static",
    [STATIC, FOUR, MIXED, LION, MOMENTUM],
    ids=["8", "4", "8 and 4", "one, of bfloat16", "momentum"],
)
def test_slabs_are_the_reference(static, monkeypatch):
    """The last of them computes rows twice, of which one keeps its codes."""
    monkeypatch.setattr(adam8bit_cpu, "SLAB", 1024)
    g, *rest = case(static, rows=11)
    g = g.at[1, 3].set(jnp.nan).at[2, 30].set(-jnp.inf).at[4].set(0).at[9:, 0].set(jnp.inf)
    arrays = [g.astype(jnp.bfloat16) if static is LION else g, *rest]
    got = jax.jit(functools.partial(cpu, **static))(*arrays)
    expected = jax.jit(functools.partial(reference, **static))(*arrays)
    for x, y in zip(got, expected, strict=True):  # sums of products are rounded once or twice
        if x.dtype == jnp.uint8:
            assert (np.asarray(x) != np.asarray(y)).mean() < 1e-3
        else:
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert all(x.shape == y.shape for x, y in zip(got[1:], arrays[2:], strict=True))


@pytest.mark.parametrize(
    ("static", "dtype"),
    [(STATIC, jnp.float32), (FOUR, jnp.float32), (STATIC, jnp.bfloat16)],
    ids=["8", "4", "8, of bfloat16"],
)
def test_nothing_of_the_whole_leaf_is_in_memory_as_float32(static, dtype, monkeypatch):
    """Nor is the update, where its parameter takes it: old codes are, and bits of bfloat16."""
    monkeypatch.setattr(adam8bit_cpu, "SLAB", 1024)
    g, *rest = case(static, rows=64, blocks=4)

    def step(parameter, *arrays):
        update, *new = cpu(*arrays, **static)
        return parameter - 0.1 * update, *new

    program = jax.jit(step).lower(g, g.astype(dtype), *rest).compile()
    nbytes = g.size * (2 if dtype == jnp.float32 else 4)  # in float32: another 4 for each
    assert program.memory_analysis().temp_size_in_bytes < 1.1 * nbytes
