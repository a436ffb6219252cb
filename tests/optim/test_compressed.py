"""Without feedback: unbiased compressors still reach the minimum, biased ones stop short of it."""

import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from tests.optim.inputs import descend

CENTRES = jnp.asarray(np.random.default_rng(1).exponential(size=(4, 16)).astype(np.float32) - 1)


def test_noise_averages_out_and_bias_does_not():
    def gradients(x):
        return x - CENTRES

    best = CENTRES.mean(0)

    def off(method, **options):
        transform = optim.compressed(method, **options)
        path = descend(transform, gradients, best + 1, step=0.02, steps=900)
        return np.linalg.norm(path[300:].mean(0) - best) / 4  # of the way at the start

    assert off(optim.qsgd(4, block=16), axis_name="senders") < 0.02
    assert off(optim.top_k(1 / 16)) > 0.1
