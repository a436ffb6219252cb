"""REx: what rounding left over is rounded again, as often as asked for: W ~ Q_1 + Q_2 + ... + Q_K.

    Q_k = round(W - Q_1 - ... - Q_{k-1})

With L levels on either side of zero, the step of Q_k is at most 1/(2L) of that of Q_{k-1}, so

    |W - sum Q| <= step_1 / 2 * (1 / (2L))^(K-1)

where the bound of the paper has 1/L. Data-free; K products with small integers, which int8 units
run as they are. Terms after the first may hold only the share `gamma` of the inputs: those whose
residual is largest.

Yvinec et al., REx, arXiv:2203.14645, sections 3.1 and 3.2. We differ: the paper keeps outputs, we
keep inputs (formats/selected.py), at the same cost.
"""

import functools

import jax
import jax.numpy as jnp

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.qtensor import from_groups
from jaxcomp.formats.selected import selected
from jaxcomp.formats.sum import Sum
from jaxcomp.weights.basis import as_method


def rex(method: Transform | Format, terms: int = 2, *, gamma: float = 1.0) -> Transform:
    """Needs what the method inside needs. With gamma < 1 that is a Format, which rounds all terms.

    terms  how often is rounded: K
    gamma  the share of inputs that terms after the first hold
    """
    if terms < 1 or not 0 < gamma <= 1:
        raise UnsupportedInput(
            f"expected terms >= 1 and gamma above 0 and up to 1, got {terms} and {gamma}; 2 terms "
            "of 4 bits, all inputs, are 8 bits"
        )
    if gamma < 1 and not isinstance(method, Format):
        raise UnsupportedInput(
            f"expected a Format with gamma={gamma}, got {method!r}; pass one, or gamma=1"
        )
    format, method = method, as_method(method)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        found: list[Leaf] = [method.compress(matrix, statistics, (-1,))]
        rest = matrix.astype(jnp.float32)
        for _ in range(terms - 1):
            rest = _without(rest, found[-1])
            if gamma == 1:
                term = method.compress(rest.astype(w.dtype), statistics, (-1,))
            else:
                term = _selected(rest, format, gamma, w.dtype)
            found.append(term)
        return Sum(tuple(found)).placed(place)

    return Transform(compress, method.statistic, f"rex {terms} {method.name}")


@jax.jit
def _without(rest, term):
    return rest - term.dense().astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _selected(rest, format, gamma, dtype):
    """Rounded, of the inputs with the largest residual; whole groups of them."""
    size = rest.shape[1]
    whole = format.group if format.group not in (None, -1) else grids.padded_size(1, format)
    kept = min(size, -(-round(gamma * size) // whole) * whole)
    index = jnp.sort(jnp.argsort(-(rest**2).sum(0))[:kept])
    return selected(from_groups(rest[:, index], format, dtype=dtype), index, size)
