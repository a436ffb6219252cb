"""Packed keys and values with their dense values, drawn by NumPy, and attention in float64."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.kernels.kv_attention_lax import Side
from jaxcomp.kernels.quant_matmul_lax import Storage

LEVELS = tuple(float(x) for x in np.linspace(-1, 1, 16) ** 3)
# What the caches hold: quantized INT4, UINT4 and INT8, rotated 4 and 2, kivi 2.
INT4 = {"bits": 4, "axis": 1, "offset": 8}
UINT4 = {"bits": 4, "axis": 1, "zeros": "u8"}
INT8 = {"bits": 8, "axis": 1, "offset": 128}
TABLE4 = {"bits": 4, "axis": 1, "table": LEVELS}
TABLE2 = {"bits": 2, "axis": 1, "table": (-1.5, -0.5, 0.5, 1.5)}
CHANNELS2 = {"bits": 2, "axis": 0, "zeros": "bf16"}
GROUPS2 = {"bits": 2, "axis": 1, "zeros": "bf16", "groups": 2}


def side(
    bits, axis, *, shape, table=None, offset=0, zeros=None, groups=1, seed=0
) -> tuple[Side, Storage, np.ndarray]:
    """(side, storage, its values f64[batch, heads, tokens, size]) for a shape [batch, heads,
    chunks, group, size]; groups lie along the axis, and scales are bfloat16, as bits."""
    rng = np.random.default_rng(seed)
    where = 3 + axis
    tile = shape[where] // groups
    codes = rng.integers(0, 1 << bits, shape).astype(np.uint8)
    scaled = (*shape[:where], groups, *shape[where + 1 :])
    scales = rng.uniform(0.5, 1, scaled).astype(jnp.bfloat16)
    kept = None
    if zeros == "u8":
        kept = rng.integers(0, 1 << bits, scaled).astype(np.uint8)
    elif zeros:
        kept = rng.uniform(0, (1 << bits) - 1, scaled).astype(jnp.bfloat16)
    zero = np.zeros(scaled) if kept is None else kept.astype(np.float64)
    level = codes.astype(np.float64) if table is None else np.array(table)[codes]
    zero, scale = (np.repeat(x, tile, where) for x in (zero, scales.astype(np.float64)))
    value = (level - offset - zero) * scale
    kept = [
        x if x is None else jnp.asarray(x.view(np.uint16) if x.dtype == jnp.bfloat16 else x)
        for x in (scales, kept)
    ]
    storage = Storage(bits, tile, axis, offset, table)
    packed = (codes ^ 128).view(np.int8) if bits == 8 else _packed(codes, bits, where, tile)
    return Side(jnp.asarray(packed), *kept), storage, value.reshape(*shape[:2], -1, shape[-1])


def _packed(codes, bits, axis, tile):
    """As kernels/packing.py says: codes that share a byte are a fraction of a tile apart."""
    slices = 8 // bits
    cut = codes.reshape(*codes.shape[:axis], -1, slices, tile // slices, *codes.shape[axis + 1 :])
    joined = sum(np.take(cut, j, axis + 1) << (j * bits) for j in range(slices))
    return joined.reshape(*codes.shape[:axis], -1, *codes.shape[axis + 1 :])


def case(keys, values, *, chunks=9, group=1, size=64, rows=3, seed=0):
    """(q, limits, sides, storages, exact outputs): two sequences, of which the second has a row
    that sees nothing and others that see little."""
    shape = (2, 2, chunks, group, size)
    made = [side(**how, shape=shape, seed=seed + i) for i, how in enumerate((keys, values))]
    rng = np.random.default_rng(seed + 2)
    q = rng.normal(size=(2, 2, rows, size)).astype(np.float32) / np.abs(made[0][2]).std()
    tokens = chunks * group
    limits = np.stack([tokens - np.arange(rows) % 3, np.arange(rows) * 5 % tokens]).astype(np.int32)
    seen = (np.arange(tokens) < limits[..., None])[:, None]
    scores = np.einsum("bhrd,bhtd->bhrt", np.float64(q), made[0][2]) * size**-0.5
    top = np.where(seen, scores, -1e30).max(-1, keepdims=True)
    shares = np.exp(np.minimum(scores - top, 0)) * seen
    exact = shares @ made[1][2] / np.maximum(shares.sum(-1, keepdims=True), 1e-30)
    sides, storages = zip(*((each[0], each[1]) for each in made), strict=True)
    return jnp.asarray(q), jnp.asarray(limits), sides, storages, exact


def output(found):
    """out / total of (most, total, out), 0 where nothing was seen."""
    most, total, out = (np.asarray(x, np.float64) for x in found)
    assert ((total == 0) == np.isneginf(most)).all()
    return out / np.where(total > 0, total, 1)[..., None]


def close(got, expected, tolerance):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)
