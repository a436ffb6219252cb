"""GEAR: at the bytes of smaller groups its low rank and its outliers say more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxcomp as jc
from jaxcomp.kvcache.gear import principal
from tests.checks import check_cache
from tests.kvcache.inputs import error, like_large_models


def stored(state):
    return jc.tree.nbytes((state.keys, state.values))


def test_the_law():
    cache = jc.kvcache.gear(24, bits=4, group=8, rank=1, outliers=0.1, window=4)
    state = check_cache(cache, tolerance=0.15)
    # 3 chunks of 8 tokens of 16: codes, scale and zero; factors; two of 8 or of 16 apart.
    keys = 8 * 16 // 2 + 16 * 4 + 2 * (8 + 16) + 16 * (2 * 3)
    values = 8 * 16 // 2 + 8 * 4 + 2 * (8 + 16) + 8 * (2 * 3)
    assert stored(state) == 2 * 2 * 3 * (keys + values)


def test_it_is_nearer_than_smaller_groups_at_equal_bytes_and_both_parts_help():
    q, k, v = like_large_models(128, heads=1)
    assert 8 < stats.kurtosis(np.asarray(k).ravel(), fisher=False) < 16
    build = jc.kvcache.gear
    caches = build(128), build(128, rank=0), build(128, outliers=0.0)
    (ours, state), (spread, _), (whole, _) = (error(cache, q, k, v) for cache in caches)
    groups, other = error(jc.kvcache.kivi(128, group=16, window=0), q, k, v)
    assert stored(state) <= stored(other)
    assert ours < 0.6 * groups and ours < 0.6 * min(spread, whole)


def test_without_both_it_is_its_quantiser():
    q, k, v = like_large_models(32, heads=1, size=16)
    plain, state = error(jc.kvcache.gear(32, group=16, rank=0, outliers=0.0), q, k, v)
    same, other = error(jc.kvcache.kivi(32, group=16, window=0), q, k, v)
    assert plain == same and stored(state) == stored(other)


def test_factors_are_those_of_the_singular_values():
    x = jax.random.normal(jax.random.key(0), (3, 20, 8)) * jnp.geomspace(1, 0.01, 8)
    one, other = jax.jit(principal, static_argnums=1)(x, 2)
    _, values, _ = np.linalg.svd(x)
    left = np.square(x - one @ other).sum((1, 2))
    np.testing.assert_allclose(left, np.square(values[:, 2:]).sum(1), rtol=1e-2)
    nothing = principal(jnp.zeros((4, 6)), 2)
    assert not jnp.any(nothing[0] @ nothing[1])


def test_what_makes_no_chunks_is_refused():
    with pytest.raises(jc.UnsupportedInput, match="an even group up to 256"):
        jc.kvcache.gear(64, group=512)
    with pytest.raises(jc.UnsupportedInput, match="a rank of 0 to 128"):
        jc.kvcache.gear(64, outliers=0.2)
    with pytest.raises(jc.UnsupportedInput, match="vectors of at most 256"):
        jc.kvcache.gear(64).init(1, 1, 512)
