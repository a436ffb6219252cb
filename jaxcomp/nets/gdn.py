"""Generalised divisive normalisation: each channel divided by the activity of all at its pixel.

    y_i = x_i / (beta_i + sum_j gamma_ij |x_j|**alpha)**epsilon

alpha = 2, epsilon = 1/2 is GDN; alpha = epsilon = 1 is the simplified form, which needs no root and
codes as well. The inverse multiplies instead of dividing: one step of the fixed-point iteration
that inverts GDN, exact where gamma = 0. beta and gamma stay positive by their parametrisation,

    beta = max(b, sqrt(beta_min + o))**2 - o,    gamma = max(g, sqrt(o))**2 - o,    o = 2**-36

whose gradients vanish nowhere: a bounded parameter still moves when it would move inward.

J. Balle, V. Laparra and E. P. Simoncelli, Density modeling of images using a generalized
normalization transformation, ICLR 2016, section 3, and End-to-end optimized image compression,
ICLR 2017, section 2; N. Johnston et al., Computationally efficient neural image compression, 2019,
section 3.1.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcomp.nets.fixed_point import inward

# The square root is steep at zero: gamma enters as the square of a number kept above this.
OFFSET = 2.0**-18
# Below this a divisor could amplify noise without limit.
BETA_MIN = 1e-6
# Coupling of a channel to itself at the start: close to linear, with a gradient for every gamma.
GAMMA_START = 0.1


class GDN(nn.Module):
    """x[..., c] -> y[..., c]. inverse: IGDN; simplified: alpha = epsilon = 1."""

    inverse: bool = False
    simplified: bool = False

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "*batch c"]) -> Float[Array, "*batch c"]:
        channels = x.shape[-1]
        beta = self.param("beta", lambda _: _to_root(jnp.ones(channels)))
        gamma = self.param("gamma", lambda _: _to_root(GAMMA_START * jnp.eye(channels)))
        norm = activity(
            x,
            _from_root(beta, BETA_MIN),
            _from_root(gamma, 0.0),
            simplified=self.simplified,
        )
        return x * norm if self.inverse else x / norm


class IGDN(nn.Module):
    """The inverse of GDN, to the first step of its fixed-point iteration."""

    simplified: bool = False

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "*batch c"]) -> Float[Array, "*batch c"]:
        return GDN(inverse=True, simplified=self.simplified, name="gdn")(x)


def activity(
    x: Float[Array | np.ndarray, "*batch c"],
    beta: Float[Array, " c"],
    gamma: Float[Array, "c c"],
    *,
    simplified: bool = False,
) -> Float[Array, "*batch c"]:
    """(beta_i + sum_j gamma[i, j] |x_j|**alpha)**epsilon: what GDN divides by."""
    if simplified:
        return jnp.abs(x) @ gamma.T + beta
    return jnp.sqrt(jnp.square(x) @ gamma.T + beta)


def _to_root(value: jax.Array) -> jax.Array:
    return jnp.sqrt(value + OFFSET**2)


def _from_root(root: jax.Array, least: float) -> jax.Array:
    return jnp.square(lower_bound(root, (least + OFFSET**2) ** 0.5)) - OFFSET**2


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def lower_bound(x: Float[Array, "*shape"], bound: float) -> Float[Array, "*shape"]:
    """max(x, bound), whose gradient passes where it would move x towards or above the bound."""
    return jnp.maximum(x, bound)


lower_bound.defvjp(
    lambda x, bound: (jnp.maximum(x, bound), x),
    lambda bound, x, gradient: (inward(gradient, x, bound, math.inf),),
)
