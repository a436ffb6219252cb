"""TernGrad: three levels without bias, and with clipping the clipped gradient in its mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


def test_the_law():
    worst_case = np.full((1, 640), 1 / 9, np.float32)  # 1 and 63 times 1 / (sqrt(64) + 1)
    worst_case[0, ::64] = 1
    method = optim.terngrad(block=64, clip=None)
    worst = check_compressor(method, np.concatenate([hard(640), worst_case]))
    np.testing.assert_allclose(worst.max(), method.variance(640), rtol=0.03)  # (sqrt(64) - 1) / 2


def test_with_clipping_the_mean_is_the_clipped_gradient_and_noise_is_less():
    x = jnp.asarray(hard()[1])
    keys = np.random.default_rng(0).integers(0, 1 << 32, (1000, 2), np.uint32)
    found = {}
    for clip in (2.5, None):
        method = optim.terngrad(clip=clip)
        each = jax.vmap(lambda k, m=method: m.decompress(m.compress(k, x, ())[0]))
        found[clip] = np.asarray(jax.jit(each)(keys))
    most = 2.5 * float(jnp.sqrt(jnp.square(x).mean()))
    assert float(jnp.abs(x).max()) > 3 * most  # heavy tails: the largest is far beyond
    expected = np.clip(x, -most, most)
    assert set(np.unique(np.abs(found[2.5]))) == {0, np.float32(np.abs(found[2.5]).max())}
    np.testing.assert_allclose(found[2.5].mean(0), expected, atol=5 * most / 1000**0.5 / 2)
    assert found[2.5].std(0).mean() < 0.7 * found[None].std(0).mean()


def test_the_wire_is_trits():
    sent = jax.eval_shape(optim.terngrad().compress, jnp.zeros(2, jnp.uint32), jnp.zeros(4096), ())[
        0
    ]
    assert optim.wire_nbytes(optim.terngrad(), jnp.zeros(4096)) == sent.nbytes == 820 + 4
    with pytest.raises(UnsupportedInput, match="clip above 0"):
        optim.terngrad(clip=-1.0)
