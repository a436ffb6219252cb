"""QSGD: without bias, its variance within the bound and near it, and codes of few bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard

KEY = jnp.array([5, 6], jnp.uint32)


def test_the_law():
    even = np.ones((1, 640), np.float32)  # 3/8 of a level each, in blocks of 64
    worst = check_compressor(optim.qsgd(3, block=64), np.concatenate([hard(640), even]))
    np.testing.assert_allclose(worst.max(), 3 / 8 * 5 / 8 * 64 / 9, rtol=0.03)  # the bound is 8 / 3


def test_each_bit_more_makes_less_noise_in_more_bytes():
    x = jnp.asarray(hard(1024)[0])
    methods = [optim.qsgd(bits) for bits in (0, 2, 3, 8)]
    sizes = [optim.wire_nbytes(method, x) for method in methods]
    back = jax.jit(lambda: [m.decompress(m.compress(KEY, x, ())[0]) for m in methods])()
    errors = [float(jnp.square(each - x).sum()) for each in back]
    assert errors[0] == pytest.approx(errors[1])  # trits are two bits with three levels
    assert errors[1:] == sorted(errors[1:], reverse=True)
    assert sizes == [4 * 4 + 4 * n for n in (52, 64, 96, 256)]


def test_large_and_small_numbers_do_not_overflow_or_vanish():
    method = optim.qsgd(8)
    there = jax.jit(lambda x: method.decompress(method.compress(KEY, x, ())[0]))
    for size in (1e-30, 1e30):
        np.testing.assert_allclose(there(jnp.full(8, size)), size, rtol=0.03)
    assert jnp.isnan(there(jnp.full(8, 1e38))).all()  # beyond what has a reciprocal: seen


def test_other_bits_are_refused():
    with pytest.raises(UnsupportedInput, match="2 to 8"):
        optim.qsgd(1)
