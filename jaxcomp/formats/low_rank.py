"""LowRank: a weight that is the product of two thin factors, W [out, in] = outer @ inner.

outer [out, rank] lies as the weight does, rank in place of the packed axes. inner [rank, in] is
shared by all outputs: its rank * in values lie along the merged axis, and its free axes have size 1
(or that of stacked matrices). So both follow the rule of every part (leaf.py).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.formats.format import Format, check_storage
from jaxcomp.formats.layout import Layout, from_matrix, merged_axis, unmerge
from jaxcomp.formats.leaf import Leaf, dense, is_shared, leaf_class, map_leading, static
from jaxcomp.formats.qtensor import QTensor, check_concrete, from_groups


@leaf_class
class LowRank(Leaf):
    """outer and inner are arrays, or QTensors; `low_rank` makes one of two matrices."""

    outer: Any
    inner: Any
    dtype: Any = static()
    packed: Any = static()

    @property
    def rank(self) -> int:
        return self.outer.shape[merged_axis(self.packed)]

    def dense(self) -> jax.Array:
        axis = merged_axis(self.packed)
        outer, inner = self._factors()  # [*free, rank], [*shared, rank, in]
        rows = jnp.matmul(outer[..., None, :], inner, precision="highest")[..., 0, :]
        return unmerge(jnp.moveaxis(rows, -1, axis), self.packed).astype(self.dtype)

    def matmul(self, x: jax.Array) -> jax.Array:
        if not all(is_shared(part, self.packed) for part in jax.tree.leaves(self.inner)):
            return map_leading(lambda w: w.matmul(x), self, out_axis=1)  # stacked matrices
        outer, inner = self._factors()
        inner = inner.reshape(inner.shape[-2:])
        thin = jnp.einsum("mi,ri->mr", x, inner, preferred_element_type=jnp.float32)
        return jnp.tensordot(thin, outer, (1, outer.ndim - 1)).astype(x.dtype)

    def _factors(self) -> tuple[jax.Array, jax.Array]:
        """outer [*free, rank] and inner [*shared, rank, in] in float32."""
        size = math.prod(size for _, size in self.packed)
        outer, inner = (
            jnp.moveaxis(dense(each).astype(jnp.float32), merged_axis(self.packed), -1)
            for each in (self.outer, self.inner)
        )
        return outer, inner.reshape(*inner.shape[:-1], -1, size)

    def describe(self) -> str:
        kind = self.outer.dtype if not isinstance(self.outer, QTensor) else self.outer.describe()
        return f"rank {self.rank} {kind}".removesuffix(" per channel")

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        return "two thin products", ""

    def placed(self, place: Layout) -> "LowRank":
        """From the matrix [out, in] that it is, to where `place` says."""
        factors = [_placed(each, place) for each in (self.outer, self.inner)]
        return LowRank(*factors, self.dtype, place.packed)


def low_rank(
    outer: Float[Array, "out rank"],
    inner: Float[Array, "rank in"],
    *,
    factors: Format | Any = jnp.bfloat16,
    dtype: Any = jnp.float32,
) -> LowRank:
    """The matrix outer @ inner, its factors kept as a dtype or rounded to a Format.

    A Format has one scale per output of outer, and one per row of inner: its group is not used.
    """
    check_storage(factors)
    check_concrete(outer, "outer")
    check_concrete(inner, "inner")
    size = inner.shape[1]
    flat = inner.reshape(1, -1)
    if isinstance(factors, Format):
        outer = from_groups(outer, factors._replace(group=-1))
        flat = from_groups(flat, factors._replace(group=size))
    else:
        outer, flat = outer.astype(factors), flat.astype(factors)
    return LowRank(outer, flat, jnp.dtype(dtype), ((-1, size),))


def _placed(factor: Any, place: Layout) -> Any:
    if not isinstance(factor, QTensor):
        return from_matrix(factor, place)
    merged = ((merged_axis(place.packed), factor.packed[0][1]),)
    return dataclasses.replace(factor.placed(place), packed=merged)
