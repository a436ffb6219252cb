"""Lossless: a float weight whose exponents are entropy-coded, decoded bit for bit before its use.

The exponents of trained weights are far from uniform: those of Gaussian ones carry 2.6 bits of 8,
so bfloat16 takes 66 % of its bytes, and float32 83 %. Signs and mantissas are as good as random and
stay as they are, in `raw`. DFloat11 (Zhang et al., arXiv:2504.11651) does so with Huffman codes; we
differ: the code is interleaved rANS (kernels/rans_decode.py), so that two exponents share a symbol
and each symbol costs its fraction of bits.

    rotated = bits << 1 | sign                    the exponent is the high byte, or holds it
    symbol  = kind(low) | kind(high) << 4         two high bytes of bfloat16 or float32; or
              high byte                           of float16: exponent and upper mantissa

The 16 most frequent exponents are kinds; others are coded as the last kind and named by `escapes`.
Gaussian weights have one in 10,000 of them.
Rows of the matrix [out, in] are coded in blocks, which decode independently: a GPU has a warp and
a TPU a row of a tile for each. The i-th value of a block's first half shares a symbol with the i-th
of its second half. A stack of words is padded at its bottom, so all are read from the end.

Any bits come back, those of NaN too. A damaged stream decodes to other values, never out of bounds.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import logical_shape, merged_axis, unmerge
from jaxcomp.formats.leaf import Leaf, leaf_class, part_axis, static
from jaxcomp.kernels import exponent_decode, rans_decode

PRECISION = 16  # at which 256 symbols, each of a frequency of at least 1, lose 0.006 bits of 5
SLOTS = 1 << PRECISION
KINDS = exponent_decode.KINDS  # of exponents, two of which make a symbol of a byte
SYMBOLS = 256
PARTS = [np.dtype(x) for x in ("uint8", "uint32", "uint16", "uint16")]  # raw, head, words, freq
# How many kinds there are of each, and whether escapes.
DTYPES = {"bfloat16": (KINDS, True), "float16": (None, False), "float32": (KINDS, True)}
PLACE_BITS = 24  # of a value in its block; an escape is place << 8 | exponent, all ones for none
NO_ESCAPE = np.uint32(0xFFFFFFFF)
DEEPEST = 3  # times the words of a stack that may lie in spill
TILE, LEAST_MOVED = 16, 1 << 15  # rows transposed at a time, and values for which that pays
START = 1 << 16  # the state of a lane before anything is coded, and after all is decoded


@leaf_class
class Lossless(Leaf):
    """One matrix, or stacked ones. Its own free axes are the last `own` of them.

    raw      u8 [..., planes * in, ...]: what is left of the rotated bits, lowest byte first
    head     u32 [blocks, ..., lanes]: blocks along the first own axis, 1 along the others
    words    u16 [blocks, ..., capacity]: the stacks, or what is on top where
    deep     i32 [blocks, ..., 1]: which row of spill is below it, from 1 on; 0 for none
    spill    u16 [1, ..., rows * depth]: the bottoms of a few stacks that are longer than others
    freq     u16 [1, ..., 256]: frequency - 1 of each symbol
    kinds    u8 [1, ..., 16]; None where a symbol is a byte, and so are
    escapes  u32 [blocks, ..., most of a block]
    rows     of a block; the last one may have fewer
    """

    raw: Any
    head: Any
    words: Any
    deep: Any
    spill: Any
    freq: Any
    kinds: Any
    escapes: Any
    rows: int = static()
    own: int = static()
    depth: int = static()
    dtype: Any = static()
    packed: Any = static()

    decoded = True  # ClassVar of Leaf

    @property
    def shape(self) -> tuple[int, ...]:
        axis = self.raw.ndim + merged_axis(self.packed)
        free = [1 if i == axis else size for i, size in enumerate(self.raw.shape)]
        return logical_shape(free, self.packed)  # there may be more blocks than of the first axis

    @jax.jit
    def dense(self) -> jax.Array:
        return lax.bitcast_convert_type(self._decoded()[0], self.dtype)

    @jax.jit
    def taken(self, indices: jax.Array) -> jax.Array:
        """[..., *packed axes] of one matrix at indices [...] of its one free axis, clipped.

        Only their blocks are decoded, unless that would be more than all.
        """
        (axis,) = self.layout.free
        out = self.shape[axis]
        row = jnp.clip(indices.reshape(-1), 0, out - 1)
        sizes = [size for _, size in self.packed]
        if row.size * self.rows >= out:
            found = jnp.moveaxis(self._decoded()[0], axis, 0)[row]
        else:
            self._stacked()
            *words, raw, head, freq, kinds, escapes = self._streams()
            block = row // self.rows
            count = self.rows * math.prod(sizes)
            words = stacks(*words, self.depth)[block]
            escapes = None if escapes is None else escapes[block]
            high, _ = high_bytes(head[block], words, freq, kinds, escapes, count=count)
            high = high.reshape(len(row), self.rows, -1)[jnp.arange(len(row)), row % self.rows]
            found = merge(high, raw[row], jnp.dtype(self.dtype).itemsize)
        return lax.bitcast_convert_type(found, self.dtype).reshape(*indices.shape, *sizes)

    @jax.jit
    def intact(self) -> jax.Array:
        """bool []: whether every lane ends in the state in which its encoder began."""
        return self._decoded()[1].all()

    def _stacked(self) -> int:
        """How many axes of stacked matrices there are. UnsupportedInput for parts of a matrix."""
        axis = merged_axis(self.packed)
        kinds = None if self.kinds is None else self.kinds.shape[axis]
        found = [x.dtype for x in (self.raw, self.head, self.words, self.freq)]
        known = DTYPES.get(jnp.dtype(self.dtype).name) == (kinds, self.escapes is not None)
        if found != PARTS or self.freq.shape[axis] != SYMBOLS or not known:
            raise UnsupportedInput(
                f"expected the streams of {', '.join(DTYPES)}, got {self.describe()} of others; "
                "make the leaf with jc.weights.lossless()"
            )
        stacked = self.raw.ndim - 1 - self.own
        own = self.layout.free[-self.own :]
        blocks = self.head.shape[part_axis(self.packed, own[0])]
        out = math.prod(self.shape[axis] for axis in own)
        whole = 0 < self.rows <= out and blocks == -(-out // self.rows)
        whole &= self.depth <= DEEPEST * self.words.shape[axis]
        # Each block has its own stack, or a kernel would read those of others and beyond.
        each = [around(x, axis) for x in (self.words, self.deep, self.escapes) if x is not None]
        once = [around(x, axis) for x in (self.freq, self.kinds, self.spill) if x is not None]
        whole &= all(x == around(self.head, axis) for x in each)
        whole &= all(x == around(self.raw, axis)[:stacked] + (1,) * self.own for x in once)
        if not 0 <= stacked < self.raw.ndim - 1 or not whole:
            raise UnsupportedInput(
                f"expected whole matrices, got {blocks} blocks of {self.rows} rows for {out} rows; "
                "cut or vmap over stacked matrices only, or take dense(w)"
            )
        return stacked

    def _decoded(self) -> tuple[jax.Array, jax.Array]:
        """(bits of the weight as integers, whether the streams of each matrix were intact).

        Integers until the last: XLA makes one NaN of all in what it joins on a CPU.
        """
        if self._stacked():
            return lax.map(Lossless._decoded, self)
        axis = merged_axis(self.packed)
        size = math.prod(size for _, size in self.packed)
        # What is joined comes whole out of a loop; the rest XLA merges and transposes in one.
        move = moved if self._joins() else jnp.moveaxis
        *words, raw, head, freq, kinds, escapes = self._streams(move)
        streams = (head, stacks(*words, self.depth), freq, kinds, escapes)
        count, lanes = self.rows * size, head.shape[1]
        if self._joins():
            bits, intact = joined_bits(*streams, raw.reshape(len(head), 2, -1, lanes))
        else:
            high, intact = high_bytes(*streams, count=count)
            high = high.reshape(-1, size)[: raw.shape[0]]
            bits = merge(high, raw, jnp.dtype(self.dtype).itemsize)
        bits = bits.reshape(*(self.shape[a] for a in self.layout.free), size)
        return unmerge(move(bits, -1, axis), self.packed), intact

    def _joins(self) -> bool:
        """Whether all blocks are full, of bfloat16 and of whole steps: one kernel does it all."""
        size = math.prod(size for _, size in self.packed)
        axis = merged_axis(self.packed)
        out = math.prod(self.shape[a] for a in self.layout.free[-self.own :])
        whole = self.rows * size % (2 * self.head.shape[axis]) == 0 == out % self.rows
        return self.dtype == jnp.bfloat16 and whole

    def _streams(self, move: Callable[..., jax.Array] = jnp.moveaxis) -> list[Any]:
        """The parts of one matrix, each [its rows, n]; None for those that it has not."""
        axis = merged_axis(self.packed)
        parts = (self.words, self.deep, self.spill, self.raw, self.head)
        parts += (self.freq, self.kinds, self.escapes)
        return [None if x is None else move(x, axis, -1).reshape(-1, x.shape[axis]) for x in parts]

    def matmul(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], *(size for _, size in self.packed))
        axes = [axis + self.ndim for axis in self.layout.axes]
        numbers = ((tuple(range(1, x.ndim)), tuple(axes)), ((), ()))
        out = lax.dot_general(x, self.dense(), numbers, preferred_element_type=jnp.float32)
        return out.astype(x.dtype)

    def describe(self) -> str:
        return f"lossless {jnp.dtype(self.dtype).name}"

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        lanes = self.head.shape[merged_axis(self.packed)]
        shapes = (1, lanes), (1, self.freq.shape[merged_axis(self.packed)])
        known = {"precision": PRECISION, "platform": platform, "index": False}
        if rans_decode.supports(*shapes, **known):
            joined = platform == "cuda" and self._joins()
            return f"{'exponent' if joined else 'rans'}_decode, product", ""
        return "decoded by lax, product", "" if platform == "cpu" else f"{lanes} lanes"

    @property
    def loose(self) -> tuple[int, ...]:
        return self.layout.free[: -self.own]

    def shares(self, axis: int, count: int) -> bool:
        """Along the first own axis whole blocks can be shared out, if all are full."""
        own = self.layout.free[-self.own :]
        if axis != own[0]:
            return axis in self.loose and super().shares(axis, count)
        blocks = self.head.shape[part_axis(self.packed, axis)]
        out = math.prod(self.shape[a] for a in own)
        return blocks % count == 0 and blocks * self.rows == out

    @staticmethod
    def alike(leaves: list[Any]) -> list[Any]:
        """Words find room together; escapes are filled up at their end."""
        axis = merged_axis(leaves[0].packed)
        fields = rooms([np.asarray(stacks(*leaf._streams()[:3], leaf.depth)) for leaf in leaves])
        fields = [
            {name: x if name == "depth" else placed(x, leaf.own, axis) for name, x in room.items()}
            for leaf, room in zip(leaves, fields, strict=True)
        ]
        if leaves[0].escapes is not None:
            most = max(leaf.escapes.shape[axis] for leaf in leaves)
            for leaf, new in zip(leaves, fields, strict=True):
                widths = [(0, 0)] * leaf.escapes.ndim
                widths[axis] = (0, most - leaf.escapes.shape[axis])
                new["escapes"] = jnp.pad(leaf.escapes, widths, constant_values=NO_ESCAPE)
        return [dataclasses.replace(x, **new) for x, new in zip(leaves, fields, strict=True)]


def around(part: jax.Array, axis: int) -> tuple[int, ...]:
    """The sizes of a part but for its merged axis, counted from the right."""
    return part.shape[:axis] + part.shape[axis:][1:]


def moved(x: jax.Array, source: int, target: int) -> jax.Array:
    """jnp.moveaxis to or from the last axis. On a CPU by tiles, which takes a sixth of the time:
    XLA reads a column of all rows for each row that it writes."""
    axis = min(source % x.ndim, target % x.ndim)
    shape = x.shape[axis:]
    rows = math.prod(shape[:-1]) if source == -1 else shape[0]
    if x.size != math.prod(shape) or rows < TILE or x.size < LEAST_MOVED:
        return jnp.moveaxis(x, source, target)

    def by_tiles(x):
        flat = x.reshape(rows, -1)

        def move(i, out):
            tile = lax.dynamic_slice_in_dim(flat, i * TILE, TILE)  # the last one ends where x does
            return lax.dynamic_update_slice_in_dim(out, tile.T, i * TILE, 1)

        zeros = jnp.broadcast_to(flat[:1, :1] & 0, flat.shape[::-1])  # of where x is, in shard_map
        out = lax.fori_loop(0, -(-rows // TILE), move, zeros)
        return out.reshape(jax.eval_shape(plain, x).shape)

    def plain(x):
        return jnp.moveaxis(x, source, target)

    return lax.platform_dependent(x, cpu=by_tiles, default=plain)


def placed(part: np.ndarray | None, own: int, axis: int) -> jax.Array | None:
    """[blocks or 1, n] of a matrix of so many free axes, to where a leaf has it."""
    if part is None:
        return None
    wide = part.reshape(part.shape[0], *[1] * (own - 1), part.shape[1])
    return jnp.asarray(np.moveaxis(wide, -1, axis))


def stacks(
    words: jax.Array, deep: jax.Array | None, spill: jax.Array | None, depth: int
) -> jax.Array:
    """Whole stacks [blocks, depth + capacity]."""
    if spill is None:
        return words
    bottoms = jnp.pad(spill.reshape(-1, depth), ((1, 0), (0, 0)))
    return jnp.concatenate([jnp.take(bottoms, deep[:, 0], 0, mode="clip"), words], 1)


def rooms(stacks: list[np.ndarray]) -> list[dict[str, Any]]:
    """words, deep, spill, depth of stacks [blocks, n] that end where their rows do; of one shape.

    A stack longer than `capacity` has its bottom in a row of its own, so that a few long ones do
    not make all others long. A quarter of the longest is the least, which bounds what decoding
    needs beside what is held. What a stack begins with may be zeros: they are those of the filling.
    """
    most = max(stack.shape[1] for stack in stacks)
    full = np.stack([np.pad(x, ((0, 0), (most - x.shape[1], 0))) for x in stacks])
    sizes = np.where(full.any(2), most - (full != 0).argmax(2), 0)
    many, blocks = sizes.shape

    def cost(capacity):
        spilt = (sizes > capacity).sum(1).max()
        return many * (blocks * (capacity + (2 if spilt else 0)) + spilt * (most - capacity))

    least = max(1, -(-most // (1 + DEEPEST)))
    tried = np.unique(
        np.quantile(np.maximum(sizes, least), np.linspace(0, 1, 100), method="higher")
    )
    capacity = int(min([*tried[::-1], most], key=cost))
    words = full[:, :, most - capacity :]
    spilt = (sizes > capacity).sum(1).max()
    if not spilt:
        return [{"words": x, "deep": None, "spill": None, "depth": 0} for x in words]
    found = []
    for stack, size, x in zip(full, sizes, words, strict=True):
        deep = np.where(size > capacity, np.cumsum(size > capacity), 0).astype(np.int32)
        spill = np.zeros((spilt, most - capacity), np.uint16)
        spill[: deep.max()] = stack[deep > 0, : most - capacity]
        parts = {"words": x, "deep": deep[:, None], "spill": spill.reshape(1, -1)}
        found.append(parts | {"depth": most - capacity})
    return found


def high_bytes(
    head: jax.Array,
    words: jax.Array,
    freq: jax.Array,
    kinds: jax.Array | None,
    escapes: jax.Array | None,
    *,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """(u8 [blocks, count], whether the streams were intact) of one table; the parts of a leaf."""
    blocks, lanes = head.shape
    pairs = count if kinds is None else -(-count // 2)
    steps = -(-pairs // lanes)
    size = jnp.full(blocks, words.shape[1], jnp.int32)
    symbols, state, _ = rans_decode.run(
        head, words, size, tables(freq[0]), None, blocks * steps * lanes,
        precision=PRECISION, steps=steps,
    )  # fmt: skip
    high = symbols.reshape(blocks, -1)[:, :pairs].astype(jnp.uint8)
    if kinds is not None:
        high = exponent_decode.chosen(exponent_decode.halves(high, 1)[:, :count], kinds[0])
        place = (escapes >> 8).astype(jnp.int32)
        block = jnp.arange(blocks)[:, None]
        high = high.at[block, place].set(escapes.astype(jnp.uint8), mode="drop")
    return high, (state == START).all()


def joined_bits(
    head: jax.Array,
    words: jax.Array,
    freq: jax.Array,
    kinds: jax.Array,
    escapes: jax.Array,
    raw: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(bits u16 [blocks, count], whether the streams were intact) of full blocks of bfloat16."""
    bits, state = exponent_decode.run(
        head, words, raw, tables(freq[0]), kinds[0], precision=PRECISION
    )
    raw, bits = (x.reshape(len(head), -1) for x in (raw, bits))
    place = (escapes >> 8).astype(jnp.int32)
    block = jnp.arange(len(head))[:, None]
    real = exponent_decode.merged(escapes & 0xFF, raw.at[block, place].get(mode="clip"))
    return bits.at[block, place].set(real, mode="drop"), (state == START).all()


