"""The step on blocks against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.kernels import adam8bit_lax as kernel
from jaxcomp.kernels.dynamic_map import SIGNED, UNSIGNED, levels
from tests.kernels.moment_cases import STATIC, case

STEP = jax.jit(functools.partial(kernel.reference, **STATIC))


def test_a_step_is_adam_of_the_levels():
    g, numbers, *arrays = case(STATIC, rows=5)
    update, *new = STEP(g, numbers, *arrays)
    b1, c1, b2, c2, of_m, of_g, of_v, eps_root, eps = np.asarray(numbers, np.float64)
    m, v = (
        np.float64(levels(map)[codes]) * np.repeat(scales, 256, -1)
        for map, codes, scales in zip((SIGNED, UNSIGNED), arrays[::2], arrays[1::2], strict=True)
    )
    g = np.asarray(g, np.float64)
    m, v = b1 * m + c1 * g, b2 * v + c2 * g * g
    expected = (of_m * m + of_g * g) / (np.sqrt(of_v * v + eps_root) + eps)
    np.testing.assert_allclose(update, expected, rtol=2e-5)
    halves = new[::2], new[1::2]
    for moment, map, codes, scales in zip((m, v), (SIGNED, UNSIGNED), *halves, strict=True):
        most = abs(moment).reshape(5, 2, 256).max(-1)
        np.testing.assert_allclose(scales, most, rtol=1e-6)
        found = levels(map)[codes] * np.repeat(most, 256, -1)
        # Half of an interval: 0.9 / 64 of the largest near it, 0.9 / 2 of a decade of one level.
        assert (abs(found - moment) <= 0.45 * abs(moment) + 3e-7 * np.repeat(most, 256, -1)).all()
        assert abs(found - moment).max() <= 0.0071 * most.max()


def test_a_block_that_is_not_finite_keeps_its_codes_and_shows_it():
    g, numbers, *arrays = case(STATIC, rows=5)  # one shape for all tests: one program
    g = g.at[1, 3].set(jnp.nan).at[2, 300].set(jnp.inf).at[3, 5].set(1e25)  # its square is too big
    update, *new = STEP(g, numbers, *arrays)
    bad = np.zeros(g.shape, bool)
    bad[1, 3] = bad[2, 300] = bad[3, 5] = True
    np.testing.assert_array_equal(np.isnan(update), bad)
    for i, block in ((1, 0), (2, 1), (3, 0)):
        for x, y in zip(new, arrays, strict=True):
            size = x.shape[1] // 2
            there = (i, slice(block * size, (block + 1) * size))
            np.testing.assert_array_equal(x[there], y[there])
    assert all(np.isfinite(x).all() for x in new)
    assert (np.asarray(new[0][1, 256:]) != arrays[0][1, 256:]).any()  # the other block went on


def test_zeros_stay_and_what_is_too_small_becomes_them():
    _, numbers, *arrays = case(STATIC, rows=5)
    numbers = numbers.at[4].set(1.0)
    zeros = [jnp.full_like(arrays[0], 127), arrays[1], jnp.zeros_like(arrays[2]), arrays[3]]
    update, *new = STEP(jnp.zeros((5, 512)), numbers, *zeros)
    assert (update == 0).all() and (new[1] == 0).all() and (new[0] == 127).all()
    update, *new = STEP(jnp.full((5, 512), 1e-37), numbers, *zeros)
    assert (new[1] == 0).all() and (new[3] == 0).all() and np.isfinite(update).all()
