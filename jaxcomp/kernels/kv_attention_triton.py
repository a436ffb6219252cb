"""kv_attention as a Triton kernel: programs share the tokens that are there, and merge afterwards.

A program walks its part of the tokens of one head, a block at a time. The codes of each slice of
the bytes (packing.py) meet the channels of q, or of the output, that are theirs, so that nothing
is interleaved. Tensor cores take 16 rows at least, and decoding has few. So rows are repeated, once
for each group of channels with a scale of its own, and zero elsewhere: the products are those of
each group, and scales multiply scores and shares instead of codes. Keys with a scale for each
channel are made whole in registers.

Splitting over tokens: Dao, Haziza, Massa and Sizov, Flash-Decoding, 2023.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.kernels import dispatch
from jaxcomp.kernels import kv_attention_lax as plain
from jaxcomp.kernels.kv_attention_lax import Shape, Side
from jaxcomp.kernels.quant_matmul_lax import Storage, code, levels

LEAST = 16  # of every side of a product on tensor cores
MOST_ROWS = 64  # repeated ones counted: scores and outputs stay in registers
# Four programs for each of an H100's or H200's 132 multiprocessors, so that loads overlap.
PROGRAMS = 528
MOST_PARTS = 64  # beyond this, merging costs what reading does
BLOCK = {1: 64, 0: 128}  # tokens at once; with codes along tokens (axis 0), in slices
CHOICES = 4  # levels that are chosen by comparisons; of more, they are fetched
# The bits of 2**7 and 2**23, below which a mantissa counts in ones: or-ing a small integer
# in and subtracting is a conversion at full speed (int to float runs at a quarter of it).
ONES = {"bfloat16": (0x4300, 7), "float32": (0x4B000000, 23)}
FLOATS = *ONES, "float16"


class _Plan(NamedTuple):
    """How one side is read: in rows of `bytes`, one for each token (axis 1) or one for as many
    tokens of a chunk as share bytes (axis 0); and how often rows of queries are repeated for it."""

    at: Shape
    storage: Storage
    copies: int
    bytes: int


def _plans(rows: int, sides, storages) -> tuple[int, list[_Plan]]:
    """Rows of a head, filled up, and the plan of each side."""
    shapes = [
        plain.shape(side.codes, side.scales, s) for side, s in zip(sides, storages, strict=True)
    ]
    rows = 1 << (rows - 1).bit_length()
    groups = [at.groups if s.axis else 1 for at, s in zip(shapes, storages, strict=True)]
    if max(groups) == 1:
        rows = max(rows, LEAST)
    plans = []
    for at, storage, own in zip(shapes, storages, groups, strict=True):
        length = at.size // at.slices if storage.axis else at.size
        plans.append(_Plan(at, storage, max(own, LEAST // rows), length))
    return rows, plans


def supports(q, sides: tuple[Side, Side], storages: tuple[Storage, Storage]) -> bool:
    """Whether the kernel takes the arguments: powers of two all along, values whose scales are
    shared by channels, and integers or a table of at most 16 levels."""
    rows, plans = _plans(q.shape[2], sides, storages)
    for at, storage, copies, length in plans:
        least = length if storage.axis else BLOCK[0] // at.slices
        powers = (at.size, at.rows, at.groups if storage.axis else at.group)
        if any(x & (x - 1) for x in powers) or least < LEAST or copies * rows > MOST_ROWS:
            return False
        if storage.table is not None and (storage.bits == 8 or len(storage.table) > 16):
            return False
        if storage.axis == 0 and at.slices > 1 and at.slices * at.rows > BLOCK[0]:
            return False  # a block would hold parts of tiles
    return storages[1].axis == 1 and q.dtype in map(jnp.dtype, FLOATS)


def parts(heads: int, tokens: int, block: int) -> int:
    """Into how many parts the tokens of each head are cut: as few as fill a GPU."""
    return max(1, min(MOST_PARTS, -(-PROGRAMS // heads), -(-tokens // block)))


def _levels(codes: jax.Array, storage: Storage, table_ref, dtype) -> jax.Array:
    """What codes stand for, in `dtype`."""
    from jax.experimental.pallas import triton

    if table_ref is not None:
        return triton.load(table_ref.at[codes.astype(jnp.int32)])
    if storage.table is not None:
        return levels(codes, storage, dtype)
    if storage.bits == 8:
        codes = lax.bitcast_convert_type(codes, jnp.uint8) ^ jnp.uint8(128)
    fits = storage.bits <= ONES[dtype.name][1] and float(storage.offset).is_integer()
    working = dtype if fits else jnp.dtype(jnp.float32)
    ones, width = ONES[working.name]
    integer = jnp.uint16 if working.itemsize == 2 else jnp.uint32
    joined = codes.astype(integer) | jnp.asarray(ones, integer)
    value = lax.bitcast_convert_type(joined, working)
    return (value - jnp.asarray((1 << width) + storage.offset, working)).astype(dtype)


def _code(packed: jax.Array, which: int, storage: Storage) -> jax.Array:
    return code(lambda _: packed, which, storage.bits)


def call(q, limits, sides, *, storages, scale: float, interpret: bool = False):
    """(most, total, out) of kv_attention.run."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    if q.dtype == jnp.float16:  # which has no room for small shares times small scales
        q = q.astype(jnp.float32)
    (batch, heads, real, size), dtype = q.shape, q.dtype
    rows, plans = _plans(real, sides, storages)
    keys, values = plans
    block = BLOCK[keys.storage.axis]
    tokens = keys.at.chunks * keys.at.group
    count = parts(batch * heads, tokens, block)
    precision = None
    if dtype == jnp.float32:  # three products of 11 bits each, on tensor cores
        triple = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
        precision = lax.Precision.HIGHEST if interpret else triple
    pieces = 1 if keys.storage.axis else keys.at.slices
    piece = block // pieces

    arrays, index = [q.reshape(batch * heads, real, size), limits], []

    def add(x):
        arrays.append(x)
        return len(arrays) - 1

    for side, plan in zip(sides, plans, strict=True):
        found = [
            None if x is None else add(x.reshape(batch * heads, -1, x.shape[-1])) for x in side
        ]
        found.append(None)
        table, kind = plan.storage.table, dtype if plan.storage.axis else jnp.float32
        if table is not None and len(table) > CHOICES:
            found[-1] = add(jnp.asarray(np.subtract(table, plan.storage.offset), kind))
        index.append(found)
    shifted = sides[1].zeros is not None

    def dot(a, b, axis):
        return lax.dot_general(
            a,
            b,
            (((1,), (axis,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    def repeat(x, plan):  # [rows, ...] -> [copies rows, ...]
        if plan.copies == 1:
            return x
        return jnp.broadcast_to(x[None], (plan.copies, *x.shape)).reshape(-1, *x.shape[1:])

    def kernel(*refs):
        refs, (most_ref, total_ref, out_ref) = refs[:-3], refs[-3:]
        head, part = pl.program_id(0), pl.program_id(1)
        row = lax.iota(jnp.int32, rows)
        limit_at = refs[1].at[head // heads, row]
        limit = triton.load(limit_at, mask=row < real, other=0)
        end = jnp.max(limit)
        blocks = pl.cdiv(end, block)
        each = pl.cdiv(blocks, count)

        def asked(j):
            """q [copies rows, bytes] at the channels of slice j of keys, each copy in its group."""
            many = keys.copies * rows, keys.bytes
            row, column = (lax.broadcasted_iota(jnp.int32, many, axis) for axis in (0, 1))
            at, own = keys.at, row // rows == 0
            if keys.storage.axis:
                own = row // rows == column // (keys.bytes // at.groups)
                column = column // at.rows * (at.rows * at.slices) + j * at.rows + column % at.rows
            own &= row % rows < real
            return triton.load(refs[0].at[head, row % rows, column], mask=own, other=0)

        queries = [asked(j) for j in range(keys.at.slices if keys.storage.axis else 1)]
        sums = sum(x.astype(jnp.float32).sum(1) for x in queries)

        def numbers(which, plan, token):
            """Scales or zeros of tokens, for each copy of rows: [copies rows or 1, tokens]."""
            ref, there = refs[which], token < end
            if plan.at.groups == 1:
                one = triton.load(ref.at[head, token, token * 0], mask=there, other=0)
                return plain.number(one)[None]
            many = plan.copies, token.shape[0]
            group = lax.broadcasted_iota(jnp.int32, many, 0)
            mask = there[None] & (group < plan.at.groups)
            at = ref.at[head, jnp.broadcast_to(token, many), group]
            some = plain.number(triton.load(at, mask=mask, other=0))
            whole = (plan.copies, rows, token.shape[0])
            return jnp.broadcast_to(some[:, None], whole).reshape(-1, token.shape[0])

        def codes_of(which, plan, row, there):
            many = row.shape[0], plan.bytes
            row, there = (jnp.broadcast_to(x[:, None], many) for x in (row, there))
            at = refs[which].at[head, row, lax.broadcasted_iota(jnp.int32, many, 1)]
            return triton.load(at, mask=there, other=0)

        def table_of(which):
            return None if which is None else refs[which]

        def score(first):
            """[(scores [rows, tokens], tokens)], of which seen ones count."""
            codes, scales, zeros, table = index[0]
            storage, at = keys.storage, keys.at
            found = []
            if storage.axis:
                token = first + lax.iota(jnp.int32, block)
                packed = codes_of(codes, keys, token, token < end)
                raw = 0.0
                for j, query in enumerate(queries):
                    one = _code(packed, j, storage)
                    raw += dot(query, _levels(one, storage, table_of(table), dtype), 1)
                if zeros is not None:
                    raw -= numbers(zeros, keys, token) * sums[:, None]
                found.append((raw * numbers(scales, keys, token), token))
            else:
                row = first // at.slices + lax.iota(jnp.int32, piece)
                tile = row // at.rows * (at.rows * at.slices)
                packed = codes_of(codes, keys, row, tile < end)
                group = tile // (at.group // at.groups)
                by = plain.number(codes_of(scales, keys, group, tile < end))
                if zeros is not None:
                    zero = plain.number(codes_of(zeros, keys, group, tile < end))
                for j in range(at.slices):
                    one = _code(packed, j, storage)
                    level = _levels(one, storage, table_of(table), jnp.dtype("float32"))
                    level = level if zeros is None else level - zero
                    raw = dot(queries[0], (level * by).astype(dtype), 1)
                    found.append((raw, tile + j * at.rows + row % at.rows))
            scores = []
            for raw, token in found:
                if keys.copies > 1:
                    raw = raw.reshape(keys.copies, rows, token.shape[0]).sum(0)
                seen = token[None] < limit[:, None]
                scores.append((jnp.where(seen, raw * scale, -jnp.inf), token))
            return scores

        def turn(i, state):
            most, total, shift, outs = state
            scores = score(i * block)
            new = most
            for each, _ in scores:
                new = jnp.maximum(new, each.max(1))
            base = jnp.where(new > -jnp.inf, new, 0.0)
            shrink = jnp.exp(most - base)
            total *= shrink
            shrink = repeat(shrink, values)
            shift, outs = shift * shrink, [out * shrink[:, None] for out in outs]
            codes, scales, zeros, table = index[1]
            for each, token in scores:
                shares = jnp.exp(each - base[:, None])
                total += shares.sum(1)
                shares = repeat(shares, values) * numbers(scales, values, token)
                shares = shares.astype(dtype)
                if shifted:
                    shift += (shares.astype(jnp.float32) * numbers(zeros, values, token)).sum(1)
                packed = codes_of(codes, values, token, token < end)
                for j in range(values.at.slices):
                    one = _code(packed, j, values.storage)
                    level = _levels(one, values.storage, table_of(table), dtype)
                    outs[j] += dot(shares, level, 0)
            return new, total, shift, tuple(outs)

        tall = values.copies * rows
        none = jnp.zeros((tall, values.bytes), jnp.float32)
        state = (
            jnp.full(rows, -jnp.inf, jnp.float32),
            jnp.zeros(rows, jnp.float32),
            jnp.zeros(tall, jnp.float32),
            (none,) * values.at.slices,
        )
        last = jnp.minimum(blocks, (part + 1) * each)
        most, total, shift, outs = lax.fori_loop(part * each, last, turn, state)
        for ref, x in ((most_ref, most), (total_ref, total)):
            triton.store(ref.at[head, part, row], x, mask=row < real)
        shape = values.copies, rows, values.bytes
        copy, _, column = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(3))
        own = copy == column // (values.bytes // values.at.groups)
        row, column = (lax.broadcasted_iota(jnp.int32, shape[1:], axis) for axis in range(2))
        for j, out in enumerate(outs):
            out = out - shift[:, None] if shifted else out
            if values.copies > 1:
                out = jnp.where(own, out.reshape(shape), 0).sum(0)
            at = out_ref.at[head, part, jnp.int32(j), row, column]
            triton.store(at, out, mask=row < real)

    shapes = [(real,), (real,), (values.at.slices, real, values.bytes)]
    most, total, out = pl.pallas_call(
        kernel,
        grid=(batch * heads, count),
        out_shape=[dispatch.result(q, (batch * heads, count, *x), jnp.float32) for x in shapes],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="kv_attention",
    )(*arrays)
    out = plain.joined(out.transpose(0, 3, 1, 2, 4), values.at)  # [bh, rows, parts, size]
    found = plain.merge(most.swapaxes(1, 2), total.swapaxes(1, 2), out)
    return tuple(x.reshape(batch, heads, *x.shape[1:]) for x in found)
