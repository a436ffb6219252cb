"""Selected: a weight that is zero but for some of its inputs, which alone are held.

    x @ w = x[:, index] @ inner

A term of a sum, for what few inputs need beyond the rest. Inputs are selected rather than outputs,
so that every part keeps the weight's free axes and can be cut, scanned and sharded along them.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.formats.layout import Layout, from_matrix, merged_axis, unmerge
from jaxcomp.formats.leaf import Leaf, is_shared, leaf_class, map_leading, static
from jaxcomp.formats.qtensor import QTensor

SMALL = 1 << 16  # inputs that two bytes count


@leaf_class
class Selected(Leaf):
    """inner  a QTensor of the kept inputs, one after another along the merged axis
    index  which they are, among all inputs: u16 or i32 [..., kept, ...]
    """

    inner: QTensor
    index: Any
    packed: Any = static()

    @property
    def dtype(self) -> Any:
        return self.inner.dtype

    def dense(self) -> jax.Array:
        if not is_shared(self.index, self.packed):
            return map_leading(lambda w: w.dense(), self)  # stacked matrices
        axis = merged_axis(self.packed)
        kept = jnp.moveaxis(self.inner.dense(), axis, -1)
        size = math.prod(size for _, size in self.packed)
        rows = jnp.zeros((*kept.shape[:-1], size), self.dtype)
        rows = rows.at[..., self.index.reshape(-1)].set(kept, unique_indices=True)
        return unmerge(jnp.moveaxis(rows, -1, axis), self.packed)

    def matmul(self, x: jax.Array) -> jax.Array:
        if not is_shared(self.index, self.packed):
            return map_leading(lambda w: w.matmul(x), self, out_axis=1)
        return self.inner.matmul(x[:, self.index.reshape(-1)])

    def describe(self) -> str:
        size = math.prod(size for _, size in self.packed)
        return f"{self.inner.describe()} of {self.inner.packed[0][1]}/{size} inputs"

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        return self.inner.kernel(platform, dtype)

    def placed(self, place: Layout) -> "Selected":
        """From the matrix [out, in] that it is, to where `place` says."""
        merged = ((merged_axis(place.packed), self.inner.packed[0][1]),)
        inner = dataclasses.replace(self.inner.placed(place), packed=merged)
        return Selected(inner, from_matrix(self.index, place), place.packed)


def selected(inner: QTensor, index: jax.Array, size: int) -> Selected:
    """Of a matrix [out, kept] and the index[kept] of its columns among `size`."""
    kind = jnp.uint16 if size <= SMALL else jnp.int32
    return Selected(inner, index.astype(kind)[None], ((-1, size),))
