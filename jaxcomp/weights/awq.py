"""AWQ: inputs that are large on average have their weights scaled up before they are rounded.

    x @ w = (x / s) @ (s * w),   s = m^rho / sqrt(max m^rho * min m^rho),   m_j = rms of x_j

A weight times s has its rounding error divided by s, as long as the scale of its group stays. rho
is searched over `grid` values from 0 (rounding as it is) on, for the least squared error of the
output on what was observed, tr((W - Q) M (W - Q)^T) with M = sum x x^T. Then the range of each
group is shrunk where that helps the same error, weighted by the diagonal of M.

Lin et al., AWQ, arXiv:2306.00978, section 3.2, equations 4 and 5. We differ: the error is that of
the leaf's own output, not of the block that it is in, so that it works on any function; m is the
root mean square and not the mean of |x|, so that M alone serves; the clipped range is kept for the
outputs whose error under all of M it lowers; 1 / s multiplies x at the product. `awq_folded` puts
it into the operations before, where it can.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT4_G32
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.qtensor import from_groups
from jaxcomp.formats.transformed import activation_format, with_activation
from jaxcomp.lift.call import named
from jaxcomp.lift.statistics import part, second_moment
from jaxcomp.weights.basis import as_method, in_basis, needs, output_error
from jaxcomp.weights.fold import fold
from jaxcomp.weights.rtn import clipped, rtn

# Outputs that the search looks at: the error is a sum over them, and more change no choice.
OUTPUTS = 1024
# Of the mean rms: inputs below it were as good as never active, and keep their scale. Smaller, they
# would be lost if they are active later; larger, they would widen the range of their group.
LEAST = 1e-3


def awq(
    method: Transform | Format,
    *,
    grid: int = 20,
    clip: bool = True,
    activation: str | Format | None = None,
) -> Transform:
    """Needs second moments. A method inside is run for each candidate; clip is for a Format.

    grid  how many values of rho from 0 on, 1 / grid apart; 1 leaves only rho = 0: the clipping, and
          no scale in the leaf
    """
    if grid < 1:
        raise UnsupportedInput(f"expected grid >= 1, got {grid}; 20 is the paper's")
    final = _clipping(method) if clip and isinstance(method, Format) else as_method(method)
    method = as_method(method)
    if activation is not None:
        activation_format(activation)
    statistic, split = needs(second_moment, method.statistic)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        moment, inner = split(statistics)
        if grid == 1:
            state = moment if final.statistic is not None else None
            return with_activation(final.compress(matrix, state, (-1,)), activation).placed(place)
        some = matrix[:: -(-matrix.shape[0] // OUTPUTS)]
        scales = _input_scales(moment["moment"], moment["count"], grid)
        errors = []
        for input_scale in scales:
            leaf = in_basis(some, method, inner, input_scale=input_scale)
            errors.append(_error(leaf, some, moment["moment"]))
        best = scales[jnp.argmin(jnp.stack(errors))]
        state = moment if final.statistic is not None else None
        leaf = in_basis(matrix, final, state, input_scale=best)
        return with_activation(leaf, activation).placed(place)

    return Transform(compress, statistic, f"awq {method.name}")


def awq_folded(
    fn: Callable[..., Any],
    params: Any,
    batch: Any,
    *,
    stats: Any,
    method: Transform | Format = INT4_G32,
    grid: int = 20,
) -> tuple[Any, Any]:
    """(params, stats) whose weights are scaled for rounding by `method`, and fn as it was.

    Scales are folded into the norms, projections and biases before (weights/fold.py), where fn has
    any. Weights that read the same channels share them: rho is that of the least error of all
    together, as in the paper. compress the result with any method, awq(method, grid=1) to clip too;
    nothing is left to multiply at run time.

    batch   one as observe takes them. Only its shapes count: one short sequence is best
    stats   second moments of params; those that come back are of the new ones
    """
    if grid < 1:
        raise UnsupportedInput(f"expected grid >= 1, got {grid}; 20 is the paper's")
    method = as_method(method)

    def choose(readers):
        moments = [part(second_moment, r.state) for r in readers]
        for r, m in zip(readers, moments, strict=True):
            if m is None:
                raise UnsupportedInput(
                    f"{named(r.path)}: expected second moments of what it multiplies, got others; "
                    "pass stats=jc.observe(fn, params, batches)"
                )
        channels = np.unique(np.concatenate([r.channels for r in readers]))
        channels = channels[channels >= 0]
        power = jnp.zeros(channels.max() + 1)
        for r, m in zip(readers, moments, strict=True):
            own = jnp.where(r.channels >= 0, jnp.diag(m["moment"]) / jnp.maximum(m["count"], 1), 0)
            power = power.at[np.maximum(r.channels, 0)].max(own)
        scales = _candidates(power[channels], grid)  # [grid, channels]
        wide = jnp.ones((grid, power.size)).at[:, channels].set(scales)
        errors = jnp.zeros(grid)
        for r, m in zip(readers, moments, strict=True):
            own = jnp.where(r.channels >= 0, wide[:, np.maximum(r.channels, 0)], 1)
            some = r.matrix[:: -(-r.matrix.shape[0] // OUTPUTS)]
            try:
                leaves = (in_basis(some, method, m, input_scale=scale) for scale in own)
                errors += jnp.stack([_error(leaf, some, m["moment"]) for leaf in leaves])
            except UnsupportedInput as error:
                raise UnsupportedInput(f"{named(r.path)}: {error}") from error
        return channels, scales[jnp.argmin(errors)]

    return fold(fn, params, batch, stats, choose)


@functools.partial(jax.jit, static_argnames="grid")
def _input_scales(
    moment: Float[Array, "in in"], count: Float[Array, ""], grid: int
) -> Float[Array, "grid in"]:
    """1 / s of each rho, in bfloat16, as it is kept."""
    return _candidates(jnp.diag(moment) / jnp.maximum(count, 1), grid).astype(jnp.bfloat16)


@functools.partial(jax.jit, static_argnames="grid")
def _candidates(power: Float[Array, " in"], grid: int) -> Float[Array, "grid in"]:
    """1 / s of each rho, of the mean x^2; 1 for silent channels."""
    rms = jnp.sqrt(power)
    active = rms > LEAST * rms.mean()
    largest = jnp.where(rms.max() > 0, rms.max(), 1.0)
    s = jnp.where(active, rms, largest) ** (jnp.arange(grid)[:, None] / grid)
    s = s / jnp.sqrt(s.max(1, keepdims=True) * s.min(1, keepdims=True))
    return jnp.where(active, 1 / s, 1.0)


@jax.jit
def _error(leaf, w, moment):
    return output_error(w.astype(jnp.float32) - leaf.dense().astype(jnp.float32), moment).sum()


def _clipping(format: Format) -> Transform:
    """Rounding to nearest with ranges shrunk by the diagonal of M, for outputs where that helps."""

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        return _clip(matrix, statistics["moment"], format).placed(place)

    return Transform(compress, second_moment, rtn(format).name)


@functools.partial(jax.jit, static_argnums=2)
def _clip(w, moment, format):
    grouped = grids.in_groups(w, format)
    weight = grids.in_groups(jnp.broadcast_to(jnp.diag(moment), w.shape), format)
    ranges = [grids.fit(grouped, format), clipped(grouped, format, norm=2.0, weight=weight)]

    def error(scales, zeros):
        leaf = from_groups(w, format, scales=scales, zeros=zeros)
        by_row = output_error(w - leaf.dense(), moment)
        return by_row.sum(keepdims=True) if format.group is None else by_row

    plain, tight = (error(*each) for each in ranges)
    better = (tight < plain)[:, None]
    scales, zeros = (
        None if old is None else jnp.where(better, new, old)
        for old, new in zip(*ranges, strict=True)
    )
    return from_groups(w, format, scales=scales, zeros=zeros)
