"""Learned step sizes: weights that are rounded while they train, and whose steps train with them.

Esser et al., Learned step size quantization, ICLR 2020. With Qp and Qn the highest and the lowest
level, of n weights that share a step s:

    start (2.1)     s = 2 mean|w| / sqrt(Qp)
    gradients       formats/latent.py, equation 3, those of s times 1 / sqrt(n Qp)   (2.2)

The paper has one step per layer, and learns those of activations too; here a step belongs to a
group of the format, and activations are rounded by jc.fake_quantize(fn, activations=...).

    small = jc.weights.compress(params, jc.weights.lsq(jc.formats.INT2_G32), stats=stats)
    train small through jc.lift(fn), with jax.grad and optax: all its parts are floats
    small = jc.formats.freeze(small)
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxcomp.base import Transform
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.latent import Rule, in_symmetric_groups, latent
from jaxcomp.formats.layout import to_matrix


def lsq(format: Format) -> Transform:
    """Data-free: the weights as Latent leaves, ready to train. format: a symmetric one."""
    grids.check(format)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        return _start(matrix, format, w.dtype).placed(place)

    return Transform(compress, None, "lsq")


@functools.partial(jax.jit, static_argnums=(1, 2))
def _start(w, format, dtype):
    w = w.astype(jnp.float32)
    grouped = in_symmetric_groups(w, format)
    grid = grids.levels(format)
    low, high = float(grid.min()), float(grid.max())
    rule = Rule(low, high, 1 / math.sqrt(grouped.shape[-1] * high))
    return latent(w, format, rule, 2 * jnp.abs(grouped).mean(-1) / math.sqrt(high), dtype)
