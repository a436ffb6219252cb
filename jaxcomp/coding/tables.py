"""Floats become integers here, once: probabilities -> frequencies that sum to 2**precision.

The best integer frequencies minimise -sum p log2 f. They are what a greedy allocation finds that
starts at f = 1 everywhere and gives unit after unit to the symbol whose gain p ln(1 + 1/f) is
largest: a divisor method with divisor d(f) = 1 / ln(1 + 1/f). So the whole allocation is one
threshold: f = 1 + #{j >= 1 : d(j) <= s p}, with s found by bisection. With z = f + 1/2,

    d(f) = z - 1/(12 z) - 1/(180 z**3) + O(z**-5)

Everything is done in uint32 on the bits of the float32 probabilities: no rounding depends on a
platform, a compiler or the order of a sum, and the host's tables equal those built under jit.

`directory` makes decoding two gathers: bucket b of 16 slots stores the symbol before the first
interval that starts in it (mod 2**16), above a mask of the slots where an interval starts. Then

    symbol = base + popcount(mask & (2 << slot % 16) - 1)
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32, UInt32

from jaxcomp.base import JaxcompError
from jaxcomp.coding.layout import as_int32

# Directories above this many entries (16 MiB) cost more cache misses than a search costs compares.
DIRECTORY_LIMIT = 1 << 22
HOST_LIMIT = 1 << 20  # probabilities that NumPy turns into tables faster than XLA compiles


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Tables:
    """Integer probability tables, one row per context, and what decoding looks up.

    entries    u32[tables, symbols], (frequency - 1) << 16 | cumulative frequency; a row of
               frequencies sums to 2**precision and each is at least 1
    directory  u32[tables, 2**(precision - 4)], the symbol of each slot; None: search the row
    offset     i32[tables], the value that column 0 stands for
    precision  static int; escape: static bool, whether the last column announces an escape
    """

    entries: UInt32[Array, "tables symbols"]
    directory: UInt32[Array, "tables buckets"] | None
    offset: Int32[Array, " tables"]
    precision: int
    escape: bool

    @property
    def frequencies(self) -> UInt32[Array, "tables symbols"]:
        """The integer frequencies; probabilities are these over 2**precision."""
        return (self.entries >> 16) + 1

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """The arrays by name, and what is static."""
        names = "entries", "directory", "offset"
        arrays = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names]
        return arrays, (self.precision, self.escape)

    @classmethod
    def tree_unflatten(cls, static: Any, arrays: Any) -> "Tables":
        """Of any leaves: jax also puts shapes, axes and names where arrays are."""
        tables = object.__new__(cls)
        values = (*arrays, *static)
        for name, value in zip(cls.__dataclass_fields__, values, strict=True):
            object.__setattr__(tables, name, value)
        return tables


def build_tables(
    pmf: Float[Array | np.ndarray, "*tables symbols"],
    *,
    precision: int = 16,
    offset: int | Int[Array | np.ndarray, " tables"] = 0,
    escape: bool = False,
) -> Tables:
    """Integer tables for probabilities pmf: float[tables, symbols] (or [symbols]: one table).

    pmf need not be normalised. offset is the value of column 0, one for all tables or one each.
    With escape, the last column is the probability that a value lies outside the table, and any
    int32 can be coded. Under a trace the integers are the same as on the host for the same
    float32 pmf, but bad probabilities cannot be reported there: NaN, infinite and negative ones
    count as zero.

    Raises JaxcompError for NaN, infinite, negative or all-zero rows, for no symbols, and for more
    symbols than 2**precision.
    """
    pmf = pmf[None] if pmf.ndim == 1 else pmf
    if pmf.ndim != 2:
        raise JaxcompError(f"pmf must be [tables, symbols] or [symbols], got shape {pmf.shape}")
    tables, symbols = pmf.shape
    _check_shape(tables, symbols, precision, escape)
    with_directory = precision >= 4 and tables << (precision - 4) <= DIRECTORY_LIMIT
    if isinstance(pmf, jax.core.Tracer):
        entries, directory = _build(pmf.astype(jnp.float32), precision, with_directory, jnp)
    else:
        pmf = _check_values(np.asarray(pmf))
        # A small table is built before a program for it would be compiled.
        build = functools.partial(_build, xp=np) if pmf.size <= HOST_LIMIT else _compiled
        entries, directory = build(pmf, precision, with_directory)
    offset = as_int32(offset if hasattr(offset, "dtype") else np.asarray(offset), "offset")
    if offset.shape not in ((), (tables,)):
        raise JaxcompError(f"expected one offset or {tables}, got shape {offset.shape}")
    xp = np if isinstance(offset, np.ndarray) else jnp
    # Not asarray, which compiles a program for every shape.
    arrays = jax.device_put((entries, directory, xp.broadcast_to(offset, (tables,))))
    return Tables(*arrays, precision, escape)


def with_certain(tables: Tables, row: int | None = None) -> Tables:
    """The tables with one in which column 0 has probability exactly 1: coding it changes nothing.

    It takes the place of `row`, or follows the others, and stands for 0. build_tables gives every
    symbol a frequency of at least 1; in this table all symbols but the first can never occur.
    Raises JaxcompError for tables that have no directory: searching would find the others.
    """
    if tables.directory is None:
        raise JaxcompError("expected tables with a directory; use precision 4 or more, fewer rows")
    more = (0, int(row is None))
    row = -1 if row is None else row
    entries = np.pad(np.asarray(tables.entries), (more, (0, 0)))
    entries[row] = ((1 << tables.precision) - 1) << 16
    directory = np.pad(np.asarray(tables.directory), (more, (0, 0)))
    directory[row] = 0
    directory[row, 0] = 0xFFFF0001  # the symbol of slot 0 is that of every slot
    offset = np.pad(np.asarray(tables.offset), more)
    offset[row] = 0
    arrays = jax.device_put((entries, directory, offset))
    return Tables(*arrays, tables.precision, tables.escape)


def _check_shape(tables: int, symbols: int, precision: int, escape: bool) -> None:
    if not 1 <= precision <= 16:
        raise JaxcompError(f"precision must be 1 to 16 bits, got {precision}")
    if tables < 1 or symbols < 1 + escape:
        raise JaxcompError(
            f"pmf must hold at least one table of {1 + escape} symbols, got [{tables}, {symbols}]"
        )
    if symbols > 1 << precision:
        raise JaxcompError(
            f"{symbols} symbols need a frequency each, but precision={precision} has only "
            f"{1 << precision}; use fewer symbols with escape=True, or more precision"
        )


def _check_values(pmf: np.ndarray) -> np.ndarray:
    """The rows scaled so that float32 holds them, or a named error."""
    wide = pmf.astype(np.float64)
    if pmf.dtype != np.float64:
        # Subnormal float32 are zero, as they are under a trace.
        wide = np.where(np.abs(wide) < np.finfo(np.float32).tiny, 0.0, wide)
    peak = wide.max(axis=1)
    bad = ~(np.isfinite(wide) & (wide >= 0)).all(axis=1) | ~(peak > 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise JaxcompError(
            "probabilities must be finite, non-negative and not all zero; "
            f"table {row} holds {np.array2string(wide[row], threshold=8)}"
        )
    # A power of two changes no mantissa, so the integers are those of the unscaled float32.
    return np.ldexp(wide, -np.frexp(peak)[1][:, None]).astype(np.float32)


def _build(pmf, precision, with_directory, xp):
    freq = allocate(pmf, precision, xp)
    start = xp.cumsum(freq, axis=1, dtype=xp.uint32) - freq
    entries = (freq - 1) << 16 | start
    return entries, _directory(start, precision, xp) if with_directory else None


@functools.partial(jax.jit, static_argnums=(1, 2))
def _compiled(pmf, precision, with_directory):
    return _build(pmf, precision, with_directory, jnp)


def allocate(
    pmf: Float[Array | np.ndarray, "tables symbols"], precision: int, xp: Any = jnp
) -> UInt32[Array | np.ndarray, "tables symbols"]:
    """Frequencies that minimise -sum p log2 f, subject to sum f = 2**precision and f >= 1.

    pmf is float32; xp is the array module that does the work, jax.numpy or numpy.
    """
    tables, symbols = pmf.shape
    weight = _fixed_point(pmf, xp)
    total = np.uint32(1 << precision)

    def fits(freq):
        # Sums of f - 1 stay below 2**32; a single f above the total is caught by itself.
        spent = (freq - 1).sum(1, dtype=xp.uint32)
        return (freq <= total).all(1) & (spent <= total - np.uint32(symbols))

    def bisect(bit, scale):
        probe = scale | xp.uint32(1) << (31 - bit)
        return xp.where(fits(_count(weight, probe, xp)), probe, scale)

    bits = xp.arange(32, dtype=xp.uint32)
    scale = xp.zeros(tables, xp.uint32)
    if xp is np:
        for bit in bits:
            scale = bisect(bit, scale)
    else:
        scale, _ = lax.scan(lambda scale, bit: (bisect(bit, scale), None), scale, bits)
    freq = _count(weight, scale, xp)
    # One step further some symbols would gain a unit: the first of them take what is left.
    more = _count(weight, scale + np.uint32(1), xp) > freq
    left = total - freq.sum(1, dtype=xp.uint32)
    rank = xp.cumsum(more, axis=1, dtype=xp.uint32)
    return freq + (more & (rank <= left[:, None]))


def _fixed_point(pmf, xp):
    """float32 -> uint32 in units of 2**-32 of the row's largest power of two, by its bits."""
    bits = pmf.view(xp.uint32)
    # Denormals are zero (XLA flushes them), and so are the negative and NaN that a trace lets by.
    bits = xp.where((bits >> 23 == 0) | (bits >= 0x7F800000), 0, bits)
    exponent = bits >> 23
    shift = exponent.max(axis=1, keepdims=True) - exponent
    mantissa = xp.where(bits == 0, 0, (bits & 0x7FFFFF) << 8 | np.uint32(1 << 31))
    weight = xp.where(shift < 32, mantissa >> xp.minimum(shift, 31), 0)
    return xp.where((bits == 0).all(1, keepdims=True), np.uint32(1 << 31), weight)


