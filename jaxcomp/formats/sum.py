"""Sum: a weight that several compressed leaves add up to, W = Q + A B, or Q + Q' + Q''.

What is multiplied is each term on its own, so every term keeps its kernel.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.formats.layout import Layout, Packed
from jaxcomp.formats.leaf import Leaf, leaf_class


@leaf_class
class Sum(Leaf):
    """terms: leaves of one shape, packed along the same axes; the first gives the dtype."""

    terms: tuple[Leaf, ...]

    @property
    def packed(self) -> Packed:
        return self.terms[0].packed

    @property
    def dtype(self) -> Any:
        return self.terms[0].dtype

    def dense(self) -> jax.Array:
        return _added([term.dense() for term in self.terms], self.dtype)

    def matmul(self, x: jax.Array) -> jax.Array:
        """Products are in x's dtype, as kernels return them; they are added in float32."""
        return _added([term.matmul(x) for term in self.terms], x.dtype)

    def describe(self) -> str:
        return " + ".join(term.describe() for term in self.terms)

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        names, reasons = zip(*(term.kernel(platform, dtype) for term in self.terms), strict=True)
        return " + ".join(dict.fromkeys(names)), next(filter(None, reasons), "")

    def placed(self, place: Layout) -> "Sum":
        """From the matrix [out, in] that it is, to where `place` says."""
        return Sum(tuple(term.placed(place) for term in self.terms))


def _added(arrays: list[jax.Array], dtype: Any) -> jax.Array:
    total = functools.reduce(operator.add, (a.astype(jnp.float32) for a in arrays))
    return total.astype(dtype)
