"""SpQR: small groups whose scales are quantised too, and a few weights kept apart in 16 bits.

Lowers the error of the layer's output as gptq does, on a grid of groups of 16 with scales and zeros
on grids of 3 bits of their own (16 to a group). What one weight costs its group is how much the
group's error falls without it,

    gain_i = E(all) - E(all but i),  E(G) = sum of R_kk^2 (w_k - q_k)^2, the grid fitted to G;

the weights of most gain are left out where grids are fitted, and what rounding leaves of them is
added in bfloat16. Dettmers et al., SpQR, 2023, section 4 and algorithm 1.

We differ: every output keeps the same number of weights apart, chosen before columns are rounded
(the paper compares with a threshold, and once more in the loop), so that leaves have one shape and
stack; what is kept is the difference to the grid, so the grid's product needs no mask; damping is
that of gptq (the paper's, 1, gave twice the error in our tests).

Bits per weight of SPQR3: 3 + (3 + 3) / 16 + 4 * 16 / 256 = 3.625, and for n inputs, of which k are
apart, (k + n // 255) * (16 + 8) / n more.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.qtensor import QTensor, from_codes, from_groups, read, store
from jaxcomp.formats.sparse_rows import sparse_rows
from jaxcomp.formats.sum import Sum
from jaxcomp.lift.statistics import second_moment
from jaxcomp.weights.gptq import Record, factor, note, solve

SECOND = Format(3, group=16, zero="bfloat16", pad=True)
SPQR3 = Format(3, group=16, scale=SECOND, zero=SECOND)
SPQR2 = SPQR3._replace(bits=2)
SPQR4 = SPQR3._replace(bits=4)

GAP_BITS = 8  # between weights apart: at 1 % the mean is 100
LEAST_SCALE = 1e-2  # of the row's largest: groups of zeros must not stretch the grid of scales


def spqr(
    format: Format = SPQR3,
    *,
    outliers: float = 0.01,
    order: str = "activation",
    damping: float = 0.01,
    block: int = 128,
    report: list[Record] | None = None,
) -> Transform:
    """Needs the second moment of a weight's inputs. Runs outside of jit: it packs on the host.

    format    any asymmetric one; scales and zeros that are Formats are fitted to all they span
    outliers  the share of each output's weights that are kept apart, 0 to 0.5
    order, damping, block, report: as gptq
    """
    grids.check(format)
    if format.zero is None or format.group is None:
        raise UnsupportedInput(
            f"expected an asymmetric format of groups or rows, got {format}; use spqr.SPQR3, or "
            "gptq for symmetric ones"
        )
    if not 0 <= outliers <= 0.5:
        raise UnsupportedInput(f"expected outliers from 0 to 0.5, got {outliers}; 0.01 serves")

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        apart = round(outliers * matrix.shape[1])
        known = factor(statistics["moment"], damping, format, order=order, block=block)
        dtype = jnp.dtype(w.dtype)
        chosen = _chosen(matrix, known, format, apart)
        grid, spare = _solve(matrix, known, *chosen, format, order, block, dtype)
        note(Record(matrix.shape, known.damping, damping), report)
        if not apart:
            return grid.placed(place)
        # A gap of more than 255 needs an entry in between: at most one for 255 inputs.
        capacity = apart + matrix.shape[1] // ((1 << GAP_BITS) - 1)
        rest = sparse_rows(spare, gap_bits=GAP_BITS, capacity=capacity, dtype=dtype)
        return Sum((grid.placed(place), rest.placed(place)))

    return Transform(compress, second_moment, "spqr")


@functools.partial(jax.jit, static_argnums=(2, 3))
def _chosen(w, known, format, count):
    """(which weights are apart, or None; scales and zeros as stored)."""
    w = w.astype(jnp.float32)
    apart = None
    if count:
        weight = jnp.zeros_like(known.weight).at[known.columns].set(known.weight)
        weight = grids.in_groups(weight[None, : w.shape[1]], format)[0]
        found = gains(grids.in_groups(w, format), weight, format)
        gain, places = lax.top_k(found.reshape(len(w), -1)[:, : w.shape[1]], count)
        apart = jnp.zeros(w.shape, bool).at[jnp.arange(len(w))[:, None], places].set(gain > 0)
    return apart, grid_of(w, apart, format)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _solve(w, known, apart, kept, format, order, block, dtype):
    w = w.astype(jnp.float32)
    *codes, spare = solve(
        w, known, format, order=order, block=block, clip=False, norm=2.0, kept=kept, apart=apart
    )
    return from_codes(*codes, format, size=w.shape[1], dtype=dtype), spare


def gains(
    w: Float[Array, "out groups group"], weight: Float[Array, "groups group"], format: Format
) -> Float[Array, "out groups group"]:
    """How much the weighted squared error of each group falls when one of its weights is apart."""
    exact = format._replace(scale="float32", zero="float32")
    place = jnp.arange(w.shape[-1])

    def errors(w):
        return weight * (grids.round_to(w, *grids.fit(w, exact), exact)[1] - w) ** 2

    alone = errors(w)  # the gain of a weight that its grid does not end at
    gain, everything = alone, alone.sum(-1, keepdims=True)
    for end in (w.argmin(-1, keepdims=True), w.argmax(-1, keepdims=True)):
        others = place != end
        mean = (w * others).sum(-1, keepdims=True) / max(1, w.shape[-1] - 1)
        rest = (errors(jnp.where(others, w, mean)) * others).sum(-1, keepdims=True)
        gain = jnp.where(others, gain, everything - rest)
    return gain


def grid_of(
    w: Float[Array, "out in"], apart: Bool[Array, "out in"] | None, format: Format
) -> tuple[QTensor | Array, QTensor | Array]:
    """(scales, zeros), as stored, of all groups; those apart are not spanned."""
    if apart is not None:
        w = jnp.where(apart, 0.0, w)  # 0 is spanned by every group
    grouped = grids.in_groups(w, format)
    scales, zeros = grids.fit(grouped, format)
    empty = jnp.abs(grouped).max(-1) == 0
    scales = jnp.where(empty, 0.0, scales)
    scales = jnp.maximum(scales, LEAST_SCALE * scales.max(-1, keepdims=True))
    scales = jnp.where(scales > 0, scales, 1.0)
    scales = _kept(scales, format.scale)
    # Zeros suit the scales that are stored.
    found, _ = read(scales, None, format)
    low = jnp.minimum(grouped.min(-1), 0)
    zeros = -low / found
    if format.zero == "uint8":
        zeros = jnp.round(zeros)
    return scales, _kept(zeros, format.zero)


def _kept(x: Float[Array, "out groups"], how: "str | Format"):
    """As `store` keeps it, but a grid of x spans x alone, where `fit` would span 0 too."""
    if isinstance(how, str) or how.zero in (None, "uint8"):
        return store(x, None, Format(8, scale=how))[0]
    if how.group in (None, -1):
        filled = grids.in_groups(x, how)
    else:
        more = grids.padded_size(x.shape[1], how) - x.shape[1]
        filled = jnp.pad(x, ((0, 0), (0, more)), mode="edge").reshape(len(x), -1, how.group)
    low, high = filled.min(-1), filled.max(-1)
    steps = (1 << how.bits) - 1
    scale = jnp.where(high > low, (high - low) / steps, jnp.abs(low))
    scale = jnp.where(scale > 0, scale, 1.0)
    return from_groups(x, how, scales=scale, zeros=-low / scale)
