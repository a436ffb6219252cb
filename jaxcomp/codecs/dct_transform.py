"""Colour and block transforms: floats forward, exact integers back.

Colour: Y = (R + G + B) / sqrt 3, U = (R - B) / sqrt 2, V = (R - 2 G + B) / sqrt 6 of samples minus
128. It is orthonormal, so one step size for every coefficient minimises the squared RGB error.

Blocks of 8, 16 or 32 pixels are written into one grid of 16x16 cells, coefficients of the same
physical frequency at the same place: frequency u of the i-th 8-block of a cell at 2 u + i, and
frequency 2 u + a of a 32-block at u in its a-th cell. In one dimension each of these is an
orthonormal matrix. A Haar step joins the two means of 8-blocks, and splits mean and first frequency
of 32-blocks, so that coefficient (0, 0) of a cell is always close to the cell's mean.

The inverse is int32: matrices in 2**-12, values in 2**-3, limited to +-2**16 before each of the two
passes. A row of 32 has unit norm, so a sum is below 2**16 * 2**12 * sqrt(32) * 1.01 < 2**31.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

BASIS_BITS = 12
VALUE_BITS = 3
LIMIT = 1 << 16
COLOUR_BITS = 12

COLOUR = np.array(
    [
        [3**-0.5, 3**-0.5, 3**-0.5],
        [2**-0.5, 0.0, -(2**-0.5)],
        [6**-0.5, -2 * 6**-0.5, 6**-0.5],
    ]
)


def _cosines(n):
    k, x = np.mgrid[0:n, 0:n]
    return np.where(
        k == 0, np.sqrt(1 / n), np.sqrt(2 / n) * np.cos(np.pi * k * (2 * x + 1) / 2 / n)
    )


def _cell_matrices():
    """[2, 16, 16]: one 16-block, or two 8-blocks, of a cell."""
    c8 = _cosines(8)
    two = np.zeros((16, 16))
    two[0::2, :8] = c8
    two[1::2, 8:] = c8
    two[:2] = np.array([[1, 1], [1, -1]]) / np.sqrt(2) @ two[:2]
    return np.stack([_cosines(16), two])


def _superblock_matrix():
    """[32, 32], rows (cell, frequency)."""
    c32 = _cosines(32)
    rows = np.stack([c32[0::2], c32[1::2]])
    rows[:, 0] = np.array([[1, 1], [1, -1]]) / np.sqrt(2) @ rows[:, 0]
    return rows.reshape(32, 32)


# Modes of a cell. 0: part of a 32-block; 1 + rows of two 8-blocks + 2 * columns of two 8-blocks.
MODES = 5
CELL_MATRICES = _cell_matrices()
SUPERBLOCK_MATRIX = _superblock_matrix()


def to_planes(blocks: Float[Array, "s 32 32 3"]) -> Float[Array, "s 3 32 32"]:
    """Samples 0 .. 255 -> orthonormal Y, U, V."""
    return jnp.einsum(
        "ck,syxk->scyx", COLOUR.astype(np.float32), blocks - 128.0, precision="highest"
    )


def forward(planes: Float[Array, "s 3 32 32"]) -> Float[Array, "5 s 4 3 16 16"]:
    """Coefficients of every mode, by superblock, cell, channel and frequency."""
    whole = _both(SUPERBLOCK_MATRIX, SUPERBLOCK_MATRIX, planes)
    s = planes.shape[0]

    def cells(x):
        return x.reshape(s, 3, 2, 16, 2, 16).transpose(0, 2, 4, 1, 3, 5).reshape(s, 4, 3, 16, 16)

    parts = cells(planes)
    out = [cells(whole)]
    for columns in range(2):
        for rows in range(2):
            out.append(_both(CELL_MATRICES[rows], CELL_MATRICES[columns], parts))
    return jnp.stack(out)


def _both(rows, columns, x):
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    return jnp.einsum("uy,...yx,vx->...uv", rows, x, columns, precision="highest")


def inverse(
    values: Int32[Array, "s 4 3 16 16"], modes: Int32[Array, "s 4"]
) -> Int32[Array, "s 3 32 32"]:
    """Exact inverse of integer coefficients in 2**-VALUE_BITS; Y, U, V in the same unit."""
    s = values.shape[0]
    values = jnp.clip(values, -LIMIT, LIMIT)
    small = _integers(CELL_MATRICES)
    kind = jnp.maximum(modes - 1, 0)
    rows, columns = small[kind & 1], small[kind >> 1]  # [s, 4, 16, 16]
    x = _pass("scquv,scuy->scqyv", values, rows)
    x = _pass("scqyv,scvx->scqyx", x, columns)

    def join(x):
        return x.reshape(s, 2, 2, 3, 16, 16).transpose(0, 3, 1, 4, 2, 5).reshape(s, 3, 32, 32)

    large = _integers(SUPERBLOCK_MATRIX)
    y = _pass("squv,uy->sqyv", join(values), large)
    y = _pass("sqyv,vx->sqyx", y, large)
    return jnp.where((modes[:, :1, None, None] == 0), y, join(x))


def _integers(matrix):
    return jnp.asarray(np.rint(matrix * (1 << BASIS_BITS)), jnp.int32)


def _pass(equation, x, basis):
    total = jnp.einsum(equation, x, basis, preferred_element_type=jnp.int32)
    half = 1 << (BASIS_BITS - 1)
    return jnp.clip((total + half) >> BASIS_BITS, -LIMIT, LIMIT)


def to_samples(planes: Int32[Array, "s 3 *any"]) -> Int32[Array, "s 3 *any"]:
    """Y, U, V in 2**-VALUE_BITS -> samples 0 .. 255, rounded once."""
    matrix = np.rint(COLOUR.T * (1 << COLOUR_BITS)).astype(np.int32)
    shift = COLOUR_BITS + VALUE_BITS
    # |planes| <= 2**16, a row of the matrix sums to at most 1.74 * 2**12: below 2**29.
    total = sum(
        matrix[None, :, c].reshape(1, 3, *(1,) * (planes.ndim - 2)) * planes[:, c : c + 1]
        for c in range(3)
    )
    return jnp.clip(((total + (1 << (shift - 1))) >> shift) + 128, 0, 255)


def choose_modes(
    coefficients: Float[Array, "5 s 4 3 16 16"], step: Float[Array, ""], bias: Float[Array, "5"]
) -> Int32[Array, "s 4"]:
    """The block sizes of least estimated cost, by superblock.

    Half log2(1 + 12 (c / step)**2) is close to rate + distortion / lambda of a coefficient, in
    bits: it tends to the distortion alone for small c, to log2 (c / step) + 1.8 for large.
    """
    cost = 0.5 * jnp.log2(1 + 12 * (coefficients / step) ** 2).sum((-3, -2, -1))  # [5, s, 4]
    parts = cost[1:] + bias[1:, None, None]
    best = parts.min(0).sum(-1)
    whole = cost[0].sum(-1) + bias[0]
    modes = 1 + parts.argmin(0).astype(jnp.int32)
    return jnp.where((whole < best)[:, None], 0, modes)


def select(values: Float[Array, "5 s 4 3 16 16"], modes: Int32[Array, "s 4"]):
    """Those coefficients that the modes ask for: [s, 4, 3, 16, 16]."""
    return lax.select_n(jnp.broadcast_to(modes[:, :, None, None, None], values.shape[1:]), *values)
