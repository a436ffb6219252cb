"""ZipCache: scales in few bytes, and the bits where attention will be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.zipcache import compress, decompress
from tests.checks import check_cache
from tests.kvcache.inputs import qkv, with_outliers

pytestmark = pytest.mark.usefixtures("quick_file")

F = jc.formats
TWO, FOUR = F.UINT2._replace(zero="bfloat16"), F.UINT4._replace(zero="bfloat16")


def test_the_law():
    cache = jc.kvcache.zipcache(24, bits=(8, 4), group=8, window=4)
    state = check_cache(cache, tolerance=0.15, alone=False)
    # 3 chunks of 3 tokens of 16 at 8 bits and 5 at 4, their scales and zeros, and a bit for each.
    values = 3 * 16 + 5 * 8 + 8 * 2 * 2 + 16 * 2 + 1  # and channels
    keys = 16 * (3 + 3) + 2 * 16 * 2 * 2 + 1  # 5 of 4 bits take 3 bytes
    assert jc.tree.nbytes(state.values) == 2 * 2 * 3 * values
    assert jc.tree.nbytes(state.keys) == 2 * 2 * 3 * keys


@functools.partial(jax.jit, static_argnums=(2, 3))
def packed(x, saliency, count, axis):
    parts = compress(x, saliency, kinds=[FOUR, TWO], count=count, axis=axis)
    return decompress(parts), jc.tree.nbytes(parts)


@pytest.mark.parametrize("axis", [-1, -2])
def test_tokens_come_back_in_their_order_and_salient_ones_nearer(axis):
    x = jax.random.normal(jax.random.key(0), (2, 3, 16, 32))
    saliency = jax.random.uniform(jax.random.key(1), (2, 3, 16))
    off = np.square(packed(x, saliency, 5, axis)[0] - x).mean(-1)
    most = np.argsort(-saliency, -1)
    found = np.take_along_axis(off, most, -1)
    assert found[..., :5].max() < 0.5 * found[..., 5:].min()


def test_scales_of_channels_and_tokens_are_nearer_than_groups_in_fewer_bytes():
    _, _, v = qkv(128, batch=1, heads=1, size=128)
    v = with_outliers(v).swapaxes(1, 2)
    ours, nbytes = packed(v, jnp.arange(128.0)[None, None], 64, -1)

    def by(group):
        halves = (v[..., :64, :], TWO), (v[..., 64:, :], FOUR)
        leaves = [F.quantize(x, kind._replace(group=group), axes=-1) for x, kind in halves]
        return jnp.concatenate([leaf.dense() for leaf in leaves], -2), jc.tree.nbytes(leaves)

    (tokens, _), (groups, grouped) = by(-1), by(32)
    errors = [float(jnp.square(x - v).mean()) for x in (ours, tokens, groups)]
    codes = 128 * 128 * 3 // 8
    assert nbytes - codes < 0.4 * (grouped - codes)
    assert errors[0] < 0.25 * errors[1] and errors[0] < 0.6 * errors[2]


def test_normalised_attention_finds_what_later_queries_read():
    """All queries look for what 16 tokens in the second half of a chunk of 64 hold: the first
    tokens, which all queries saw, have the larger sums."""
    q, k, v = (0.5 * x for x in qkv(80, batch=1, heads=1, shared=1, size=32))
    hot = jnp.arange(33, 64, 2)
    q, k = q.at[..., 0].set(6.0), k.at[:, hot, :, 0].add(4.0)
    v = 2 * v
    exact = jax.nn.dot_product_attention(q, k, v, is_causal=True)

    caches = [
        jc.kvcache.zipcache(80, salient=0.25, group=64, window=16, score=score)
        for score in (jc.kvcache.normalised_attention(), jc.kvcache.h2o())
    ]
    states = [cache.append(cache.init(1, 1, 32), k, v, queries=q) for cache in caches]
    # They differ in which tokens have the more bits, and in no byte.
    outs = [caches[0].attend(state, q)[0] for state in states]
    errors = [float(jnp.square(x - exact)[:, 64:].mean()) for x in outs]
    assert errors[0] < 0.5 * errors[1]
    found = np.unpackbits(np.asarray(states[0].keys.salient).ravel())
    assert found.sum() == 16


def test_what_makes_no_chunks_is_refused():
    with pytest.raises(jc.UnsupportedInput, match="two of 1, 2, 3, 4, 8 bits"):
        jc.kvcache.zipcache(64, bits=(4, 5))
    with pytest.raises(jc.UnsupportedInput, match="salient tokens beside others"):
        jc.kvcache.zipcache(64, group=12)
    cache = jc.kvcache.zipcache(64)
    _, k, v = qkv(3)
    with pytest.raises(jc.UnsupportedInput, match="expected queries"):
        cache.append(cache.init(2, 2, 32), k, v)
