"""Attention of a few queries over packed keys and values, which are unpacked inside: decoding.

    most = max s,   total = sum exp(s - most),   out = sum exp(s - most) v,   s = scale q k

over the first `limit` tokens of each row, with the softmax kept up while the tokens go by (Milakov,
Gimelshein, Online normalizer calculation for softmax, 2018). out / total is the attention; as they
are, the three merge with those of other tokens. All rows of a head go by together: each code is
read and unpacked once for all queries that share the head.

One scale for each token, or a few, is no work on codes: it goes to the scores of keys and to the
shares of values, as do zeros. A scale for each channel is.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import dispatch, kv_attention_lax, kv_attention_mosaic, kv_attention_triton
from jaxcomp.kernels.kv_attention_lax import Side
from jaxcomp.kernels.packing import least_tile
from jaxcomp.kernels.quant_matmul_lax import Storage

KERNELS = {"cuda": kv_attention_triton, "tpu": kv_attention_mosaic}


def run(
    q: Float[Array, "batch heads rows size"],
    limits: Int32[Array, "batch rows"],
    keys: Side,
    values: Side,
    *,
    storages: tuple[Storage, Storage],
    scale: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(most, total f32[batch, heads, rows], out f32[batch, heads, rows, size]).

    Products are of q's dtype, sums float32. A row whose limit is 0 has -inf, 0 and 0. A level is
    (table[code], or the code) - offset: an asymmetric side has an offset of 0. Gradients are those
    of the plain lax form: forward always, backward within one block of it.
    """
    check(q, limits, (keys, values), storages)
    return _attend((storages, float(scale)), q, limits, (keys, values))


def check(q, limits, sides, storages) -> None:
    """UnsupportedInput where the shapes do not fit each other."""

    def refuse(expected: object, got: object, todo: str):
        raise UnsupportedInput(f"expected {expected}, got {got}; {todo}")

    if q.ndim != 4 or limits.shape != (q.shape[0], q.shape[2]) or 0 in q.shape:
        refuse("q [batch, heads, rows, size] and limits [batch, rows]", (q.shape, limits.shape), "")
    tokens = set()
    for side, storage in zip(sides, storages, strict=True):
        if storage.bits not in (1, 2, 4, 8) or storage.axis not in (0, 1):
            refuse("bits of 1, 2, 4 or 8 and axis 0 or 1", storage[:3], "make them dense")
        if storage.bits != 8 and (storage.tile < 1 or storage.tile % least_tile(storage.bits)):
            refuse("whole bytes in a tile", storage.tile, "pack with another")
        at = kv_attention_lax.shape(side.codes, side.scales, storage)
        expected = (*q.shape[:2], at.chunks, at.group, q.shape[3])
        if side.codes.ndim != 5 or (*side.codes.shape[:3], at.group, at.size) != expected:
            refuse(f"codes for {expected}", side.codes.shape, "they lie as a cache holds them")
        length = (at.group, at.size)[storage.axis]
        for each in (side.scales, side.zeros):
            fits = each is None or each.shape == (
                *expected[:3],
                *((at.groups, at.size) if storage.axis == 0 else (at.group, at.groups)),
            )
            if not fits or length % at.groups or (length // at.groups) % (at.slices * at.rows):
                refuse("scales for groups of whole tiles", each.shape, "see Side")
        tokens.add((at.chunks, at.group))
    if len(tokens) > 1:
        refuse("as many chunks of keys as of values", tokens, "pack both alike")


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend(static, q, limits, sides):
    storages, scale = static
    parts = [x for side in sides for x in side if x is not None]
    zeros = tuple(side.zeros is not None for side in sides)
    return _run(q, limits, *parts, storages=storages, scale=scale, zeros=zeros)


@_attend.defjvp
def _tangents(static, primals, tangents):
    plain = functools.partial(kv_attention_lax.attend, storages=static[0], scale=static[1])
    return _attend(static, *primals), jax.jvp(plain, primals, tangents)[1]


def sides_of(parts, zeros: tuple[bool, bool]) -> tuple[Side, Side]:
    """Keys and values, of arrays that lie in a row."""
    first = 2 + zeros[0]
    return Side(*parts[:first]), Side(*parts[first:])


def reference(q, limits, *parts, storages, scale: float, zeros: tuple[bool, bool]):
    """The plain lax twin of the kernels, which defines their result."""
    return kv_attention_lax.attend(q, limits, sides_of(parts, zeros), storages, scale)


def supports(q, keys: Side, values: Side, *, storages, platform: str) -> bool:
    """Whether `platform` ("cuda" or "tpu") has a kernel for what has these shapes and dtypes."""
    return platform in KERNELS and KERNELS[platform].supports(q, (keys, values), storages)


def _on(platform: str):
    """The platform's kernel where it supports the arguments, else the reference."""

    def lowered(q, limits, *parts, storages, scale, zeros):
        sides = sides_of(parts, zeros)
        if not supports(q, *sides, storages=storages, platform=platform):
            return reference(q, limits, *parts, storages=storages, scale=scale, zeros=zeros)
        return KERNELS[platform].call(q, limits, sides, storages=storages, scale=scale)

    return lowered


def _shapes(q, *_, **__):
    return [(shape, jnp.float32) for shape in (q.shape[:-1], q.shape[:-1], q.shape)]


def _fold(batch, arrays, **static):
    results = _run(*(dispatch.spread(x, batch) for x in arrays), **static)
    return tuple(y.reshape(batch, -1, *y.shape[1:]) for y in results)


_run = dispatch.primitive(
    "kv_attention",
    shapes=_shapes,
    reference=reference,
    kernels={platform: _on(platform) for platform in ("cuda", "tpu")},
    fold=_fold,
)
