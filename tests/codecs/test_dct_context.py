"""Contexts: only what is already decoded is looked at, and sums stay inside int32."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.codecs import dct
from jaxcomp.codecs import dct_context as context


def test_every_feature_is_known_when_it_is_needed():
    assert sorted(context.CODING_ORDER) == list(range(context.PLANES))
    position = np.full(context.PLANES + 1, -1)  # the last row is the absent plane
    position[context.CODING_ORDER] = np.arange(context.PLANES)
    assert (position[context.TERM_PLANES] < position[: context.PLANES, None]).all()


def test_the_logarithm_is_monotone_and_near_its_formula():
    x = np.concatenate([np.arange(5000), 2 ** np.arange(13, 27)])
    ours = np.asarray(context.logarithm(jnp.asarray(x, jnp.int32)))
    assert (np.diff(ours) >= 0).all()
    assert np.abs(ours - 8 * np.log2(1.0 + x)).max() < 1.7


def test_what_is_learned_reaches_the_neighbours():
    maps = context.no_maps(4)
    neighbours = np.full((8, 4), 4, np.int32)
    neighbours[0, 1], neighbours[1, 0] = 0, 1  # two cells side by side
    maps = context.learn(maps, 7, jnp.array([3, 9, 0, 0], jnp.uint8), jnp.asarray(neighbours))
    assert maps[0, 7].tolist() == [3, 9, 0, 0]
    assert maps[1, 7].tolist() == [9, 3, 0, 0]
    assert not maps[2:].any() and not maps[:, :7].any()


def test_the_shipped_network_cannot_overflow():
    network = dct().init().network
    first, second = np.abs(np.asarray(network.first)), np.abs(np.asarray(network.second))
    largest = 8 * 27  # logarithm(x) of the largest sum of magnitudes
    step = 8 * 13
    hidden = largest * first.sum(-1) + step * np.abs(np.asarray(network.step_weight))
    bias = np.abs(np.asarray(network.plane_bias)).max()
    assert hidden.max() + bias < 2**31
    total = (2**15 - 1) * second.sum(-1).astype(np.int64)
    assert total.max() + np.abs(np.asarray(network.second_bias)).max() < 2**31
