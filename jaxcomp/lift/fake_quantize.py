"""fake_quantize(fn): the same function, rounding its weights and what multiplies them.

    value = the nearest level of the grid that spans each group
    d value / d w = 1 where w is within the grid, half a step beyond its ends included; else 0

the straight-through estimator of Bengio et al., Estimating or propagating gradients through
stochastic neurons, 2013, section 4, with clipped ranges as by Jacob et al., Quantization and
training of neural networks, CVPR 2018, section 3. Weights are rounded along the axes that products
with them sum over, exactly as jc.weights.rtn(format) will round them. Activations are rounded as
they come: each vector that is summed over is a row.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import from_matrix, to_matrix, unmerge
from jaxcomp.formats.qtensor import read, store
from jaxcomp.lift import convolution
from jaxcomp.lift.observe import Observation
from jaxcomp.lift.replace import Plain, around_weights

Rule = Callable[[jax.Array], jax.Array]
HALF = 0.5  # a step: what is no further beyond the end of a grid is still rounded, not clipped


def fake_quantize(
    fn: Callable[..., Any],
    *,
    weights: Format | Rule | None = None,
    activations: Format | Rule | None = None,
    where: Callable[[str, Any], bool] | None = None,
) -> Callable[..., Any]:
    """fn, whose first argument are params, as it will be once it is quantised; differentiable.

    weights      a Format, or your own rule f32[rows, in] -> the same, with its own gradient
    activations  the same, for what multiplies weights: rows are tokens, or patches of a convolution
    where        (path, leaf) -> bool: which weights; by default every one that fn multiplies

    Compressed leaves in params, those in training included, stay as they are; what multiplies them
    is rounded too. Raises UnsupportedInput where nothing is to be rounded, or selected.
    """
    if weights is None and activations is None:
        raise UnsupportedInput(
            "expected weights or activations to round, got neither; pass weights=jc.formats.INT4"
        )

    for how in (weights, activations):
        if not (how is None or isinstance(how, Format) or callable(how)):
            raise UnsupportedInput(
                f"expected a jc.formats.Format, or a rule f32[rows, in] -> the same, got {how!r}; "
                "pass jc.formats.INT4, say"
            )

    def prepare(w: jax.Array, seen: Observation) -> jax.Array:
        return w if weights is None else _stacked(w, weights, seen.packed, seen.leading)

    return around_weights(
        fn,
        lambda: _Rounding(activations),
        where=where,
        prepare=prepare,
        leaves=activations is not None,
    )


def rounded(x: jax.Array, how: Format | Rule, axes: tuple[int, ...]) -> jax.Array:
    """x, rounded in groups along `axes`; gradients go straight through, or as a rule has them."""
    matrix, place = to_matrix(x, axes)
    rule = _straight_through(how) if isinstance(how, Format) else how
    return unmerge(from_matrix(rule(matrix), place), place.packed)


def _straight_through(format: Format) -> Rule:
    grid = grids.levels(format)
    grid = grid[np.isfinite(grid)]
    low, high = float(grid.min()) - HALF, float(grid.max()) + HALF

    def rule(matrix: Float[Array, "rows in"]) -> Float[Array, "rows in"]:
        w = grids.in_groups(matrix.astype(jnp.float32), format)
        kept = store(*grids.fit(stop_gradient(w), format), format)
        scales, zeros = read(*kept, format)
        _, near = grids.round_to(stop_gradient(w), scales, zeros, format)
        u = stop_gradient(w) / scales[..., None] + (0 if zeros is None else zeros[..., None])
        free = jnp.where((u >= low) & (u <= high), w, 0)
        # What is free adds its gradient and nothing else: the value is that of a packed leaf.
        out = near + (free - stop_gradient(free))
        if format.group is None:
            return out.reshape(matrix.shape).astype(matrix.dtype)
        return out.reshape(matrix.shape[0], -1)[:, : matrix.shape[1]].astype(matrix.dtype)

    return rule


def _stacked(w: jax.Array, how: Format | Rule, axes: tuple[int, ...], leading: int) -> jax.Array:
    """Each matrix of a stack by itself, as compress takes them."""
    if leading:
        return jax.vmap(lambda w: _stacked(w, how, axes, leading - 1))(w)
    return rounded(w, how, axes)


class _Rounding(Plain):
    """The handler that rounds what meets the weights, which are rounded already."""

    def __init__(self, how: Format | Rule | None):
        super().__init__()
        self.how = how

    def _operand(self, x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
        return x if self.how is None else rounded(x, self.how, axes)

    def product(self, view, x, plan, equation):
        (left, right), _ = equation.params["dimension_numbers"]
        return super().product(
            view, self._operand(x, tuple(right if plan.first else left)), plan, equation
        )

    def convolution(self, view, x, equation):
        summed = convolution.summed_axes(view, equation.params)
        if self.how is None or isinstance(summed, str):
            return super().convolution(view, x, equation)
        rows, finish = convolution.patches(view, x, equation.params, summed)
        matrix, place = to_matrix(view.source.dense().astype(view.dtype), summed)
        out = jnp.matmul(self._operand(rows, (1,)), matrix.T)
        out = out.reshape(-1, *(place.shape[axis] for axis in place.free))
        return finish(out).astype(equation.outvars[0].aval.dtype)

    def ragged(self, view, x, sizes, equation):
        return super().ragged(view, self._operand(x, (-1,)), sizes, equation)
