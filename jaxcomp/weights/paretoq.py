"""ParetoQ: one recipe for training at 1, 1.58, 2, 3 and 4 bits, each with the grid that suits it.

Liu et al., ParetoQ: scaling laws in extremely low-bit LLM quantization, 2025, section 3. With a the
learned step of a row (or group) of n weights, and the clipping ranges in brackets:

    1 bit      a sign(w)                                  a0 = mean|w|       [-1, 1]
    1.58 bits  a (round(1.5 clip(w / a, .99))) / 1.5      a0 = max|w|        [-.99, .99]
    2 bits     a (round(2 clip(w / a, .99) - .5) + .5)/2  a0 = max|w|        [-.99, .99]
    3, 4 bits  a round(clip(w / a, Qn, Qp))               a0 = max|w| / Qp   [Qn, Qp]

The second and third are the paper's stretched elastic quantisation: levels balanced around zero,
-.75, -.25, .25, .75 for 2 bits, since so few must not waste one. The gradients are those of learned
steps (lsq.py); that of one bit has the codes held still.

We keep the step between levels, a / 1.5 and a / 2, in place of a: the same values, and gradients
up to that constant. The gain 1 / sqrt(n Qp) counts the n weights that share a step, not the layer.
The paper trains 90 % of the budget in floats and 10 % with rounding.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT3, INT4, TERNARY
from jaxcomp.formats.latent import Rule, in_symmetric_groups, latent
from jaxcomp.formats.layout import to_matrix

STRETCH = 0.99  # of a: beyond, a weight no longer moves
FORMATS = {
    1: Format(1, table=(-1.0, 1.0)),
    1.58: TERNARY,
    2: Format(2, table=(-1.5, -0.5, 0.5, 1.5)),
    3: INT3,
    4: INT4,
}
STEPS_PER_RANGE = {1.58: 1.5, 2: 2.0}  # n of the stretched grids: a / n is the step


def paretoq(bits: float | int, *, group: int | None = -1) -> Transform:
    """Data-free: the weights as Latent leaves, ready to train; see lsq for how.

    bits   one of 1, 1.58, 2, 3, 4
    group  weights that share a step; -1: an output, as in the paper
    """
    if bits not in FORMATS:
        raise UnsupportedInput(f"expected bits of {', '.join(map(str, FORMATS))}, got {bits}")

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        return _start(matrix, bits, group, w.dtype).placed(place)

    return Transform(compress, None, f"paretoq {bits}")


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _start(w, bits, group, dtype):
    w = w.astype(jnp.float32)
    format = FORMATS[bits]._replace(group=group)
    grouped = in_symmetric_groups(w, format)
    gain = 1 / math.sqrt(grouped.shape[-1])
    if bits == 1:
        rule, steps = Rule(-1.0, 1.0, gain, codes=True), jnp.abs(grouped).mean(-1)
    elif bits in STEPS_PER_RANGE:
        n = STEPS_PER_RANGE[bits]
        rule, steps = Rule(-STRETCH * n, STRETCH * n, gain), jnp.abs(grouped).max(-1) / n
    else:
        high = 2.0 ** (bits - 1) - 1
        rule = Rule(-high - 1, high, gain / math.sqrt(high))
        steps = jnp.abs(grouped).max(-1) / high
    return latent(w, format, rule, steps, dtype)
