"""GEAR: at the bytes of smaller groups its low rank and its outliers say more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxcomp as jc
from jaxcomp.formats.format import Format
from jaxcomp.kvcache.gear import compress, decompress, principal
from tests.checks import check_cache
from tests.drawn import drawn
from tests.kvcache.inputs import like_large_models

TWO = Format(2, scale="bfloat16", zero="bfloat16", name="uint2")


def stored(state):
    return jc.tree.nbytes((state.keys, state.values))


def test_the_law():
    cache = jc.kvcache.gear(24, bits=4, group=8, rank=1, outliers=0.1, window=4)
    state = check_cache(cache, tolerance=0.15, alone=False)
    # 3 chunks of 8 tokens of 16: codes, scale and zero; factors; two of 8 or of 16 apart.
    keys = 8 * 16 // 2 + 16 * 4 + 2 * (8 + 16) + 16 * (2 * 3)
    values = 8 * 16 // 2 + 8 * 4 + 2 * (8 + 16) + 8 * (2 * 3)
    assert stored(state) == 2 * 2 * 3 * (keys + values)


def test_it_is_nearer_than_smaller_groups_at_equal_bytes_and_both_parts_help():
    @jax.jit
    def run(q, k, v):
        def attended(format, rank, outliers):
            both = [(x.swapaxes(1, 2), axis) for x, axis in ((k, -2), (v, -1))]
            parts = [compress(x, format, axis, rank, outliers) for x, axis in both]
            read = (decompress(part, axis) for part, axis in zip(parts, (-2, -1), strict=True))
            read = (x.swapaxes(1, 2) for x in read)
            return jax.nn.dot_product_attention(q, *read, is_causal=True), jc.tree.nbytes(parts)

        cases = [attended(TWO, 4, 0.02), attended(TWO, 0, 0.02), attended(TWO, 4, 0.0)]
        cases.append(attended(TWO._replace(group=16), 0, 0.0))
        exact = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        off = [jnp.sqrt(jnp.square(out - exact).mean()) for out, _ in cases]
        return off, [nbytes for _, nbytes in cases]

    q, k, v = like_large_models(128, heads=1)
    assert 8 < stats.kurtosis(np.asarray(k).ravel(), fisher=False) < 16
    (ours, spread, whole, groups), nbytes = run(q, k, v)
    assert nbytes[0] <= nbytes[3]
    assert ours < 0.6 * groups and ours < 0.6 * min(spread, whole)


def test_without_both_it_is_its_quantiser():
    x = drawn(jax.random.normal, jax.random.key(0), (1, 2, 1, 16, 8))
    parts = jax.jit(lambda x: compress(x, TWO, -2, 0, 0.0))(x)
    assert parts.low is None and parts.apart is None
    plain = jc.formats.quantize(x, TWO, axes=-2)
    np.testing.assert_array_equal(parts.grid.codes, plain.codes)
    np.testing.assert_array_equal(decompress(parts, -2), parts.grid.dense())


def test_factors_are_those_of_the_singular_values():
    x = drawn(jax.random.normal, jax.random.key(0), (3, 20, 8)) * jnp.geomspace(1, 0.01, 8)
    one, other = jax.jit(principal, static_argnums=1)(x, 2)
    _, values, _ = np.linalg.svd(x)
    left = np.square(x - one @ other).sum((1, 2))
    np.testing.assert_allclose(left, np.square(values[:, 2:]).sum(1), rtol=1e-2)
    none = jax.jit(principal, static_argnums=1)(jnp.zeros((4, 6)), 2)
    assert not jnp.any(none[0] @ none[1])


def test_what_makes_no_chunks_is_refused():
    with pytest.raises(jc.UnsupportedInput, match="an even group up to 256"):
        jc.kvcache.gear(64, group=512)
    with pytest.raises(jc.UnsupportedInput, match="a rank of 0 to 128"):
        jc.kvcache.gear(64, outliers=0.2)
    with pytest.raises(jc.UnsupportedInput, match="vectors of at most 256"):
        jc.kvcache.gear(64).init(1, 1, 512)
