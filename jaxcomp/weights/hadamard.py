"""hadamard: the inputs of a weight are rotated, so that an outlier becomes a little of everything.

    x @ w = (x R) @ (R^T w),   R = diag(signs) H / sqrt(in)

Each entry of x R is a mean of all entries of x with random signs: close to normal, without
outliers, so that activations of 4 bits keep their digits. Rounding the weight gains as well.

Ashkboos et al., QuaRot, arXiv:2404.00456, section 4. We differ: every product rotates its own
input, at O(in log in), and no rotation is folded into the weight before; so it works on any
function, through any norm and nonlinearity. Inputs of a size without a Hadamard matrix are rotated
by a random orthogonal one (kernels/hadamard.py).
"""

import jax.numpy as jnp
import numpy as np

from jaxcomp.base import Transform, random_bits
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.transformed import activation_format, with_activation
from jaxcomp.weights.basis import as_method, in_basis

SIGNS_KEY = (0, 0)  # any will do; ostquant trains for the rotation that these signs make


def hadamard(
    method: Transform | Format,
    *,
    signs_key: tuple[int, int] | None = SIGNS_KEY,
    activation: str | Format | None = None,
) -> Transform:
    """Needs what the method inside needs: second moments, which are rotated for it, or nothing.

    signs_key   two integers below 2**32 that the signs are drawn from; None for no signs, which
                leaves constant vectors an outlier
    activation  what x R is rounded to: "int8", "int4", a Format, or None
    """
    method = as_method(method)
    if activation is not None:
        activation_format(activation)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        signs = None if signs_key is None else random_signs(signs_key, matrix.shape[1])
        leaf = in_basis(matrix, method, statistics, signs=signs, rotate=True)
        return with_activation(leaf, activation).placed(place)

    return Transform(compress, method.statistic, f"hadamard {method.name}")


def random_signs(key: tuple[int, int], size: int) -> jnp.ndarray:
    """A random bit for each of `size` inputs, eight to a byte."""
    bits, _ = random_bits(key, np.arange(size, dtype=np.uint32))
    return jnp.asarray(np.packbits(bits >> 31 == 1))
