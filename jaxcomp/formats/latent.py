"""Latent: a weight in training, rounded in every product, whose steps are learned with it.

    dense = s q        q the level nearest to clip(w / s, low, high), s the step of w's group

    d dense / d w = 1 where low < w / s < high, else 0
    d dense / d s = gain * (q - w / s) inside that range, gain * q outside

after Esser et al., Learned step size quantization, ICLR 2020, equations 1 to 3. All parts are
floats, so jax.grad and optax take the leaf as it is; `freeze` makes the packed QTensor of exactly
the same values. Steps are used as the format stores them (bfloat16, say), so both ends agree.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import Layout, from_matrix, merged_axis, unmerge
from jaxcomp.formats.leaf import Leaf, leaf_class, static
from jaxcomp.formats.qtensor import QTensor, from_codes, read, store
from jaxcomp.tree import map_where

LEAST_STEP = 1e-30  # training may push a step to zero or below, where no grid is


class Rule(NamedTuple):
    """How gradients see the grid.

    low, high  of w / s: where w still moves its value
    gain       what the steps' gradients are multiplied by
    codes      whether d dense / d s is q everywhere: the derivative with the codes held still
    """

    low: float
    high: float
    gain: float
    codes: bool = False


@leaf_class
class Latent(Leaf):
    """w and steps as floats, laid out as in a QTensor: [..., in, ...] and [..., groups, ...]."""

    w: Any
    steps: Any
    format: Format = static()
    rule: Rule = static()
    dtype: Any = static()
    packed: Any = static()

    def dense(self) -> jax.Array:
        return unmerge(self._rounded(), self.packed)

    def matmul(self, x: jax.Array) -> jax.Array:
        axis = self.w.ndim + merged_axis(self.packed)
        numbers = (((1,), (axis,)), ((), ()))
        out = jax.lax.dot_general(x, self._rounded(), numbers, preferred_element_type=jnp.float32)
        return out.astype(x.dtype)

    def describe(self) -> str:
        return f"latent {self.format}"

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        return "rounded floats", "it is in training: freeze it"

    def placed(self, place: Layout) -> "Latent":
        """From the matrix [out, in] that it is, to where `place` says."""
        parts = from_matrix(self.w, place), from_matrix(self.steps, place)
        return Latent(*parts, self.format, self.rule, self.dtype, place.packed)

    def freeze(self) -> QTensor:
        """The packed leaf of the same values."""
        if self.format.group is None and self.steps.shape[0] > 1:  # stacked: a step for each matrix
            parts = [jax.tree.map(lambda x, i=i: x[i], self) for i in range(len(self.steps))]
            return jax.tree.map(lambda *x: jnp.stack(x), *[part.freeze() for part in parts])
        axis = merged_axis(self.packed)
        w, steps = jnp.moveaxis(self.w, axis, -1), jnp.moveaxis(self.steps, axis, -1)
        size = w.shape[-1]
        w, steps = w.reshape(-1, size), steps.reshape(-1, steps.shape[-1])
        kept, _ = store(_positive(steps), None, self.format)
        u = _grouped(w, steps, self.format) / _stored(steps, self.format)
        codes = grids.nearest(u, self.format).reshape(w.shape[0], -1)[:, :size]
        leaf = from_codes(codes, kept, None, self.format, size=size, dtype=self.dtype)
        return leaf.placed(self.layout)

    def _rounded(self) -> jax.Array:
        """Like w: what the floats stand for, with the gradients of the rule."""
        axis = merged_axis(self.packed)
        w, steps = jnp.moveaxis(self.w, axis, -1), jnp.moveaxis(self.steps, axis, -1)
        found = learned(_grouped(w, steps, self.format), steps, self.rule, self.format)
        found = found.reshape(*w.shape[:-1], -1)[..., : w.shape[-1]]
        return jnp.moveaxis(found, -1, axis).astype(self.dtype)


def learned(
    w: Float[Array, "*rows groups group"],
    steps: Float[Array, "*shared groups"],
    rule: Rule,
    format: Format,
) -> Float[Array, "*rows groups group"]:
    """The values of w on the grid, as a packed leaf has them, with the gradients of a rule."""
    s = _stored(steps, format)
    u = stop_gradient(w / s)
    level = grids.value(grids.nearest(u, format), format)
    inside = (u > rule.low) & (u < rule.high)
    by_step = level if rule.codes else level - jnp.where(inside, u, 0)
    seen = jnp.where(inside, w, 0) + rule.gain * by_step * s
    # What is seen adds only its gradient: the value stays that of the packed leaf, bit for bit.
    return stop_gradient(level * s) + (seen - stop_gradient(seen))


def latent(
    w: Float[Array, "out in"],
    format: Format,
    rule: Rule,
    steps: Float[Array, "shared groups"],
    dtype: Any,
) -> Latent:
    """A matrix as Latent, of steps per group of the format; dtype is that of the dense weight."""
    return Latent(w, _positive(steps), format, rule, jnp.dtype(dtype), ((-1, w.shape[1]),))


def in_symmetric_groups(w: Float[Array, "out in"], format: Format) -> Float[Array, "rows groups n"]:
    """The matrix in groups of a format. UnsupportedInput for one with zeros: none are learned."""
    if format.zero is not None:
        raise UnsupportedInput(
            f"expected a symmetric format, got {format}; choose one without zeros, INT4 say"
        )
    grouped = grids.in_groups(w, format)
    return grouped[..., : w.shape[1]] if format.group == -1 else grouped


def freeze(tree: Any) -> Any:
    """The tree with packed leaves in place of those in training: the same values in few bytes."""
    return map_where(lambda _, leaf: _freeze(leaf), tree, lambda _, leaf: isinstance(leaf, Latent))


_freeze = jax.jit(Latent.freeze)


def _positive(steps: jax.Array) -> jax.Array:
    return jnp.maximum(steps, LEAST_STEP)


def _stored(steps: jax.Array, format: Format) -> jax.Array:
    """[*shared, groups] -> [*shared, groups, 1]: the steps as read back, straight through."""
    rows = _positive(stop_gradient(steps)).reshape(-1, steps.shape[-1])
    kept, _ = read(*store(rows, None, format), format)
    return (kept.reshape(steps.shape) + (steps - stop_gradient(steps)))[..., None]


def _grouped(w: jax.Array, steps: jax.Array, format: Format) -> jax.Array:
    """[..., in] -> [..., groups, group], filled up with zeros."""
    groups = steps.shape[-1]
    size = w.shape[-1] if groups == 1 else groups * format.group
    w = jnp.pad(w, [(0, 0)] * (w.ndim - 1) + [(0, size - w.shape[-1])])
    return w.reshape(*w.shape[:-1], groups, -1)