def tables(freq: jax.Array) -> rans_decode.Tables:
    """Intervals and directory of one table of frequency - 1."""
    freq = freq.astype(jnp.uint32)
    start = jnp.cumsum(freq + 1, dtype=jnp.uint32) - freq - 1
    # Every start has a bit of its own, so a sum of bits is their union.
    bits = jnp.uint32(1) << (start & 15)
    place = (start >> 4).astype(jnp.int32)
    mask = jnp.zeros(SLOTS // 16, jnp.uint32).at[place].add(bits, mode="drop")
    counts = lax.population_count(mask)
    before = jnp.cumsum(counts, dtype=jnp.uint32) - counts - 1
    directory = before << 16 | mask
    return (freq << 16 | start)[None], directory[None]


def merge(high: jax.Array, raw: jax.Array, nbytes: int) -> jax.Array:
    """Bits [out, in] of the high bytes [out, in] and the planes [out, planes * in] below them."""
    width = 8 * nbytes
    word = jnp.dtype(f"uint{width}")
    size = high.shape[1]
    rotated = high.astype(word) << (width - 8)
    for plane in range(width // 8 - 1):
        rotated |= raw[:, plane * size : (plane + 1) * size].astype(word) << (8 * plane)
    return rotated >> 1 | rotated << (width - 1)
