"""Sign: the worst case is one entry that is all of a block, and the bytes are one bit each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


def test_the_law():
    one = np.zeros((1, 600), np.float32)
    one[0, 5] = 3
    worst = check_compressor(optim.sign(block=64), np.concatenate([hard(), one]))
    np.testing.assert_allclose(worst.max(), 1 - 1 / 64, rtol=1e-5)  # the constant is met


def test_signs_and_one_scale_for_each_block():
    x = jnp.array([1.0, -3, 0, 0, 2, -2, 0, 8, -5], jnp.bfloat16)
    sent, _ = jax.jit(optim.sign(block=8).compress)(None, x, ())
    assert sent.nbytes == 2 * (1 + 4)
    back = optim.sign(block=8).decompress(sent)
    assert back.dtype == jnp.bfloat16
    np.testing.assert_array_equal(back.astype(np.float32), [2, -2, 2, 2, 2, -2, 2, 2, -5])


def test_a_block_of_no_bytes_is_refused():
    with pytest.raises(UnsupportedInput, match="multiple of 8"):
        optim.sign(block=12)
