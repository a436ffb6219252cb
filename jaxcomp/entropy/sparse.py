"""Zeros, signs and exponential Golomb magnitudes, as an entropy model: one parameter per channel.

    P(0) = sigmoid(zero_logit),   P(+-m) = (1 - P(0)) / 2 * 2**-length(m - 1),
    length(v) = 2 floor(log2((v >> k) + 1)) + 1 + k        Teuhola 1978; H.264, 9.1

The lengths fulfil Kraft's inequality with equality, so this is a distribution over all integers.
Bits are exactly these at integers and linear between them. Lengths are flat for long stretches, so
the slope by y is that of their smooth envelope, 2 log2(v / 2**k + 1).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.base import EntropyModel, JaxcompError
from jaxcomp.coding import build_tables
from jaxcomp.entropy.channelwise import check_channels
from jaxcomp.entropy.row_tables import MAXIMUM_SYMBOLS, TAIL_MASS, refuse_tracers


def sparse(
    channels: int,
    *,
    k: int = 0,
    tail_mass: float = TAIL_MASS,
    maximum_symbols: int = MAXIMUM_SYMBOLS,
    precision: int = 16,
) -> EntropyModel:
    """One probability of zero per channel, y's last axis; magnitudes of about 2**k are likely.

    params is {"zero_logit"}, f32[channels]; init takes no key, half are zeros at first. Table
    options as row_tables. Raises JaxcompError unless 0 <= k <= 15.
    """
    if not 0 <= k <= 15:
        raise JaxcompError(f"k must be 0 to 15, got {k}")

    def init(key=None):
        return {"zero_logit": jnp.zeros(channels)}

    def bits(params, y):
        check_channels(jnp.shape(y), channels)
        size = jnp.abs(jnp.asarray(y, jnp.float32))
        fixed = lax.stop_gradient(size)
        whole = jnp.floor(fixed)
        zero, one = (-jax.nn.log_sigmoid(s * params["zero_logit"]) / math.log(2) for s in (1, -1))

        def at(m):
            return jnp.where(m == 0, zero, one + 1 + _length(jnp.maximum(m, 1.0) - 1, k))

        value = at(whole) + (fixed - whole) * (at(whole + 1) - at(whole))
        envelope = 2 / math.log(2) / (jnp.maximum(fixed, 1.0) - 1 + 2**k)
        slope = jnp.where(fixed < 1, at(jnp.ones(())) - zero, envelope)
        return value + lax.stop_gradient(slope) * (size - fixed)

    def tables(params):
        refuse_tracers(params)
        # Magnitudes above 2**k (2**j - 1) have a share of 2**-j.
        j = max(1, math.ceil(-math.log2(tail_mass)))
        last = min(2**k * (2**j - 1), (maximum_symbols - 2) // 2)
        y = np.arange(-last, last + 1)
        zero = 1 / (1 + np.exp(-np.asarray(params["zero_logit"], np.float64)))[:, None]
        size = np.abs(y)
        share = np.exp2(-1 - _length(np.maximum(size, 1) - 1.0, k))
        pmf = np.where(size == 0, zero, (1 - zero) * share)
        pmf = np.concatenate([pmf, 1 - pmf.sum(1, keepdims=True)], axis=1)
        return build_tables(
            np.maximum(pmf, 0).astype(np.float32), precision=precision, offset=-last, escape=True
        )

    def index(params, shape):
        check_channels(shape, channels)
        return jnp.broadcast_to(jnp.arange(channels, dtype=jnp.int32), shape)

    return EntropyModel(init, bits, tables, index)


def _length(v, k):
    """Bits of the exponential Golomb code of whole v >= 0."""
    xp = np if isinstance(v, np.ndarray) else jnp
    _, exponent = xp.frexp(xp.floor(v / 2**k) + 1)
    return 2.0 * exponent - 1 + k
