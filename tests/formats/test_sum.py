"""A sum of leaves is the sum of what they stand for, and is multiplied term by term."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.formats.layout import layout
from jaxcomp.formats.low_rank import low_rank
from jaxcomp.formats.sum import Sum

rng = np.random.default_rng(0)
W = jnp.asarray(rng.normal(size=(16, 10)), jnp.float32)
PLACE = layout(W.shape, (-2,))
LOW = low_rank(
    jnp.asarray(rng.normal(size=(10, 2)), jnp.float32),
    jnp.asarray(rng.normal(size=(2, 16)), jnp.float32),
)


def a_sum():
    return Sum((jc.formats.quantize(W.T, jc.formats.INT4, -1), LOW)).placed(PLACE)


def test_adds_weights_products_and_bytes():
    leaf = a_sum()
    expected = leaf.terms[0].dense() + leaf.terms[1].dense()
    assert leaf.shape == W.shape and leaf.packed == ((-2, 16),)
    assert leaf.nbytes == sum(term.nbytes for term in leaf.terms) == 10 * 8 + 20 + 2 * (20 + 32)
    np.testing.assert_allclose(leaf.dense(), expected, atol=1e-6)
    x = jnp.asarray(rng.normal(size=(3, 16)), jnp.float32)
    np.testing.assert_allclose(jc.formats.dot(x, leaf), x @ expected, atol=1e-4)
    assert leaf.describe() == "int4 per channel + rank 2 bfloat16"
    assert leaf.kernel("cpu") == ("blocked lax + two thin products", "")
    late = Sum((LOW, jc.formats.quantize(W.T, jc.formats.INT3, -1)))
    assert late.kernel("cuda")[1] == late.terms[1].kernel("cuda")[1] != ""


def test_lift_scans_and_batches_over_stacked_sums():
    one, two = a_sum(), jax.tree.map(lambda part: part[::-1] if part.ndim else part, a_sum())
    both = jax.tree.map(lambda *parts: jnp.stack(parts), one, two)
    x = jnp.asarray(rng.normal(size=(3, 2, 16)), jnp.float32)

    def scanned(w, x):
        return jax.lax.scan(lambda c, each: (None, each[1] @ each[0]), None, (w, x.swapaxes(0, 1)))[
            1
        ]

    def batched(w, x):
        return jnp.einsum("lio,mli->mlo", w, x)

    for fn in (scanned, batched):
        lifted = jax.jit(jc.lift(fn, strict=True))
        np.testing.assert_allclose(lifted(both, x), fn(both.dense(), x), atol=1e-4)
