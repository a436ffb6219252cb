"""Rotated tokens: exact rotations, the textbook's levels, and no harm from outlier channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.rotated import (
    _decode_signed,
    _encode,
    _encode_signed,
    normal,
    rotate,
)
from tests.checks import check_cache
from tests.kvcache.inputs import error, qkv, with_outliers


def test_the_law():
    state = check_cache(jc.kvcache.rotated(24), tolerance=0.2)
    assert jc.tree.nbytes(state.keys) == 2 * 24 * 2 * (16 // 2 + 2)  # codes and a norm


def test_levels_are_lloyds_and_maxs():
    # Max, Quantizing for minimum distortion, 1960, table 1: of 2, 4 and 8 levels.
    assert normal(1).table == pytest.approx([-0.7979, 0.7979], abs=1e-4)
    assert normal(2).table[2:] == pytest.approx([0.4528, 1.510], abs=1e-3)
    assert normal(3).table[4:] == pytest.approx([0.2451, 0.7560, 1.344, 2.152], abs=1e-3)


@pytest.mark.parametrize("size", [64, 80, 7])
def test_rotations_keep_products_and_undo_themselves(size):
    x, y = jax.random.normal(jax.random.key(0), (2, 5, size))
    np.testing.assert_allclose(rotate(x) @ rotate(y).T, x @ y.T, atol=1e-4)
    np.testing.assert_allclose(rotate(rotate(x), inverse=True), x, atol=1e-5)


def test_the_error_is_that_of_the_levels_whatever_the_channels():
    key = jax.random.key(1)
    x = jax.random.normal(key, (1, 400, 1, 128)) * jnp.geomspace(0.01, 10, 128)
    for bits, expected in ((2, 0.1175), (3, 0.03454), (4, 0.009497)):  # Max 1960, table 1
        cache = jc.kvcache.rotated(400, bits=bits)
        state = cache.append(cache.init(1, 1, 128), x, x)
        back = rotate(state.keys.dense()[0, 0, :, 0], inverse=True)
        off = float(jnp.square(back - x[0, :, 0]).sum() / jnp.square(x).sum())
        # A norm that is known makes tails a little lighter than the normal distribution's.
        assert 0.88 * expected < off < 1.03 * expected


def test_outlier_channels_cost_nothing_where_groups_along_the_head_lose():
    q, k, v = qkv(96, size=64)
    k = with_outliers(k)
    ours, state = error(jc.kvcache.rotated(96), q, k, v)
    tokens, other = error(jc.kvcache.quantized(jc.formats.UINT4, 96), q, k, v)
    assert ours < 0.8 * tokens and jc.kvcache.nbytes(state) < jc.kvcache.nbytes(other)


def test_a_residual_keeps_the_mean_of_products():
    """Two bits of levels, against one and one of what that leaves: nearer, but shorter."""

    @jax.jit
    def mean_and_error(x):
        signed = _decode_signed(_encode_signed(normal(1), x))
        found = _encode(normal(1), x).dense(), _encode(normal(2), x).dense(), signed
        return [((y * x).sum() / (x * x).sum(), jnp.square(y - x).mean()) for y in found]

    for size in (128, 15):  # which has no Hadamard matrix
        one, two, ours = mean_and_error(jax.random.normal(jax.random.key(1), (3000, size)))
        assert one[0] < 0.68 and two[0] < 0.91 and abs(ours[0] - 1) < 0.01
        assert two[1] < ours[1] < one[1]


def test_keys_with_a_residual_are_read_as_they_are_kept():
    q, k, v = qkv(24, size=16)
    off, state = error(jc.kvcache.rotated(24, bits=4, values=8, residual=True), q, k, v)
    assert off < 0.3
    # Codes of 3 bits, signs, the norm and the step.
    assert jc.tree.nbytes(state.keys) == 2 * 24 * 2 * (6 + 2 + 2 + 2)
    with pytest.raises(jc.UnsupportedInput, match="one more where it is for a residual"):
        jc.kvcache.rotated(8, bits=1, residual=True)


def test_what_evicts_keeps_the_same_tokens_when_they_are_turned():
    K = jc.kvcache
    q, k, v = qkv(48, size=64)

    def kept(encode=None):
        return K.evict(K.h2o(), 16, sinks=1, recent=4, encode=encode)

    @jax.jit
    def run(q, k, v):
        def one(cache):
            state = cache.append(cache.init(2, 2, 64), k, v, queries=q)
            return cache.attend(state, q[:, -1:])[0], state

        return one(kept()), one(K.turned(kept))

    (exact, plain), (ours, state) = run(q, with_outliers(k), v)
    np.testing.assert_array_equal(*(np.sort(x.positions, -1) for x in (plain, state)))
    assert 0 < jnp.square(ours - exact).mean() < 0.1 * jnp.square(exact).mean()
    assert jc.tree.nbytes(state.keys) == 2 * 2 * 16 * (64 // 2 + 2)  # codes and a norm
    with pytest.raises(jc.UnsupportedInput, match="expected bits of"):
        K.turned(kept, bits=5)


def test_positions_must_be_in_keys_already():
    cache = jc.kvcache.rotated(8)
    with pytest.raises(jc.UnsupportedInput, match="apply it before append"):
        jc.kvcache.attention(cache, cache.init(2, 2, 32), *qkv(4), rope=lambda k, at: k)
    with pytest.raises(jc.UnsupportedInput, match="expected bits of"):
        jc.kvcache.rotated(8, bits=5)
