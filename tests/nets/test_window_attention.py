"""Window attention: nothing leaves its window, and one window is ordinary attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.nets.window_attention import (
    WindowAttention,
    from_windows,
    relative_offsets,
    to_windows,
)
from tests.nets.cases import check_one_trace, random_variables

X = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype(np.float32)


def _changed(net, x, row, column):
    variables = random_variables(net, x)
    apply, moved = jax.jit(net.apply), x.copy()
    moved[:, row, column] += 1.0
    return np.abs(np.asarray(apply(variables, moved)) - apply(variables, x)).max((0, 3)) > 1e-6


def test_a_pixel_reaches_its_own_window_and_no_other():
    seen = _changed(WindowAttention(2, window=4), X, 1, 5)
    wanted = np.zeros((8, 8), bool)
    wanted[:4, 4:] = True
    np.testing.assert_array_equal(seen, wanted)


def test_shifted_windows_connect_neighbours_and_do_not_wrap():
    seen = _changed(WindowAttention(2, window=4, shift=2), X, 3, 3)
    wanted = np.zeros((8, 8), bool)
    wanted[2:6, 2:6] = True
    np.testing.assert_array_equal(seen, wanted)
    corner = _changed(WindowAttention(2, window=4, shift=2), X, 0, 0)
    assert corner[:2, :2].all() and corner.sum() == 4


def test_one_window_is_plain_attention():
    """The identity limit, against flax's own attention."""
    net = WindowAttention(3, window=8)
    variables = random_variables(net, X)
    params = variables["params"]
    params["bias"] = jnp.zeros_like(params["bias"])

    @jax.jit
    def plain(params, tokens):
        joint = tokens @ params["query_key_value"]["kernel"] + params["query_key_value"]["bias"]
        q, k, v = (part.reshape(2, 64, 3, 2) for part in jnp.split(joint, 3, axis=-1))
        y = nn.dot_product_attention(q, k, v).reshape(2, 64, 6)
        return y @ params["out"]["kernel"] + params["out"]["bias"]

    y = plain(params, X.reshape(2, 64, 6)).reshape(X.shape)
    np.testing.assert_allclose(jax.jit(net.apply)(variables, X), y, atol=1e-5)


def test_the_bias_depends_on_the_offset_alone():
    offsets = relative_offsets(3)
    pairs = {}
    for i in range(9):
        for j in range(9):
            pairs.setdefault((i // 3 - j // 3, i % 3 - j % 3), set()).add(int(offsets[i, j]))
    assert len(pairs) == 25 and all(len(rows) == 1 for rows in pairs.values())
    assert len(set.union(*pairs.values())) == 25


@pytest.mark.parametrize("size, shift", [((5, 7), 0), ((5, 7), 3), ((1, 9), 2), ((4, 8), 1)])
def test_any_size(size, shift):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 6)), jnp.float32)
    tiles, inside = to_windows(x, 4, shift)
    assert inside.sum() == size[0] * size[1] and tiles.shape[1:3] == inside.shape
    np.testing.assert_array_equal(from_windows(tiles, 4, shift, size), x)
    net = WindowAttention(2, window=4, shift=shift)
    variables = random_variables(net, x)
    y = jax.jit(net.apply)(variables, x)
    assert y.shape == x.shape and np.isfinite(y).all()


def test_filling_is_masked():
    """A uniform image attends to itself: were the filling seen, edges would differ."""
    net = WindowAttention(2, window=4)
    x = np.ones((1, 5, 6, 6), np.float32)
    y = jax.jit(net.apply)(random_variables(net, x), x)
    np.testing.assert_allclose(y, np.broadcast_to(y[:, :1, :1], y.shape), atol=1e-6)


def test_one_trace():
    check_one_trace(WindowAttention(2, window=4), X)


def test_refusals():
    for net in (WindowAttention(4), WindowAttention(2, window=4, shift=4)):
        with pytest.raises(JaxcompError, match="must divide"):
            net.init(jax.random.key(0), X)
