"""Escape codes: every int32 has one, and the nearest values have the smallest."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.coding import build_tables
from jaxcomp.coding.escape import escape_code, escape_distance, intervals

TABLES = build_tables(np.array([[1.0, 2.0, 3.0, 1.0]]), offset=10, escape=True)
EDGES = np.array([-(2**31), -1, 9, 13, 14, 2**31 - 1], np.int32)


def test_every_value_comes_back():
    code = escape_code(TABLES, jnp.asarray(EDGES), None)
    np.testing.assert_array_equal(escape_distance(TABLES, code) + 10, EDGES)


def test_the_nearest_values_have_the_smallest_codes():
    code = escape_code(TABLES, jnp.array([13, 9, 14, 8, 15], jnp.int32), None)
    assert code.tolist() == [0, 1, 2, 3, 4]


def test_only_what_lies_outside_escapes():
    entry, outside, bad = intervals(TABLES, jnp.arange(9, 15), None)
    assert outside.tolist() == [True, False, False, False, True, True] and not bad.any()
    inside = TABLES.entries[0]
    assert entry.tolist() == inside[jnp.array([3, 0, 1, 2, 3, 3])].tolist()
