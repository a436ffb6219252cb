"""Elements move as numbers do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.lift.symmetry_book import Value
from jaxcomp.lift.symmetry_moves import MOVES, joined, pairs
from jaxcomp.lift.walk import bind

NUMBERS = np.arange(1, 25, dtype=np.int32).reshape(4, 6)
MOVED = {
    "reshape": lambda x: x.reshape(2, 2, 6),
    "transpose": lambda x: x.T,
    "slice": lambda x: x[1:4:2, ::3],
    "broadcast_in_dim": lambda x: jnp.broadcast_to(x[:, None], (4, 3, 6)),
    "rev": lambda x: x[::-1],
    "concatenate": lambda x: jnp.concatenate([x, x], 1),
    "stack": lambda x: jnp.stack([x, x], 1),
    "split": lambda x: jnp.split(x, [1, 3], 1),
    "pad": lambda x: jax.lax.pad(x, 0, ((1, 2, 0), (-1, 0, 1))),
    "gather": lambda x: x[jnp.asarray([3, 0]), jnp.asarray([1, 5])],
    "dynamic_slice": lambda x: jax.lax.dynamic_slice(x, (jnp.int32(9), jnp.int32(2)), (2, 3)),
}


@pytest.mark.parametrize("name", MOVED)
def test_as_numbers_do(name):
    fn = MOVED[name]
    traced = jax.make_jaxpr(fn)(NUMBERS)
    known = {traced.jaxpr.invars[0]: Value(NUMBERS, NUMBERS.astype(np.uint64))}
    known |= {v: _constant(c) for v, c in zip(traced.jaxpr.constvars, traced.consts, strict=True)}
    seen = set()

    def read(v):
        return _constant(v.val) if hasattr(v, "val") else known[v]

    for equation in traced.jaxpr.eqns:
        values = [read(v) for v in equation.invars]
        primitive = equation.primitive.name
        if all(v.known is not None for v in values):  # indices
            found = [_constant(bind(equation, [v.known for v in values])[0])]
        else:
            seen.add(primitive)
            found = MOVES[primitive](equation, values)
        known.update(zip(equation.outvars, found, strict=True))
    assert name in seen
    for v, expected in zip(traced.jaxpr.outvars, jax.tree.leaves(fn(NUMBERS)), strict=True):
        np.testing.assert_array_equal(known[v].labels, expected)
        np.testing.assert_array_equal(known[v].ids, expected)


def _constant(x):
    x = np.asarray(x)
    return Value(np.zeros(x.shape, np.int32), np.zeros(x.shape, np.uint64), x)


def test_operands_of_a_product_face_each_other():
    x, y = np.arange(24.0).reshape(2, 3, 4), np.arange(40.0).reshape(4, 5, 2)
    numbers = (((2,), (0,)), ((0,), (2,)))
    a, b = pairs(x, y, numbers)
    np.testing.assert_array_equal((a * b).sum(-1), jax.lax.dot_general(x, y, numbers))


def test_values_of_which_different_things_are_known_are_not_joined():
    x = Value(NUMBERS)
    assert joined([x, x._replace(note="gain")], np.stack) is None
    assert joined([x, x._replace(known=NUMBERS)], np.stack).known is None
