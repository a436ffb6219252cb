"""The maps are those of the formula, and codes are those of the nearest level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.kernels.dynamic_map import (
    LINEAR4,
    SIGNED,
    SIGNED4,
    UNSIGNED,
    decode,
    encode,
    levels,
    look_up,
)

ALL = pytest.mark.parametrize("map", [SIGNED, UNSIGNED, SIGNED4, LINEAR4])


def formula(map):
    """The levels as the paper makes them, in float64."""
    if not map.decades:
        return np.arange(1, 17) / 16
    positive = [0.0, 1.0]
    for i in range(map.decades):
        edges = np.linspace(0.1, 1, 2 ** (i if map.signed else i + 1) + 1)
        positive += list(10.0 ** (i - map.decades + 1) * (edges[1:] + edges[:-1]) / 2)
    return np.sort(positive + [-x for x in positive if 0 < x < 1 and map.signed])


@ALL
def test_levels_are_the_formula_in_order_and_codes_come_back(map):
    found = levels(map)
    assert len(found) == 1 << map.bits and found.dtype == np.float32
    np.testing.assert_allclose(found, formula(map), rtol=2e-7)
    assert (0 in found) == bool(map.decades) and found[-1] == 1
    codes = jnp.arange(1 << map.bits, dtype=jnp.uint8)
    there = jax.jit(lambda codes: decode(codes, map))(codes)
    np.testing.assert_array_equal(there, found)  # to the last bit: no device rounds its own way
    np.testing.assert_array_equal(jax.jit(lambda codes: look_up(codes, map))(codes), found)
    np.testing.assert_array_equal(jax.jit(lambda x: encode(x, map))(there), codes)


@ALL
def test_codes_are_of_the_nearest_level(map):
    random = np.random.default_rng(0)
    x = np.exp(random.uniform(np.log(1e-8), 0, 20_000)).astype(np.float32)
    line = (np.arange(-60, 60) * 2.0**-23 + 1) * (levels(map)[levels(map) > 0][0] * 9.375 / 55)
    x = np.append(x, line)  # where nothing begins, but a line passes an integer
    x = np.append(x, [1, 1 + 2**-23])  # a largest magnitude times its inverse, rounded up
    x = np.concatenate([x, -x] if map.signed else [x]).astype(np.float32)
    found = np.asarray(levels(map), np.float64)
    between = (found[1:] + found[:-1]) / 2
    between[0] = between[0] if map in (SIGNED, SIGNED4, LINEAR4) else 0  # above zero is not zero
    expected = np.searchsorted(between, x)
    codes = np.asarray(jax.jit(lambda x: encode(x, map))(x))
    clear = abs(x - between[np.clip(expected - 1, 0, None)]) > 1e-6 * abs(x)  # no tie by rounding
    clear &= abs(x - between[np.clip(expected, None, len(between) - 1)]) > 1e-6 * abs(x)
    np.testing.assert_array_equal(codes[clear], expected[clear])
    assert clear.mean() > 0.99


def test_zero_alone_is_zero_without_a_sign():
    x = jnp.array([0, 1e-30, 1e-8])
    assert encode(x, UNSIGNED).tolist() == [0, 1, 1]
    assert encode(x, SIGNED).tolist() == [127, 127, 127]
