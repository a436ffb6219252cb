"""SmoothQuant: outliers of activations are moved into the weights, where a channel's scale is free.

    x @ w = (x / s) @ (s * w),   s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)

Rows of activations share one scale, so a channel of outliers costs all others their digits. At
alpha = 1/2 both sides of every channel span sqrt(max|x_j| max|w_j|).

Xiao et al., SmoothQuant, arXiv:2211.10438, section 4, equation 4. We differ: 1 / s multiplies x
where the weight is multiplied, and is not folded into the operation before, so that it works on
any function; activations are rounded per row at the time, as in its O1.
"""

import jax
import jax.numpy as jnp

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT8
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.transformed import activation_format, with_activation
from jaxcomp.lift.statistics import max_magnitude
from jaxcomp.weights.basis import as_method, in_basis, needs

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


@jax.jit
def _input_scale(largest, w, alpha):
    """1 / s in bfloat16, as it is kept; channels that were never active, or hold no weight, too."""
    weights = jnp.abs(w.astype(jnp.float32)).max(0)
    largest, weights = (
        jnp.maximum(x, jnp.where(x.max() > 0, LEAST * x.max(), 1.0)) for x in (largest, weights)
    )
    return (weights ** (1 - alpha) / largest**alpha).astype(jnp.bfloat16)
