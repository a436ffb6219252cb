"""Zeros and exponential Golomb magnitudes: lengths of the real code, the law, useful slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.coding import universal
from jaxcomp.entropy import sparse
from tests.checks import check_entropy_model

pytestmark = pytest.mark.usefixtures("quick_file")


@pytest.mark.parametrize("k", [0, 3])
def test_bits_are_the_lengths_of_the_code(k):
    model = sparse(1, k=k)
    sizes = np.array([1, 2, 3, 7, 8, 100, 5000])
    # 64 copies of a value: the padding to a byte cannot hide a bit.
    length = [
        len(universal.exponential_golomb_encode(np.full(64, size - 1), k)) / 8 for size in sizes
    ]
    params = model.init()
    for sign in (1, -1):
        got = model.bits(params, jnp.asarray(sign * sizes, jnp.float32)[:, None])[:, 0]
        np.testing.assert_allclose(got, np.array(length) + 2, rtol=1e-6)  # not zero, and the sign
    assert float(model.bits(params, jnp.zeros((1, 1)))[0, 0]) == 1


def test_the_law_and_the_share_of_zeros():
    rng = np.random.default_rng(0)
    shape = (30_000, 2)
    zero = np.array([0.9, 0.2])
    length = rng.geometric(0.5, shape) - 1  # an exponential Golomb code of random bits
    size = 2 ** (length + 1) - 1 + (rng.random(shape) * 2 ** (length + 1)).astype(int)
    symbols = np.where(rng.random(shape) < zero, 0, size * rng.choice([-1, 1], shape))
    model = sparse(2, k=1)
    params = {"zero_logit": jnp.asarray(np.log(zero / (1 - zero)), jnp.float32)}
    check_entropy_model(model, params, symbols.astype(np.int32))
    slope = jax.grad(lambda p: model.bits(p, symbols.astype(np.float32)).mean())(params)
    np.testing.assert_allclose(slope["zero_logit"], 0, atol=0.01)  # the best share is the true one


def test_slopes_pull_towards_zero_everywhere_and_values_interpolate():
    model = sparse(1, k=2)
    params = {"zero_logit": jnp.array([1.0])}
    y = jnp.array([0.3, -0.3, 4.0, -50.5, 1000.0])[:, None]
    slopes = jax.grad(lambda y: model.bits(params, y).sum())(y)
    assert np.isfinite(slopes).all() and (jnp.sign(slopes) == jnp.sign(y)).all()
    ends = model.bits(params, jnp.array([[0.0], [1.0], [0.25]]))[:, 0]
    np.testing.assert_allclose(ends[2], 0.75 * ends[0] + 0.25 * ends[1], rtol=1e-6)


def test_a_bad_k_is_refused():
    with pytest.raises(jc.JaxcompError, match="0 to 15"):
        sparse(1, k=16)
