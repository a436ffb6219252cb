"""SmoothAttention: the same products, also of turned keys, and smaller errors of rounded ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from tests.kvcache.inputs import with_outliers

pytestmark = pytest.mark.usefixtures("quick_file")

smooth_attention, fold_smoothing = jc.kvcache.smooth_attention, jc.kvcache.fold_smoothing


def rope(x, pairs):  # [t, heads, d]
    angles = jnp.arange(x.shape[0])[:, None, None] * 10.0 ** -jnp.arange(x.shape[-1] // 2)
    one, two = jnp.split(x, 2, -1) if pairs == "halves" else (x[..., ::2], x[..., 1::2])
    turned = (
        one * jnp.cos(angles) - two * jnp.sin(angles),
        one * jnp.sin(angles) + two * jnp.cos(angles),
    )
    return (
        jnp.concatenate(turned, -1) if pairs == "halves" else jnp.stack(turned, -1).reshape(x.shape)
    )


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
def test_products_stay_and_rounded_keys_are_nearer(pairs):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (96, 48))
    w_q = jax.random.normal(keys[1], (48, 4, 64)) / 7  # 4 heads of queries, 2 of keys
    w_k = with_outliers(jax.random.normal(keys[2], (48, 2, 64)) / 7)

    def scores(w_q, w_k, kept=lambda k: k):
        q, k = (rope(jnp.einsum("ti,ihd->thd", x, w), pairs) for w in (w_q, w_k))
        return jnp.einsum("qhd,khd->hqk", q, jnp.repeat(kept(k), 2, 1)) / 8

    def rounded(k):
        return jc.formats.quantize(k, jc.formats.UINT4, axes=-1).dense()

    @jax.jit
    def run(w_q, w_k):
        smooth = smooth_attention(rope(jnp.einsum("ti,ihd->thd", x, w_k), pairs), pairs=pairs)
        folded = fold_smoothing(w_q, w_k, smooth)
        exact = scores(w_q, w_k)
        off = [jnp.square(scores(*w, rounded) - exact).mean() for w in ((w_q, w_k), folded)]
        return exact, scores(*folded), off

    exact, same, (plain, ours) = run(w_q, w_k)
    np.testing.assert_allclose(same, exact, atol=1e-4)
    assert ours < 0.6 * plain


def test_lambda_is_that_of_the_larger_of_a_pair():
    k = jnp.array([[[1.0, -4, 9, 0]], [[0, 2, -16, 0]]])
    assert smooth_attention(k).tolist() == [[4, 2, 4, 2]]
    assert smooth_attention(k, pairs="neighbours").tolist() == [[2, 2, 4, 4]]
    assert smooth_attention(k, pairs=None, alpha=1.0).tolist() == [[1, 4, 16, 1]]
    assert smooth_attention(k, alpha=0.0).tolist() == [[1, 1, 1, 1]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(jc.UnsupportedInput, match="heads of even size, got 'halves' for 3"):
        smooth_attention(jnp.ones((2, 1, 3)))
    with pytest.raises(jc.UnsupportedInput, match="alpha from 0 to 1"):
        smooth_attention(jnp.ones((2, 1, 4)), alpha=2.0)
    with pytest.raises(jc.UnsupportedInput, match="reshape matrices"):
        fold_smoothing(jnp.ones((8, 3, 4)), jnp.ones((8, 2, 4)), jnp.ones((2, 4)))
