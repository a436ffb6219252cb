"""What travels: arrays, with the shape and dtype that they stand for; and cutting into blocks.

A wire is a pytree, so that collectives, vmap and checkpoints take it as it is. An array becomes a
matrix [blocks, block] of float32, filled up with zeros, where each block has a scale of its own: a
large entry then spoils the entries of its block alone.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, UInt8

from jaxcomp import tree
from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.formats.leaf import check_floating, leaf_class, static
from jaxcomp.kernels import packing

LEAST_BLOCK = 8  # of one bit each: a byte
LARGEST = 2.0**125  # its reciprocal is a float that processors do not take for zero


@leaf_class
class Wire:
    """parts: arrays, all that is sent. shape and dtype of what they stand for are static."""

    parts: Any
    shape: tuple[int, ...] = static()
    dtype: Any = static()

    @property
    def size(self) -> int:
        """Entries that it stands for."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return tree.nbytes(self.parts)


def wire(parts: Any, x: jax.Array) -> Wire:
    """The parts that stand for x."""
    return Wire(parts, x.shape, x.dtype)


def wire_nbytes(compressor: Compressor, x: Any) -> int:
    """Bytes of the wire of an array like x, which may be a ShapeDtypeStruct. Nothing is computed.

    Those of its arrays; what is static in it both sides know from the shape.
    """
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    state = jax.eval_shape(compressor.init, x)
    return tree.nbytes(jax.eval_shape(compressor.compress, key, x, state)[0])


def keeps_nothing(x: Any) -> tuple[()]:
    """init of compressors without a state."""
    return ()


def floats(x: ArrayLike) -> Float32[Array, " size"]:
    """The entries of an array, in float32. UnsupportedInput where it is not of floats."""
    x = jnp.asarray(x)
    check_floating(x, "x")
    return x.astype(jnp.float32).reshape(-1)


def narrowed(x: Float32[Array, "*shape"], dtype: Any) -> Float[Array, "*shape"]:
    """In the dtype that is sent. What is finite stays so: beyond float16, its largest.

    Memories of feedback, else, could grow to what can never be sent.
    """
    if jnp.finfo(dtype).maxexp < jnp.finfo(jnp.float32).maxexp:
        most = float(jnp.finfo(dtype).max)
        x = jnp.where(jnp.isfinite(x), jnp.clip(x, -most, most), x)
    return x.astype(dtype)


def restored(flat: Float[Array, "..."], of: Wire) -> jax.Array:
    """The first entries, as many as the wire stands for, in its shape and dtype."""
    return flat.reshape(-1)[: of.size].reshape(of.shape).astype(of.dtype)


def block_of(size: int, block: int, least: int = LEAST_BLOCK) -> int:
    """The block that an array of `size` is cut into: no longer than it needs."""
    return min(block, max(least, -(-size // least) * least))


def check_block(block: int) -> None:
    """UnsupportedInput for a block that does not fill bytes."""
    if type(block) is not int or block < LEAST_BLOCK or block % LEAST_BLOCK:
        raise UnsupportedInput(
            f"expected block, a multiple of {LEAST_BLOCK}, got {block!r}; 256 is usual"
        )


def blocks(x: ArrayLike, block: int) -> Float32[Array, "blocks block"]:
    """x, flattened and filled up with zeros, as rows of `block`, at least one."""
    flat = floats(x)
    filling = -flat.size % block if flat.size else block
    return jnp.pad(flat, (0, filling)).reshape(-1, block)


def counts(size: int, block: int) -> Float32[np.ndarray, "blocks 1"]:
    """How many entries of each block are no filling, at least 1."""
    first = np.arange(0, max(1, size), block, dtype=np.int64)[:, None]
    return np.clip(size - first, 1, block).astype(np.float32)


def pack_signs(x: Float32[Array, "blocks block"]) -> UInt8[Array, "blocks bytes"]:
    """A bit for each entry, 1 where it is negative."""
    return packing.pack((x < 0).astype(jnp.uint8), 1, axis=-1, tile=x.shape[-1])


def unpack_signs(packed: UInt8[Array, "blocks bytes"]) -> Float32[Array, "blocks block"]:
    """-1 where the bit is 1, else +1."""
    tile = 8 * packed.shape[-1]
    return 1 - 2 * packing.unpack(packed, 1, axis=-1, tile=tile).astype(jnp.float32)


def largest(rows: Float32[Array, "blocks block"]) -> Float32[Array, "blocks 1"]:
    """The largest magnitude of each row; NaN where it cannot be divided by, so that it is seen.

    Asked of every entry: a maximum may pass over NaN, as XLA's does on some processors.
    """
    size = jnp.abs(rows)
    return jnp.where((size <= LARGEST).all(1, keepdims=True), size.max(1, keepdims=True), jnp.nan)


def all_finite(*arrays: jax.Array) -> jax.Array:
    """bool[]: whether no entry of any of them is NaN or infinite."""
    return jnp.array([jnp.isfinite(x).all() for x in arrays]).all()
