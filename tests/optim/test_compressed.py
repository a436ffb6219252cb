"""Without feedback: unbiased compressors still reach the minimum, in the mean of their path.

That biased ones do not is in test_error_feedback and test_ef21.
"""

import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from tests.optim.inputs import descend

CENTRES = jnp.asarray(np.random.default_rng(1).exponential(size=(4, 16)).astype(np.float32) - 1)


def test_noise_without_bias_averages_out():
    def gradients(x):
        return x - CENTRES

    best = CENTRES.mean(0)

    transform = optim.compressed(optim.qsgd(4, block=16), axis_name="senders")
    path = descend(transform, gradients, best + 1, step=0.02, steps=900)
    assert np.linalg.norm(path[300:].mean(0) - best) < 0.02 * 4  # of the way at the start
    assert np.linalg.norm(path[300:] - best, axis=1).max() > 0.05  # there is noise
