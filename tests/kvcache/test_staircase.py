"""Staircase: every chunk at the bits of its age, in whatever pieces tokens came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats.format import Format
from tests.checks import check_cache
from tests.kvcache.inputs import qkv


def test_the_law():
    cache = jc.kvcache.staircase(24, bits=(8, 4), chunks=(2,), group=4, window=2, sinks=2)
    state = check_cache(cache, tolerance=0.15, alone=False)
    # 2 and 3 chunks of 4 tokens of 16, with scale and zero for each channel and token.
    for step, count, bits in zip(state.steps, (2, 3), (8, 4), strict=True):
        codes = 4 * 16 * bits // 8
        assert jc.tree.nbytes(step) == 2 * 2 * count * (2 * codes + 4 * (16 + 4))


def test_chunks_are_rounded_at_every_step_down_behind_the_sinks():
    counts, sinks = (1, 4, 9, 1, 9, 1), 2
    _, k, v = qkv(sum(counts), size=8)
    cache = jc.kvcache.staircase(32, chunks=(1, 2), group=4, sinks=sinks)
    state = cache.init(2, 2, 8)
    for start, count in zip(np.cumsum((0, *counts)), counts, strict=False):
        pieces = (jnp.roll(x, -start, 1)[:, :9] for x in (k, v))
        state = cache.append(state, *pieces, lengths=jnp.full(2, count))
    np.testing.assert_array_equal(state.sink_values, v.swapaxes(1, 2)[:, :, :sinks])
    np.testing.assert_array_equal(state.window_keys[:, :, :3], k.swapaxes(1, 2)[:, :, -3:])
    # 5 chunks are full: the last at 8 bits, two before at 4 after 8, two first at 2 after all.
    formats = [Format(b, scale="bfloat16", zero="bfloat16", name=f"uint{b}") for b in (8, 4, 2)]
    x = k.swapaxes(1, 2)[:, :, sinks : sinks + 20].reshape(2, 2, 5, 4, 8)
    for step, (places, chunks) in enumerate((([0], [4]), ([0, 1], [2, 3]), ([0, 1], [0, 1]))):
        leaf = jc.formats.quantize(x, formats[step], axes=-2)
        x = leaf.dense()
        np.testing.assert_array_equal(
            state.steps[step][0].codes[:, :, jnp.array(places)], leaf.codes[:, :, jnp.array(chunks)]
        )


def test_where_attention_is_recent_it_is_nearer_than_even_bits_in_as_many_bytes():
    count, group = 128, 8
    q, k, v = qkv(count, batch=1, heads=1, shared=1, size=64)

    # The last channels turn with the position, slowly: nearer tokens are more alike.
    angles = 0.02 * jnp.arange(count)[None, :, None, None]
    place = 18.0 * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    q, k = q.at[..., -2:].set(place), k.at[..., -2:].set(place)

    def attend(k, v):
        return jax.nn.dot_product_attention(q[:, -8:], k, v)

    exact = attend(k, v)
    cache = jc.kvcache.staircase(count, chunks=(2, 4), group=group, sinks=0)
    state = cache.append(cache.init(1, 1, 64), k, v)
    out = cache.attend(state, q)[0][:, -8:]
    # KIVI at 4 bits; here chunks lie between the batch and the tokens.
    four = Format(4, scale="bfloat16", zero="bfloat16", name="uint4")
    split = (x.reshape(1, -1, group, 1, 64) for x in (k, v))
    even = [jc.formats.quantize(x, four, axes=a) for x, a in zip(split, (-3, -1), strict=True)]
    other = attend(*(leaf.dense().reshape(k.shape) for leaf in even))
    ours, flat = (float(jnp.square(x - exact)[:, -1].mean()) for x in (out, other))
    assert ours < 0.25 * flat and jc.tree.nbytes(state.steps) <= jc.tree.nbytes(even)


def test_what_makes_no_steps_is_refused():
    with pytest.raises(jc.UnsupportedInput, match="chunks of all steps but the last"):
        jc.kvcache.staircase(64, chunks=(4,))
    with pytest.raises(jc.UnsupportedInput, match="bits of 1, 2, 3, 4, 8 and an even group"):
        jc.kvcache.staircase(64, group=3)
