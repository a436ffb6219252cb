"""Hadamard rotations of the last axis: y = (x * signs) H / sqrt(d), which spread outliers evenly.

H is a matrix of +1 and -1 with H H^T = d I, so that H / sqrt(d) is orthogonal: norms and inner
products stay, and a vector that is one large value becomes d equal ones. For d = 2^k m,

    H_d = H_2 (x) ... (x) H_2 (x) H_m,

which is applied as a few small matrix products, one per axis of x seen as [..., a, b]. H_m for the
smallest m that has one, by the first of

    m = 1
    Paley I    m = q + 1,     q = 3 mod 4 a prime
    Paley II   m = 2 (q + 1), q = 1 mod 4 a prime
    Williamson m = 4 n,       from four symmetric circulants of order n

That covers the widths of the models in use, 11008 = 64 * 172 too. Other widths have an orthogonal
matrix in the place of H_m, drawn from a key: `rotation` and `run` take one, `matrix` refuses.

Ashkboos et al., QuaRot, arXiv:2404.00456, section 3. Paley, On orthogonal matrices, 1933.
Williamson, Hadamard's determinant theorem and the sum of four squares, 1944.

The kernels are for the powers of two, which need no other matrix; all others run as the reference
does. Kernel and reference add in different orders: they agree to float32 rounding, not in bits.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Float32, Int8, Num

from jaxcomp.base import UnsupportedInput, random_bits
from jaxcomp.kernels import dispatch

# The four first rows for each order n: bit i - 1 is set where elements i and n - i are -1; element
# 0 is +1. Right because the four power spectra sum to 4 n everywhere. Found by search: of sequences
# whose own spectrum stays below 4 n, pairs whose autocorrelations cancel those of another pair.
WILLIAMSON = {
    13: (0x7, 0xD, 0x2F, 0x1A),
    23: (0xAE, 0x589, 0x434, 0x6EC),
    25: (0xD7, 0x6E5, 0x2C2, 0xB0F),
    29: (0x2F3, 0x6BB, 0xB11, 0x30A6),
    39: (0x159F9, 0x2BC37, 0x3C977, 0x7D346),
    43: (0x1D9AE, 0x121D3F, 0x15661, 0xD6D0F),
}
LARGEST = 1024  # H_m is one dense product: beyond this it costs more than the rest together
WIDEST = 128  # of one product: the side of a matrix unit, and of a tensor core's tile
KERNEL_SIZES = (128, 16384)  # a row of lanes; and a row that fits a multiprocessor's registers
GPU_ROWS = 64  # of the narrowest size at once: what a tensor core takes
GPU_WARP = 1024  # elements of a tile for each warp: 32 in each thread's registers
GPU_WORK = 8192  # elements of one program, over which it keeps the matrices
TPU_ROWS = 256  # rows of 128 lanes in a grid cell: 128 KiB of float32, double-buffered


def run(
    x: Num[ArrayLike, "*shape"],
    *,
    signs: Num[ArrayLike, "*signs"] | None = None,
    inverse: bool = False,
    key: tuple[int, int] | None = None,
) -> Float[Array, "*shape"]:
    """(x * signs) H / sqrt(d), or its inverse x H^T / sqrt(d) * signs; signs are +1 and -1.

    x[..., d] of any float type, signs[d]; computed in float32, returned in x's type. Linear in x:
    grad, jvp, vmap and shard_map work. Raises UnsupportedInput for a d that `matrix` refuses, but
    with a key takes every d, as `rotation(d, key)` does.
    """
    x = jnp.asarray(x)
    signs = None if signs is None else jnp.asarray(signs, x.dtype)
    if x.ndim == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise UnsupportedInput(
            f"expected floats with an axis to rotate, got {x.dtype}{list(x.shape)}; convert x"
        )
    if signs is not None and signs.shape != x.shape[-1:]:
        raise UnsupportedInput(
            f"expected one sign for each of the {x.shape[-1]} elements of the last axis, got signs "
            f"of shape {signs.shape}; reshape them"
        )
    if key is None:
        _known(x.shape[-1])
    if x.size == 0:
        return x
    x = x if signs is None or inverse else x * signs
    flat = x.reshape(-1, x.shape[-1])
    if supports(flat.shape, flat.dtype):
        # H / sqrt(d) of a power of two is its own inverse and transpose, so this solves for it: of
        # what JAX derives gradients for, a solution alone takes both directions and a batch.
        y = lax.custom_linear_solve(
            _product, flat, lambda _, right: _product(right), symmetric=True
        )
    else:
        y = reference(flat, inverse=inverse, key=key)
    y = y.reshape(x.shape)
    return y * signs if inverse and signs is not None else y


def reference(
    x: Float[Array, "n d"], *, inverse: bool = False, key: tuple[int, int] | None = None
) -> Float[Array, "n d"]:
    """x H / sqrt(d) in plain lax, for every d: one product of at most 128 x 128 for each factor."""
    y = x.astype(jnp.float32)
    for factor in _factors(x.shape[-1], key):
        # The axis in front moves to the back: after the last factor all are in order again.
        side = factor.shape[0]
        factor = jnp.asarray(factor.T if inverse else factor, jnp.float32)
        y = y.reshape(len(x), side, -1)
        y = jnp.einsum("nab,ac->nbc", y, factor, precision=lax.Precision.HIGHEST)
    return (y.reshape(x.shape) * _scale(x.shape[-1], key)).astype(x.dtype)


def supports(shape: tuple[int, int], dtype: DTypeLike) -> bool:
    """Whether both platforms have a kernel for x[n, d] of this shape and type."""
    rows, d = shape
    least, most = KERNEL_SIZES
    fits = rows > 0 and d & (d - 1) == 0 and least <= d <= most
    return fits and dtype in (jnp.float32, jnp.bfloat16)  # a TPU has no float16


def matrix(d: int) -> Int8[np.ndarray, "d d"]:
    """H with H H^T = d I, read-only. Raises UnsupportedInput for a d without one here."""
    m = _known(d)
    return _frozen(np.kron(_sylvester(d // m), _hadamard(m)))


def rotation(d: int, key: tuple[int, int] = (0, 0)) -> Float32[np.ndarray, "d d"]:
    """An orthogonal d x d matrix, as dense as can be: matrix(d) / sqrt(d) where there is one.

    Else the largest Hadamard matrix of a power of two (x) a random orthogonal matrix of the key,
    which is deterministic up to the rounding of a QR decomposition in float64.
    """
    product = functools.reduce(np.kron, (f.astype(np.float64) for f in _factors(d, key)))
    return (product * _scale(d, key)).astype(np.float32)


def _known(d: int) -> int:
    """The m of d = 2^k m."""
    m = _base(d)
    if m is None:
        raise UnsupportedInput(
            f"expected a size with a known Hadamard matrix (2^k times 1, 12, 20, 28, 36, ...), got "
            f"{d}; pad the axis, or give run or rotation a key for a random orthogonal matrix"
        )
    return m


@functools.cache
def _base(d: int) -> int | None:
    """The least m with d = 2^k m that has a matrix here, None if there is none."""
    if d < 1:
        raise UnsupportedInput(
            f"expected a size of at least 1, got {d}; give an axis with elements"
        )
    m = d // (d & -d)
    while m <= min(d, LARGEST):
        if _hadamard(m) is not None:
            return m
        m *= 2
    return None


@functools.cache
def _hadamard(m: int) -> np.ndarray | None:
    """H_m by the first construction that gives it; None if none does."""
    if m == 1:
        return np.ones((1, 1), np.int8)
    if m % 4 == 0 and _is_prime(m - 1):
        return _paley_1(m - 1)
    if m % 4 == 0 and (m // 2 - 1) % 4 == 1 and _is_prime(m // 2 - 1):
        return _paley_2(m // 2 - 1)
    if m % 4 == 0 and m // 4 in WILLIAMSON:
        return _williamson(m // 4)
    return None


def _is_prime(q: int) -> bool:
    return q > 1 and all(q % i for i in range(2, math.isqrt(q) + 1))


def _jacobsthal(q: int) -> np.ndarray:
    """[i, j] is 1 where i - j is a square modulo the prime q, -1 where it is not, 0 at i = j."""
    symbol = np.full(q, -1, np.int8)
    symbol[np.arange(1, q, dtype=np.int64) ** 2 % q] = 1
    symbol[0] = 0
    return symbol[np.subtract.outer(np.arange(q), np.arange(q)) % q]


def _paley_1(q: int) -> np.ndarray:
    skew = np.pad(_jacobsthal(q), ((1, 0), (1, 0)), constant_values=1)
    skew[1:, 0] = -1
    skew[0, 0] = 0
    return skew + np.eye(q + 1, dtype=np.int8)


def _paley_2(q: int) -> np.ndarray:
    conference = np.pad(_jacobsthal(q), ((1, 0), (1, 0)), constant_values=1)
    conference[0, 0] = 0
    off, on = np.array([[[1, 1], [1, -1]], [[1, -1], [-1, -1]]], np.int8)
    return np.kron(conference, off) + np.kron(np.eye(q + 1, dtype=np.int8), on)


def _williamson(n: int) -> np.ndarray:
    place = np.subtract.outer(np.arange(n), np.arange(n)) % n
    place = np.minimum(place, n - place)
    bits = np.array([[row << 1 >> i & 1 for i in range(n // 2 + 1)] for row in WILLIAMSON[n]])
    a, b, c, d = (1 - 2 * bits.astype(np.int8))[:, place]
    return np.block([[a, b, c, d], [-b, a, -d, c], [-c, d, a, -b], [-d, -c, b, a]])


def _sylvester(side: int) -> np.ndarray:
    """H_2 (x) H_2 (x) ...: symmetric, and its own inverse but for the scale."""
    both = np.arange(side)[:, None] & np.arange(side)
    return (1 - 2 * (np.bitwise_count(both) & 1)).astype(np.int8)


def _orthogonal(n: int, key: tuple[int, int]) -> np.ndarray:
    """A random orthogonal n x n matrix: the Q of a matrix of normals whose R has a diagonal > 0."""
    a, b = random_bits(key, np.arange(n * n, dtype=np.uint32))
    radius = np.sqrt(-2 * np.log((a + 0.5) / 2.0**32))
    normal = radius * np.cos(2 * np.pi * (b / 2.0**32))
    q, r = np.linalg.qr(normal.reshape(n, n))
    return q * np.where(np.diag(r) < 0, -1, 1)


@functools.cache
def _factors(d: int, key: tuple[int, int] | None) -> tuple[np.ndarray, ...]:
    """What the matrix of size d is the Kronecker product of, up to `_scale`."""
    m = _base(d) if key is not None else _known(d)
    last = _orthogonal(d // (d & -d), key) if m is None else _hadamard(m)
    exponent = (d // len(last)).bit_length() - 1
    if len(last) > 1:
        small = min(exponent, max(0, (WIDEST // len(last)).bit_length() - 1))
        last = np.kron(_sylvester(1 << small), last)
        exponent -= small
    parts = -(-exponent // (WIDEST.bit_length() - 1))  # as few and as equal as can be
    powers = [_sylvester(1 << ((exponent + i) // parts)) for i in range(parts)]
    return tuple(map(_frozen, powers if len(last) == 1 and powers else [*powers, last]))


def _frozen(x: np.ndarray) -> np.ndarray:
    x.setflags(write=False)
    return x


def _scale(d: int, key: tuple[int, int] | None) -> float:
    """1 over the norm of a row: a random orthogonal factor has rows of norm 1 already."""
    m = _base(d) if key is not None else _known(d)
    return (d & -d if m is None else d) ** -0.5


def _exact_dot(x: Array, h: Array, *, left: bool = False) -> Array:
    """x h, or h x, in float32 on units that multiply bfloat16: h is +1 and -1, exact in it.

    x is cut into pieces of 8 significant bits each, by masks that no compiler rounds away.
    """
    total = None
    for _ in range(1 if x.dtype == jnp.bfloat16 else 3):
        piece = x
        if x.dtype != jnp.bfloat16:
            high = lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0xFFFF0000)
            high = lax.bitcast_convert_type(high, jnp.float32)
            piece, x = high.astype(jnp.bfloat16), x - high
        pair = (h, piece) if left else (piece, h)
        product = jnp.dot(*pair, preferred_element_type=jnp.float32)
        total = product if total is None else total + product
    return total


def cuda(x: Array, *, interpret: bool = False) -> tuple[Array]:
    """A row is a tile [a, b], and y = H_a x H_b; of the narrowest rows, 64 take H_d at once."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    rows, d = x.shape
    narrow = d < 256  # a tensor core takes no side below 16
    a = 1 if narrow else 1 << (d.bit_length() - 1) // 2
    b = d // a
    taken = GPU_ROWS if narrow else 1  # rows in a tile
    tile = (taken * a, b)
    turns = pl.cdiv(GPU_WORK, taken * d)
    scale = np.float32(d**-0.5)

    def kernel(x_ref, left_ref, right_ref, y_ref):
        left, right = left_ref[...], right_ref[...]
        start = pl.program_id(0) * turns

        def turn(i, _):
            first = (start + i) * tile[0]
            within = first + lax.broadcasted_iota(jnp.int32, tile, 0) < rows * a
            at = (pl.ds(first, tile[0]), slice(None))
            y = triton.load(x_ref.at[at], mask=within, other=0)
            y = _exact_dot(y, right)
            y = y if narrow else _exact_dot(y, left, left=True)
            triton.store(y_ref.at[at], (y * scale).astype(y_ref.dtype), mask=within)

        lax.fori_loop(0, turns, turn, None)

    y = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(rows, taken * turns),),
        out_shape=dispatch.result(x, (rows * a, b), x.dtype),
        compiler_params=triton.CompilerParams(
            num_warps=min(8, taken * d // GPU_WARP or 1), num_stages=1
        ),
        interpret=interpret,
        name="hadamard",
    )(x.reshape(rows * a, b), *dispatch.align(x, _constant(a), _constant(b))[1:])
    return (y.reshape(rows, d),)


