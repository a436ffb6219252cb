"""double_rounding: one store of 8 bits, and views of it at 2 to 8 bits by a rounding shift.

    code_b = clip(round(code_8 / 2^(8 - b)), -2^(b - 1), 2^(b - 1) - 1)
    scale_b = scale_8 * sum(code_8 code_b) / sum(code_b^2), over the values that share a scale

`at_bits` makes a view from the store alone, in integers but for its scales. A tie goes to the even
code, so a view of -w is minus the view of w, but at the most negative code. Without `refit` the
scale is scale_8 * 2^(8 - b), and nothing is summed.

Nearly Lossless Adaptive Bit Switching (Double Rounding), arXiv:2502.01199, section 3.2. We differ:
there every b has scales of its own, learned with the codes and stored; here they are those of least
squares, and nothing is stored for them. `train_widths` trains the codes. Rounding twice costs most
where few bits are dropped: at 7 bits half of all values are ties, and the squared error is 1.7
times that of rounding once.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, Int32, Num

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT8
from jaxcomp.formats.layout import merged_axis
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.formats.transformed import Transformed
from jaxcomp.kernels import packing
from jaxcomp.weights.options import check_whole
from jaxcomp.weights.rtn import rtn

STORED = 8  # bits of the store


def double_rounding(format: Format = INT8) -> Transform:
    """Data-free. The store: a QTensor of signed integers of 8 bits, for `at_bits` to view."""
    grids.check(format)
    if not is_store(format):
        raise UnsupportedInput(
            f"expected signed integers of 8 bits with scales of a float dtype, got {format}; pass "
            "jc.formats.INT8, or INT8_G128"
        )
    return Transform(rtn(format).compress, None, "double_rounding")


def at_bits(tree: Any, bits: int, *, refit: bool = True) -> Any:
    """The tree, or the one leaf, with every store of 8 bits viewed at `bits`, from 2 to 8.

    Leaves of signed 8-bit integers are viewed, also in another basis (formats/transformed.py);
    all else is as it was. UnsupportedInput where there is nothing to view. Works under jit.
    """
    check_whole(2, STORED, bits=bits, advice="choose among these")
    seen = []

    def each(leaf):
        if isinstance(leaf, Transformed):
            return dataclasses.replace(leaf, inner=each(leaf.inner))
        if not isinstance(leaf, QTensor) or not is_store(leaf.format):
            return leaf
        seen.append(leaf)
        return leaf if bits == STORED else _view(leaf, bits, refit)

    made = jax.tree.map(each, tree, is_leaf=lambda x: isinstance(x, Leaf))
    if not seen:
        raise UnsupportedInput(
            "expected leaves of signed integers of 8 bits, got none; compress with "
            "jc.weights.double_rounding() first"
        )
    return made


def shifted(codes: Int8[Array, "*shape"], bits: int) -> Int32[Array, "*shape"]:
    """round(codes / 2^(8 - bits)), ties to even, in the range of signed integers of `bits`."""
    drop, wide = STORED - bits, codes.astype(jnp.int32)
    if drop:
        odd = wide >> drop & 1
        wide = (wide + (1 << drop - 1) - 1 + odd) >> drop
    return jnp.clip(wide, -(1 << bits - 1), (1 << bits - 1) - 1)


def is_store(format: Format) -> bool:
    """Whether codes of it are signed integers of 8 bits, with scales of a float dtype."""
    plain = isinstance(format.scale, str) and format.scale != "e8m0"
    kind = (format.bits, format.table, format.zero, format.offset)
    return kind == (STORED, None, None, INT8.offset) and plain


@functools.partial(jax.jit, static_argnums=(1, 2))
def _view(leaf: QTensor, bits: int, refit: bool) -> QTensor:
    axis, size = merged_axis(leaf.packed), leaf.layout.size_in
    format = leaf.format._replace(bits=bits, offset=1 << bits - 1, tile=0)
    format = grids.with_tile(format, size)
    padded = -(-grids.padded_size(size, format) // format.tile) * format.tile
    filled = [(0, 0)] * leaf.codes.ndim
    filled[axis] = (0, padded - size)
    stored = jnp.pad(jax.lax.slice_in_dim(leaf.codes, 0, size, axis=axis), filled)
    codes = shifted(stored, bits)
    step = 2.0 ** (STORED - bits)
    step = fitted_step(stored, codes, leaf.scales.shape, axis, step) if refit else step
    scales = (leaf.scales.astype(jnp.float32) * step).astype(format.scale)
    kept = (codes + format.offset).astype(jnp.uint8)
    kept = packing.pack(kept, bits, axis=axis, tile=format.tile)
    return dataclasses.replace(leaf, codes=kept, scales=scales, format=format)


def fitted_step(
    stored: Num[Array, "*shape"],
    codes: Num[Array, "*shape"],
    shape: tuple[int, ...],
    axis: int,
    plain: float | Float[Array, ""],
) -> Float[Array, "*scales"]:
    """How many steps of the store one of the view stands for, by least squares.

    shape is that of scales; axis, counted from the right, the packed one; plain is for zeros only.
    """
    shared = [i for i, n in enumerate(shape) if n == 1]

    def summed(x):
        place = x.ndim + axis
        grouped = x.reshape(*x.shape[:place], shape[axis], -1, *x.shape[place + 1 :])
        return grouped.sum(place + 1).sum(shared, keepdims=True)

    stored, codes = stored.astype(jnp.float32), codes.astype(jnp.float32)
    square = summed(codes * codes)
    fitted = summed(stored * codes) / jnp.maximum(square, 1)
    return jnp.where(square > 0, fitted, plain)
