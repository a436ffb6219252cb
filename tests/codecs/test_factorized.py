"""The design; its law is in test_latent_coding, its place among the others in test_latent_prior."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.codecs.latent_prior import LatentPrior


def test_scales_follow_from_channel_and_step_alone():
    codec = jc.codecs.factorized()
    design = codec.init.args[0]
    assert codec.name == design.name == "factorized" and sum(design.slices) == 640
    assert design.side == 0 and design.means is False and design.passes == ()
    prior = LatentPrior((8,), 0, 16, means=False)
    y = jax.random.normal(jax.random.key(0), (2, 8, 4, 8))
    variables = jax.jit(prior.init)(jax.random.key(1), y, jnp.zeros(2, jnp.int32))
    z = prior.apply(variables, y, method="summarise")
    assert z.shape == (2, 2, 1, 0)
    known = prior.apply(variables, z, jnp.asarray([30, 90]), method="begin")
    group = prior.apply(variables, 0, 0, known, y, z, method="group")
    row = np.asarray(group.row)
    assert (row == row[:, :1, :1]).all() and (row[0, 0, 0] != row[1, 0, 0]).any()
    np.testing.assert_array_equal(group.mean, 0)
