"""Walks over whole arrays are the step on blocks, and write down no moments in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.kernels import adam8bit_cpu
from jaxcomp.kernels.adam8bit_cpu import cpu
from jaxcomp.kernels.adam8bit_lax import reference
from tests.kernels.moment_cases import FOUR, LION, MIXED, STATIC, case


@pytest.mark.parametrize("static", [STATIC, FOUR, MIXED, LION], ids=["8", "4", "8 and 4", "one"])
def test_walks_over_whole_arrays_are_the_reference(static, monkeypatch):
    monkeypatch.setattr(adam8bit_cpu, "SLAB", 1024)
    g, *rest = case(static, rows=11)
    arrays = [g.at[1, 3].set(jnp.nan).at[2, 30].set(-jnp.inf).at[4].set(0), *rest]
    got = jax.jit(functools.partial(cpu, **static))(*arrays)
    expected = jax.jit(functools.partial(reference, **static))(*arrays)
    for x, y in zip(got, expected, strict=True):  # sums of products are rounded once or twice
        if x.dtype == jnp.uint8:
            assert (np.asarray(x) != np.asarray(y)).mean() < 1e-3
        else:
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert all(x.shape == y.shape for x, y in zip(got[1:], arrays[2:], strict=True))


@pytest.mark.parametrize("static", [STATIC, FOUR], ids=["8", "4"])
def test_no_moment_in_float32_reaches_memory(static, monkeypatch):
    """Nor does the update, where its parameter takes it: codes do, and what is kept."""
    monkeypatch.setattr(adam8bit_cpu, "SLAB", 1024)
    arrays = case(static, rows=64, blocks=4)

    def step(parameter, *arrays):
        update, *new = cpu(*arrays, **static)
        return parameter - 0.1 * update, *new

    program = jax.jit(step).lower(arrays[0], *arrays).compile()
    codes = 2 * arrays[0].size  # bytes: a moment in float32 would be twice as many
    assert program.memory_analysis().temp_size_in_bytes < 1.1 * codes
