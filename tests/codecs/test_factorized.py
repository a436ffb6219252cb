"""The design; its law is in test_latent_coding, its place among the others in test_latent_prior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.codecs.latent_prior import LatentPrior
from tests.codecs.designs import QUICK


def test_scales_follow_from_channel_and_step_alone():
    codec = jc.codecs.factorized()
    design = codec.init.args[0]
    assert codec.name == design.name == "factorized" and sum(design.slices) == 640
    assert design.side == 0 and design.means is False and design.passes == ()
    prior = LatentPrior((8,), 0, 16, means=False)
    y = jax.random.normal(jax.random.key(0), (2, 8, 4, 8))
    level = jnp.asarray([30, 90])

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(key):
        variables = prior.init(key, y, level)
        z = prior.apply(variables, y, method="summarise")
        known = prior.apply(variables, z, level, method="begin")
        return z, prior.apply(variables, 0, 0, known, y, z, method="group")

    z, group = run(jax.random.key(1))
    assert z.shape == (2, 2, 1, 0)
    row = np.asarray(group.row)
    assert (row == row[:, :1, :1]).all() and (row[0, 0, 0] != row[1, 0, 0]).any()
    np.testing.assert_array_equal(group.mean, 0)
