"""Weights that a function joins: each is watched by itself, and meets what NumPy says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import jaxcomp as jc


def _normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def _both(p, axis=-1):
    return jnp.concatenate([p["a"], p["b"]], axis)


def _stack(p):
    return jnp.stack([p["a"], p["b"]])


def _scan(w, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w)[:, -8:], None), x, w)[0]


def _inputs(w, x):  # of the layers of _scan
    found = []
    for each in w:
        found.append(x)
        x = np.tanh(x @ each)[:, -8:]
    return np.stack(found)


X = _normal(6, 8)
WIDE = {"a": _normal(8, 5), "b": _normal(8, 3)}
LAYERS = {"a": _normal(8, 8), "b": _normal(8, 8, seed=1)}
STACKS = {"a": _normal(2, 8, 8), "b": _normal(3, 8, 8)}
SCANNED = {"a": _normal(3, 8, 8), "b": _normal(3, 8, 8, seed=1)}
H = _inputs([LAYERS["a"], LAYERS["b"]], X)
IN_STACKS = _inputs([*STACKS["a"], *STACKS["b"]], X)
IN_SCANNED = _inputs(np.concatenate([SCANNED["a"], SCANNED["b"]], -1), X)

# name: (fn(p, x), p, the vectors that meet a, those that meet b or None)
CASES = {
    "columns": (lambda p, x: x @ _both(p), WIDE, X, X),
    "rows": (lambda p, x: x @ jnp.concatenate([p["a"].T, p["b"].T]).T, WIDE, X, X),
    "columns, split elsewhere": (
        lambda p, x: [(i * x) @ w for i, w in enumerate(jnp.split(_both(p), [4, 6], 1), 1)],
        WIDE,
        np.concatenate([X, 2 * X]),
        np.concatenate([2 * X, 3 * X]),
    ),
    "in a scan": (
        lambda p, x: lax.scan(lambda x, p: (_scan(_both(p)[None], x), None), x, p)[0],
        SCANNED,
        IN_SCANNED,
        IN_SCANNED,
    ),
    "before a scan": (lambda p, x: _scan(_both(p), x), SCANNED, IN_SCANNED, IN_SCANNED),
    "stacked": (lambda p, x: _scan(_stack(p), x), LAYERS, *H),
    "stacked and indexed": (
        lambda p, x: lax.fori_loop(0, 2, lambda i, x: jnp.tanh(x @ _stack(p)[i]), x),
        LAYERS,
        *H,
    ),
    "stacked, with an input each": (
        lambda p, x: jnp.einsum("bri,bio->bro", jnp.stack([x, 2 * x]), _stack(p)),
        LAYERS,
        X,
        2 * X,
    ),
    "experts": (
        lambda p, x: lax.ragged_dot(x, _stack(p), jnp.asarray([2, 4])),
        LAYERS,
        X[:2],
        X[2:],
    ),
    "stacks": (lambda p, x: _scan(_both(p, 0), x), STACKS, IN_STACKS[:2], IN_STACKS[2:]),
    "stacks, with an input each": (
        lambda p, x: jnp.einsum("bri,bio->bro", x[0, 0] * IN_STACKS, _both(p, 0)),
        STACKS,
        X[0, 0] * IN_STACKS[:2],
        X[0, 0] * IN_STACKS[2:],
    ),
    "one of the stacks": (
        lambda p, x: x @ _both(p, 0)[1],
        STACKS,
        np.stack([0 * X, X]),
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_weight_is_watched_by_itself(name):
    fn, p, *vectors = CASES[name]
    seen = jc.observe(fn, p, [X, X])
    assert set(seen) == {path for path, v in zip("ab", vectors, strict=True) if v is not None}
    for path, one in seen.items():
        v = vectors["ab".index(path)]
        assert (one.packed, one.leading, one.shape) == ((-2,), v.ndim - 2, p[path].shape)
        expected = 2 * v.swapaxes(-1, -2) @ v
        np.testing.assert_allclose(one.state["moment"], expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(one.state["count"], 2 * (v != 0).any(-1).sum(-1))


def test_what_was_watched_is_compressed_and_runs_packed():
    fn, p, *_ = CASES["before a scan"]
    p = jax.tree.map(jnp.asarray, p)
    stats = jc.observe(fn, p, [X])
    small = jc.weights.compress(p, jc.weights.gptq(jc.formats.INT8), stats=stats)
    np.testing.assert_allclose(jc.lift(fn, strict=True)(small, X), fn(p, X), atol=0.05)


def test_fake_quantize_rounds_each_weight():
    fn, p, *_ = CASES["columns"]
    format = jc.formats.INT4
    found = jc.fake_quantize(fn, weights=format)(p, X)
    rounded = {path: jc.formats.quantize(jnp.asarray(w), format).dense() for path, w in p.items()}
    np.testing.assert_allclose(found, fn(rounded, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fn, p",
    [
        (lambda p, x: jnp.concatenate([x, x], -1) @ _both(p, 0), LAYERS),
        (lambda p, x: x @ _both(p)[:, ::2], WIDE),
        (lambda p, x: jnp.einsum("bri,bio->bro", IN_STACKS[1:4], _both(p, 0)[1:4]), STACKS),
        (lambda p, x: lax.scan(lambda x, p: (_scan(_stack(p), x), None), x, p)[0], SCANNED),
        (lambda p, x: _both(p)[jnp.arange(3)], WIDE),
    ],
    ids=["summed over both", "every other", "a part of both", "stacked in a loop", "lookup"],
)
def test_what_belongs_to_no_weight_by_itself_is_recorded_and_not_watched(fn, p):
    with pytest.raises(jc.UnsupportedInput, match="met are a by .*; b by "):
        jc.observe(fn, p, [X])


def test_joined_weights_cut_over_devices_are_refused():
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))
    columns = PartitionSpec(None, "model")

    def fn(p, x):
        each = jax.shard_map(
            lambda w, x: x @ w, mesh=mesh, in_specs=(columns, PartitionSpec()), out_specs=columns
        )
        return each(_both(p), x)

    with pytest.raises(jc.UnsupportedInput, match="observe the function without shard_map"):
        jc.observe(fn, LAYERS, [X])
