"""Transformed: a weight that is packed in another basis of its inputs; products go there first.

    x @ w = round(T(x)) @ inner,   T(x) = (x * input_scale * signs) H / sqrt(in)

Scales, signs and the rotation H (kernels/hadamard.py) are each optional. So is the rounding, of
each row of T(x) to a format, with a scale of that row at that time: W8A8 is a QTensor of INT8 with
activation="int8". Where both sides are integers their products are, and else x is rounded and
multiplied as it is.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT4, INT8
from jaxcomp.formats.layout import Layout, Packed, from_matrix, merged_axis, unmerge
from jaxcomp.formats.leaf import Leaf, is_shared, leaf_class, map_leading, static
from jaxcomp.formats.low_rank import LowRank
from jaxcomp.formats.qtensor import QTensor, read, store
from jaxcomp.formats.sum import Sum
from jaxcomp.kernels import hadamard

# Of the random orthogonal factor of sizes that have no Hadamard matrix: part of the format.
ROTATION_KEY = (0, 0)
# Formats of activations by name. Their scales are made and used at once: nothing is stored.
ACTIVATIONS = {
    "int8": INT8._replace(scale="float32"),
    "int4": INT4._replace(scale="float32"),
}


@leaf_class
class Transformed(Leaf):
    """inner is the weight in the other basis, in the same shape and packed along the same axes.

    input_scale  float [..., in, ...] or None
    signs        a bit for each input, 1 where it changes sign, u8 [..., in / 8, ...] or None
    rotate       whether H is applied
    activation   what rows of T(x) are rounded to: a name of ACTIVATIONS, a Format, or None
    """

    inner: Leaf
    input_scale: Any = None
    signs: Any = None
    rotate: bool = static(default=False)
    activation: "str | Format | None" = static(default=None)

    @property
    def packed(self) -> Packed:
        return self.inner.packed

    @property
    def dtype(self) -> Any:
        return self.inner.dtype

    def dense(self) -> jax.Array:
        axis, place = merged_axis(self.packed), self.inner.layout
        w = self.inner.dense().astype(jnp.float32).transpose(*place.free, *place.axes)
        w = w.reshape(*(place.shape[a] for a in place.free), place.size_in)  # [*free, in]
        if self.rotate:
            w = hadamard.run(w, inverse=True, key=ROTATION_KEY)
        if self.signs is not None:
            w = w * read_signs(jnp.moveaxis(self.signs, axis, -1), place.size_in)
        if self.input_scale is not None:
            w = w * jnp.moveaxis(self.input_scale, axis, -1).astype(jnp.float32)
        return unmerge(jnp.moveaxis(w, -1, axis), self.packed).astype(self.dtype)

    def matmul(self, x: jax.Array) -> jax.Array:
        parts = [part for part in (self.input_scale, self.signs) if part is not None]
        if not all(is_shared(part, self.packed) for part in parts):
            return map_leading(lambda w: w.matmul(x), self, out_axis=1)  # stacked matrices
        vectors = [None if p is None else p.reshape(-1) for p in (self.input_scale, self.signs)]
        x = transform(x, *vectors, rotate=self.rotate)
        return _product(self.inner, x, self.activation)

    def describe(self) -> str:
        added = ["scaled"] * (self.input_scale is not None) + ["rotated"] * self.rotate
        if self.activation is not None:
            added.append(f"x {activation_name(self.activation)}")
        return " / ".join([self.inner.describe(), *added])

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        name, why = self.inner.kernel(platform, dtype)
        if self.activation is None:
            return name, why
        first = self.inner.terms[0] if isinstance(self.inner, Sum) else self.inner
        if self.activation == "int8" and _is_integer(first):
            own = first.kernel(platform, dtype)[0]
            return name.replace(own, f"{own} of integers", 1), why
        return name, why or f"x is rounded to {activation_name(self.activation)} in floats"

    def placed(self, place: Layout) -> "Transformed":
        """From the matrix [out, in] that it is, to where `place` says."""
        vectors = [
            None if part is None else from_matrix(part.reshape(1, -1), place)
            for part in (self.input_scale, self.signs)
        ]
        return Transformed(self.inner.placed(place), *vectors, self.rotate, self.activation)


def transform(
    x: Float[Array, "*m in"],
    input_scale: Float[Array, " in"] | None = None,
    signs: UInt8[Array, " bytes"] | None = None,
    *,
    rotate: bool = False,
) -> Float[Array, "*m in"]:
    """T(x) in x's dtype, computed in float32.

    The rows of a weight [out, in] are taken to the same basis by transform(w / input_scale, None,
    signs, rotate=rotate): T is orthogonal but for the scale.
    """
    y = x.astype(jnp.float32)
    y = y if input_scale is None else y * input_scale.astype(jnp.float32)
    y = y if signs is None else y * read_signs(signs, x.shape[-1])
    y = hadamard.run(y, key=ROTATION_KEY) if rotate else y
    return y.astype(x.dtype)


def read_signs(bits: UInt8[Array, "*m bytes"], size: int) -> Float[Array, "*m in"]:
    """+1 and -1 for each of `size` inputs; jnp.packbits(signs < 0, axis=-1) undoes it."""
    return 1 - 2 * jnp.unpackbits(bits, axis=-1, count=size).astype(jnp.float32)


def rounded(x: Float[Array, "m in"], activation: "str | Format") -> Float[Array, "m in"]:
    """Each row of x on the grid that spans it, or each of its groups. Gradients pass as if not."""
    format = activation_format(activation)
    rows = x.astype(jnp.float32)
    grouped = grids.in_groups(rows, format)
    scales = read(*store(*grids.fit(grouped, format), format), format)
    _, values = grids.round_to(grouped, *scales, format)
    values = values.reshape(x.shape[0], -1)[:, : x.shape[1]]
    return (rows + lax.stop_gradient(values - rows)).astype(x.dtype)


def activation_format(activation: "str | Format") -> Format:
    """The Format of an activation; UnsupportedInput for a name or group that is none."""
    if isinstance(activation, Format) and activation.group is not None:
        return activation
    if activation not in ACTIVATIONS:
        raise UnsupportedInput(
            f"expected an activation format among {', '.join(ACTIVATIONS)}, or a Format with a "
            f"scale per row (group=-1) or per group, got {activation!r}; choose one of these"
        )
    return ACTIVATIONS[activation]


def activation_name(activation: "str | Format") -> str:
    return activation if isinstance(activation, str) else str(activation)


def with_activation(leaf: Leaf, activation: "str | Format | None") -> Leaf:
    """The leaf with its products rounding x, in the basis that its codes are in.

    Terms of a sum each round theirs; thin factors, which are there for precision, do not.
    """
    if activation is None or isinstance(leaf, LowRank):
        return leaf
    activation_format(activation)
    if isinstance(leaf, Sum):
        return Sum(tuple(with_activation(term, activation) for term in leaf.terms))
    if not isinstance(leaf, Transformed):
        return Transformed(leaf, activation=activation)
    if isinstance(leaf.inner, Transformed):
        return dataclasses.replace(leaf, inner=with_activation(leaf.inner, activation))
    return dataclasses.replace(leaf, activation=activation)


def _is_integer(leaf: Leaf) -> bool:
    return isinstance(leaf, QTensor) and leaf.has_integers


def _product(leaf: Leaf, x: jax.Array, activation: "str | Format | None") -> jax.Array:
    """round(x) @ leaf, with x as it is for thin factors."""
    if activation is None or isinstance(leaf, LowRank):
        return leaf.matmul(x)
    if isinstance(leaf, Sum):
        each = [_product(term, x, activation).astype(jnp.float32) for term in leaf.terms]
        return sum(each[1:], each[0]).astype(x.dtype)
    if activation == "int8" and _is_integer(leaf):
        return leaf.matmul_int8(x)
    return leaf.matmul(rounded(x, activation))