def _count(weight, scale, xp):
    """1 + the number of j >= 1 with d(j) <= y, where y = weight * scale in units of 2**-15."""
    y = _multiply_high(weight, scale[:, None])
    # d(j) lies in (j + 0.44, j + 0.5), so the count is the whole part of y - 1/4 or one less.
    j = xp.where(y < 8192, 0, (y - 8192) >> 15)
    odd = 2 * xp.clip(j, 1, 1 << 16) + 1
    # In units of 2**-15: 1 / (12 z) = 5461 / odd and 1 / (180 z**3) = 1456 / odd**3.
    cube = xp.where(odd < 1024, odd * odd * odd, xp.uint32(1 << 30))
    divisor = (j << 15) + 16384 - 5461 // odd - 1456 // cube
    return 1 + j - ((j > 0) & (y < divisor))


def _multiply_high(a, b):
    """The upper 32 bits of a 32 x 32 bit product, in uint32."""
    a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    middle = a_high * b_low + (a_low * b_low >> 16)
    return a_high * b_high + (middle >> 16) + ((middle & 0xFFFF) + a_low * b_high >> 16)


def _directory(start, precision, xp):
    """u32[tables, 2**(precision - 4)]: base symbol << 16 | starts, for every 16 slots."""
    tables = start.shape[0]
    row = xp.arange(tables)[:, None]
    starts = xp.zeros((tables, 1 << (precision - 4)), xp.uint32)
    bit = xp.uint32(1) << (start & 15)
    if xp is np:
        np.add.at(starts, (row, start >> 4), bit)
        count = np.bitwise_count(starts).astype(np.uint32)
    else:
        starts = starts.at[row, start >> 4].add(bit)
        count = lax.population_count(starts)
    before = xp.cumsum(count, axis=1, dtype=xp.uint32) - count
    return before - np.uint32(1) << 16 | starts
