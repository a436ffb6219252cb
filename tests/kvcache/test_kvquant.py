"""KVQuant: each of its parts lowers the error where the paper says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.kvquant import (
    Levels,
    _codes,
    _decode_keys,
    _decode_values,
    _encode_keys,
    _encode_values,
    _read,
    levels,
)
from tests.checks import check_cache
from tests.kvcache.inputs import like_large_models, qkv

pytestmark = pytest.mark.usefixtures("quick_file")

kvquant, kvquant_tables = jc.kvcache.kvquant, jc.kvcache.kvquant_tables


def test_the_law():
    _, k, v = qkv(64, size=16)
    state = check_cache(kvquant(24, kvquant_tables(k, v)), tolerance=0.2, alone=False)
    tokens = 2 * 23 * 2  # of all sequences and heads, the first of each as it is
    assert jc.tree.nbytes(state.keys) == tokens * (16 * 3 // 8 + 3)
    assert jc.tree.nbytes(state.values) == tokens * (16 * 3 // 8 + 2 * 3 + 2 * 2)


def kept(tables, k, v, outliers=0.01):
    """(keys and values as they are read, bytes)."""
    k, v = (x.swapaxes(1, 2)[:, :, :, None] for x in (k, v))
    parts = (
        _encode_keys(tables, k, outliers=outliers),
        _encode_values(tables.values, v, outliers=outliers),
    )
    read = _decode_keys(tables, parts[0]), _decode_values(tables, parts[1])
    return *(x[:, :, :, 0].swapaxes(1, 2) for x in read), jc.tree.nbytes(parts)


def attend(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def test_every_part_lowers_the_error():
    even = jnp.linspace(-1, 1, 8)
    uniform = Levels((even[1:] + even[:-1]) / 2, even)
    by_token = jc.formats.UINT3_G32._replace(zero="bfloat16")

    @jax.jit
    def errors(known, q, k, v):
        tables = kvquant_tables(*known)
        cases = [
            kept(tables, k, v),
            kept(tables._replace(keys=uniform, values=uniform), k, v),
            kept(kvquant_tables(*known, outliers=0.0), k, v, 0.0),
        ]
        held = [jc.formats.quantize(x, by_token, axes=-1) for x in (k, v)]
        cases.append((*(leaf.dense() for leaf in held), jc.tree.nbytes(held)))
        exact = attend(q, k, v)
        off = [jnp.sqrt(jnp.square(attend(q, *case[:2]) - exact).mean()) for case in cases]
        return off, [case[2] for case in cases]

    known = like_large_models(160, heads=1, seed=2)[1:]
    (ours, even_levels, none_apart, tokens), nbytes = errors(
        known, *like_large_models(128, heads=1, seed=2)
    )
    assert ours < 0.9 * even_levels and ours < 0.75 * none_apart
    # By token keys are lost to the channels that are always large.
    assert nbytes[0] <= nbytes[3] and ours < 0.7 * tokens


def test_keys_by_channel_are_nearer_before_they_are_rotated():
    def rope(x):
        angles = jnp.arange(128.0)[:, None, None] * 100.0 ** -jnp.linspace(0, 1, 16)
        one, two = jnp.split(x, 2, -1)
        turned = one * jnp.cos(angles) - two * jnp.sin(angles)
        return jnp.concatenate([turned, one * jnp.sin(angles) + two * jnp.cos(angles)], -1)

    @jax.jit
    def errors(q, k, v):
        before = rope(kept(kvquant_tables(k, v, bits=2), k, v)[0])
        behind = kept(kvquant_tables(rope(k), v, bits=2), rope(k), v)[0]
        exact = attend(q, rope(k), v)
        return [jnp.square(attend(q, keys, v) - exact).mean() for keys in (before, behind)]

    before, behind = errors(*like_large_models(128, heads=1, size=32))
    assert before < 0.75 * behind


def test_two_bits_keep_mean_and_deviation():
    z = jnp.asarray(np.random.default_rng(0).normal(0.1, 0.4, 1000), jnp.float32)
    inside = (jnp.abs(z) <= 1).astype(jnp.float32)

    def moments(norm):
        table = levels(z, inside, 2, norm)
        read = np.asarray(_read(table.values, _codes(z, table.edges)))[np.asarray(inside) > 0]
        return read.mean(), read.std()

    kept = np.asarray(z)[np.asarray(inside) > 0]
    np.testing.assert_allclose(moments(True), (kept.mean(), kept.std()), rtol=1e-3)
    assert moments(False)[1] < 0.97 * kept.std()


def test_levels_are_where_errors_cost():
    z = jnp.linspace(-1, 1, 999)
    costly = jnp.where(z > 0.5, 100.0, 1.0)
    weighted, plain = (levels(z, w, 3, False) for w in (costly, jnp.ones_like(z)))

    def cost(table):
        return float((costly * (z - _read(table.values, _codes(z, table.edges))) ** 2).sum())

    assert cost(weighted) < 0.3 * cost(plain)


def test_a_cache_can_be_built_of_traced_tables_and_the_first_tokens_are_exact():
    q, k, v = qkv(8, size=16)
    tables = kvquant_tables(k, v)

    @jax.jit
    def run(tables, q, k, v):
        cache = kvquant(8, tables, sinks=2, outliers=0.0)
        return cache.attend(cache.append(cache.init(2, 2, 16), k, v), q)[0]

    exact = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    out = run(tables, q, k, v)
    np.testing.assert_allclose(out[:, :2], exact[:, :2], atol=1e-5)
    assert jnp.abs(out - exact).max() > 1e-3


def test_what_makes_no_tables_is_refused():
    _, k, v = qkv(8)
    with pytest.raises(jc.UnsupportedInput, match="bits of 1 to 4"):
        kvquant_tables(k, v, bits=5)
    with pytest.raises(jc.UnsupportedInput, match="outliers from 0 to 0.1"):
        kvquant_tables(k, v, outliers=0.5)
