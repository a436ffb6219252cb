"""llm_fp4: floats of few bits with a real-valued exponent bias, and exponent bits that fit.

    levels of ExMy:  m 2^(1 - y) for the lowest exponent,  (1 + m 2^-y) 2^e above it
    w ~ 2^(-bias) * level,  2^(-bias) any real number: a scale

For each output, or group, the split of the bits into exponent and mantissa and the bias of least
squared error are searched: E1M2 is uniform, E3M0 powers of two. Activations may be rounded too,
after large channels are shifted down by powers of two that the weights take up:

    x @ w = round(x 2^-k) @ (2^k w),   k_j = round(log2(max|x_j| / median of the maxima)), 0 to 3

Liu et al., LLM-FP4, arXiv:2310.16836, sections 3, 4.1 and 4.2 (pre-shifted exponent bias). We
differ: the split is of an output and not of a layer; the error is the weight's own, so weights
alone need no data; rows of activations have a scale each, at the time, and not one for a tensor;
and k is kept beside the weight, since it is a scale of its rows as well.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.float4 import FP4
from jaxcomp.formats.format import Format, check
from jaxcomp.formats.grid_choice import choose
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.level_rules import Levels
from jaxcomp.formats.transformed import activation_format, with_activation
from jaxcomp.lift.statistics import max_magnitude
from jaxcomp.weights.basis import in_basis

SHIFTS = 3  # the largest k: what the two exponent bits of E2M1 can say, as in the paper
MOST_EXPONENT = 5  # bits: 2^32 from the least to the largest is more than any weights span


def llm_fp4(
    format: Format = FP4,
    *,
    mantissas: tuple[int, ...] | None = None,
    activation: str | Format | None = None,
) -> Transform:
    """Data-free for weights alone; with an activation needs the largest |x|.

    format      its bits, 3 to 8, group and scale; its levels are not used
    mantissas   the widths to choose among, by default all up to bits - 2 that leave an exponent of
                at most 5 bits. One width makes a QTensor, which the packed kernels multiply;
                several a GridChoice, with a byte more per scale
    activation  what x 2^-k is rounded to: FP4, a name, or None for weights alone
    """
    check(format)
    bits = format.bits
    if not 3 <= bits <= 8:
        raise UnsupportedInput(f"expected 3 to 8 bits, got {bits}; choose among these")
    known = tuple(range(max(0, bits - 1 - MOST_EXPONENT), bits - 1))
    mantissas = known if mantissas is None else mantissas
    if not mantissas or not set(mantissas) <= set(known):
        raise UnsupportedInput(
            f"expected mantissas that leave 1 to {MOST_EXPONENT} bits of exponent in {bits} bits, "
            f"got {mantissas}; choose among {known}"
        )
    tables = Levels("float", bits, tuple(mantissas))
    name = f"e{bits - 1 - mantissas[0]}m{mantissas[0]}" if len(mantissas) == 1 else f"float{bits}"
    format = format._replace(name=name)

    def rounded(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        return choose(matrix, tables, format, dtype=w.dtype).placed(place)

    weights = Transform(rounded, None, "llm_fp4")
    if activation is None:
        return weights
    activation_format(activation)

    def shifted(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        leaf = in_basis(matrix, weights, None, input_scale=_shifts(statistics["max"]))
        return with_activation(leaf, activation).placed(place)

    return Transform(shifted, max_magnitude, "llm_fp4")


@jax.jit
def _shifts(largest: Float[Array, " in"]) -> Float[Array, " in"]:
    """2^-k of each input, in bfloat16, as it is kept: exact."""
    middle = jnp.median(largest)
    k = jnp.round(jnp.log2(jnp.where(middle > 0, largest / middle, 1.0)))
    return jnp.exp2(-jnp.clip(k, 0, SHIFTS)).astype(jnp.bfloat16)