def tpu(x: Array, *, interpret: bool = False) -> tuple[Array]:
    """A row is [a, 128]: the lanes by one product with H_128, then butterflies over the sublanes.

    Sums and differences rather than a product over the a: several rows lie in one block, and a
    product would carry one's NaN, times zero, into the others.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    rows, d = x.shape
    a = d // WIDEST
    scale = np.float32(d**-0.5)

    def kernel(x_ref, right_ref, y_ref):
        y = _exact_dot(x_ref[...], right_ref[...])
        row = lax.broadcasted_iota(jnp.int32, y.shape, 0)
        stride = 1
        while stride < a:
            above = pltpu.roll(y, TPU_ROWS - stride, 0)
            below = pltpu.roll(y, stride, 0)
            y = jnp.where(row & stride, below - y, y + above)
            stride *= 2
        y_ref[...] = (y * scale).astype(y_ref.dtype)

    block = pl.BlockSpec((TPU_ROWS, WIDEST), lambda i: (i, 0))
    whole = pl.BlockSpec((WIDEST, WIDEST), lambda i: (0, 0))
    y = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(rows * a, TPU_ROWS),),
        in_specs=[block, whole],
        out_specs=block,
        out_shape=dispatch.result(x, (rows * a, WIDEST), x.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="hadamard",
    )(x.reshape(rows * a, WIDEST), dispatch.align(x, _constant(WIDEST))[1])
    return (y.reshape(rows, d),)


def _constant(side: int) -> Array:
    return jnp.asarray(_sylvester(side), jnp.bfloat16)


def _fold(batch, arrays):
    (y,) = _rotate(dispatch.spread(arrays[0], batch))
    return (y.reshape(batch, -1, y.shape[-1]),)


_rotate = dispatch.primitive(
    "hadamard",
    shapes=lambda x: [(x.shape, x.dtype)],
    reference=lambda x: (reference(x),),
    kernels={"cuda": cuda, "tpu": tpu},
    fold=_fold,
)


def _product(x: Array) -> Array:
    return _rotate(x)[0]
