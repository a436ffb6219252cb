"""SmoothQuant: outliers of activations are moved into the weights, where a channel's scale is free.

    x @ w = (x / s) @ (s * w),   s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)

Rows of activations share one scale, so a channel of outliers costs all others their digits. At
alpha = 1/2 both sides of every channel span sqrt(max|x_j| max|w_j|).

Xiao et al., SmoothQuant, arXiv:2211.10438, section 4, equation 4. We differ: 1 / s multiplies x
where the weight is multiplied, so that it works on any function; activations are rounded per row at
the time, as in its O1. `smoothquant_folded` puts 1 / s into the operations before, where it can.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT8
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.transformed import activation_format, with_activation
from jaxcomp.lift.call import named
from jaxcomp.lift.statistics import max_magnitude, part
from jaxcomp.weights.basis import as_method, in_basis, needs
from jaxcomp.weights.fold import fold

# Of the largest channel: what was smaller while observing may not be so later.
LEAST = 1e-4


def smoothquant(
    method: Transform | Format = INT8,
    *,
    alpha: float = 0.5,
    activation: str | Format | None = "int8",
) -> Transform:
    """Needs the largest |x|; a method inside may need second moments too.

    alpha       how much of the outliers is moved: 0.5; models with larger ones take 0.85
    activation  what T(x) is rounded to; None for weights only
    """
    if not 0 <= alpha <= 1:
        raise UnsupportedInput(f"expected alpha from 0 to 1, got {alpha}; 0.5 serves most models")
    method = as_method(method)
    if activation is not None:
        activation_format(activation)
    statistic, split = needs(max_magnitude, method.statistic)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        own, inner = split(statistics)
        input_scale = _input_scale(own["max"], matrix, alpha)
        leaf = in_basis(matrix, method, inner, input_scale=input_scale)
        return with_activation(leaf, activation).placed(place)

    return Transform(compress, statistic, f"smoothquant {method.name}")


def smoothquant_folded(
    fn: Callable[..., Any],
    params: Any,
    batch: Any,
    *,
    stats: Any,
    alpha: float = 0.5,
) -> tuple[Any, Any]:
    """(params, stats) whose activations are smooth, and fn as it was.

    1 / s is folded into the norms, projections and biases before (weights/fold.py), where fn has
    any: equation 4 over all weights that read the same channels. compress the result with
    activation(INT8, "int8"), say: nothing is left to multiply at run time.

    batch   one as observe takes them. Only its shapes count: one short sequence is best
    stats   max_magnitude of params, or both(max_magnitude, ...); those that come back are of the
            new ones
    """
    if not 0 <= alpha <= 1:
        raise UnsupportedInput(f"expected alpha from 0 to 1, got {alpha}; 0.5 serves most models")

    def choose(readers):
        channels = np.unique(np.concatenate([r.channels for r in readers]))
        channels = channels[channels >= 0]
        sides = jnp.zeros((2, channels.max() + 1))
        for r in readers:
            state = part(max_magnitude, r.state)
            if state is None:
                raise UnsupportedInput(
                    f"{named(r.path)}: expected the largest |x| of what it multiplies, got others; "
                    "pass stats=jc.observe(fn, params, batches, statistic=jc.weights.max_magnitude)"
                )
            weights = jnp.abs(r.matrix.astype(jnp.float32)).max(0)
            both = jnp.where(r.channels >= 0, jnp.stack([state["max"], weights]), 0)
            sides = sides.at[:, np.maximum(r.channels, 0)].max(both)
        return channels, _balanced(*sides[:, channels], alpha)

    return fold(fn, params, batch, stats, choose)


@jax.jit
def _input_scale(largest, w, alpha):
    """1 / s in bfloat16, as it is kept."""
    weights = jnp.abs(w.astype(jnp.float32)).max(0)
    return _balanced(largest, weights, alpha).astype(jnp.bfloat16)


@jax.jit
def _balanced(largest, weights, alpha):
    """1 / s; of channels that were never active, or hold no weight, too."""
    largest, weights = (
        jnp.maximum(x, jnp.where(x.max() > 0, LEAST * x.max(), 1.0)) for x in (largest, weights)
    )
    return weights ** (1 - alpha) / largest**alpha
