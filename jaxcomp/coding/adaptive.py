"""Order-0 adaptive coding of bytes, bits or any small alphabet: no table in the header.

Symbols are coded in blocks, each with the table that the blocks before it count to, starting from
half a count per symbol (Krichevsky and Trofimov, The performance of universal encoding, 1981). The
encoder knows all blocks at once and makes one call; the decoder counts as it goes, in one scan.
All lanes form one group, so that a block is a run of whole steps of it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Int32

from jaxcomp.base import CorruptStream, JaxcompError
from jaxcomp.coding.layout import as_int32
from jaxcomp.coding.rans import encode as encode_symbols
from jaxcomp.coding.rans import pop
from jaxcomp.coding.stream import LANES_PER_GROUP, Stream, check_finished, choose_lanes
from jaxcomp.coding.tables import build_tables

BLOCK = 512  # small enough that the first, uniform block costs little; whole steps of any lanes
PRECISION = 14  # a directory of 1024 entries, rebuilt for every block, stays in the cache
WINDOW = 1 << 23  # float32 counts are exact below 2**24


def encode(
    symbols: Int[Array | np.ndarray, " n"], *, alphabet: int = 256, lanes: int | None = None
) -> Stream:
    """The stream of n symbols in [0, alphabet), at most 128 lanes in one group.

    Raises JaxcompError for symbols outside the alphabet (on concrete input) or another rank.
    """
    if symbols.ndim != 1 or symbols.shape[0] > WINDOW:
        raise JaxcompError(
            f"expected one axis of at most {WINDOW} symbols, got shape {symbols.shape}; split it"
        )
    if lanes is None:
        bits = symbols.shape[0] * np.log2(alphabet) / 2
        lanes = min(LANES_PER_GROUP, choose_lanes(bits))
    if lanes > LANES_PER_GROUP:
        raise JaxcompError(f"lanes must be at most {LANES_PER_GROUP}, one group, got {lanes}")
    symbols = jnp.asarray(as_int32(symbols, "symbols"))
    tables, index = _tables(symbols, alphabet)
    return encode_symbols(tables, symbols, index, lanes=lanes, in_parts=True)


def decode(stream: Stream, count: int, *, alphabet: int = 256) -> Int32[Array, " count"]:
    """The `count` symbols of a stream. Raises CorruptStream on concrete input that is not one."""
    if stream.head.shape[0] != 1:
        raise JaxcompError(f"expected one group of lanes, got {stream.head.shape[0]}")
    if stream.halved is not None:
        raise CorruptStream("expected a stream of adaptive symbols, got one of other tables")
    symbols, rest = _pop(jax.tree.map(jnp.asarray, stream), count, alphabet)
    if not any(isinstance(x, jax.core.Tracer) for x in rest):
        check_finished(rest)
    return symbols


@functools.partial(jax.jit, static_argnums=1)
def _tables(symbols, alphabet):
    blocks = -(-symbols.shape[0] // BLOCK)
    index = jnp.arange(symbols.shape[0], dtype=jnp.int32) // BLOCK
    counts = jnp.zeros((max(blocks, 1), alphabet), jnp.int32).at[index, symbols].add(1)
    before = jnp.cumsum(counts, axis=0) - counts
    return build_tables(before + 0.5, precision=PRECISION), index


@functools.partial(jax.jit, static_argnums=(1, 2))
def _pop(stream, count, alphabet):
    def block(carry, length):
        counts, stream = carry
        tables = build_tables(counts[None] + 0.5, precision=PRECISION)
        symbols, stream = pop(stream, tables, shape=(length,))
        return (counts.at[symbols].add(1), stream), symbols

    carry = (jnp.zeros(alphabet, jnp.int32), stream)
    carry, full = lax.scan(lambda c, _: block(c, BLOCK), carry, None, length=count // BLOCK)
    (_, stream), rest = block(carry, count % BLOCK)
    return jnp.concatenate([full.reshape(-1), rest]), stream
