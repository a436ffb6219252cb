"""Bytes that are held, and sequences that fork."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from tests.kvcache.inputs import qkv

K = jc.kvcache


def test_a_shared_prefix_is_appended_once():
    q, k, v = qkv(12)
    cache = K.kivi(32, bits=4, group=4, window=4)
    attention = jax.jit(functools.partial(K.attention, cache))
    _, state = attention(cache.init(2, 2, 32), *(x[:, :10] for x in (q, k, v)))
    beams = K.take(state, jnp.array([0, 0, 1]))
    assert K.nbytes(beams) * 2 == K.nbytes(state) * 3
    rows = np.array([0, 0, 1])
    new = [x[rows, 10:11] for x in (q, k, v)]
    new[1] = new[1].at[1].multiply(2)  # the beams part
    out, beams = attention(beams, *new)
    alone, _ = attention(state, *(x[:, 10:11] for x in (q, k, v)))
    np.testing.assert_allclose(out[0], alone[0], atol=1e-5)
    np.testing.assert_allclose(out[2], alone[1], atol=1e-5)
    assert float(jnp.abs(out[1] - out[0]).max()) > 1e-3
