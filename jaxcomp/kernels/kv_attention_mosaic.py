"""kv_attention as a Mosaic kernel, for TPUs: tokens along the lanes, as XLA keeps small bytes.

XLA lays an array whose last axis is short out with its longest axis along the lanes, and that of a
cache is the axis of chunks. So a block is [bytes, chunks] for each token of a chunk, and nothing is
padded or moved on its way in. The grid walks blocks and, innermost, heads, whose softmax stays in
memory on the chip. Rows are repeated for each group of channels with a scale of its own, as on a
GPU. Blocks behind the last token are not fetched.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.kernels import dispatch
from jaxcomp.kernels import kv_attention_lax as plain
from jaxcomp.kernels.kv_attention_lax import Shape, Side, number
from jaxcomp.kernels.quant_matmul_lax import Storage, levels

LANES, SUBLANES = 128, 8
BLOCK = 2048  # tokens of a block, where a lane's worth of chunks is no more
UNROLLED = 4  # tokens of a chunk that the compiler schedules together
MOST_ROWS = 64  # of a head, repeated ones counted
MOST_OUTPUT = 1 << 20  # values that all heads' outputs hold on the chip, twice


class _Plan(NamedTuple):
    """How one side is read; `bytes` are those of a token (axis 1), or of a channel in a chunk."""

    at: Shape
    storage: Storage
    bytes: int

    @property
    def copies(self):
        return self.at.groups if self.storage.axis else 1


def _plan(side: Side, storage: Storage) -> _Plan:
    at = plain.shape(side.codes, side.scales, storage)
    return _Plan(at, storage, side.codes.shape[3 + storage.axis])


def supports(q, sides: tuple[Side, Side], storages: tuple[Storage, Storage]) -> bool:
    """Whether the kernel takes the arguments: whole registers of bytes, values whose scales are
    shared by channels, and integers or a table of at most 16 levels."""
    rows = -(-q.shape[2] // SUBLANES) * SUBLANES
    plans = [_plan(*each) for each in zip(sides, storages, strict=True)]
    if q.shape[1] * plans[1].at.slices * plans[1].copies * rows * LANES > MOST_OUTPUT:
        return False
    for plan, storage in zip(plans, storages, strict=True):
        if plan.bytes % SUBLANES or plan.copies * rows > MOST_ROWS:
            return False
        if storage.table is not None and (storage.bits == 8 or len(storage.table) > 16):
            return False
    return storages[1].axis == 1 and q.dtype in (jnp.dtype("float32"), jnp.dtype("bfloat16"))


def _levels(words: jax.Array, j, storage: Storage, dtype) -> jax.Array:
    """What the codes of slice j stand for; words are bytes in int32."""
    if storage.bits == 8 and storage.table is None:
        codes = words + 128
    else:
        codes = words >> j * storage.bits & ((1 << storage.bits) - 1)
    if storage.table is not None:
        return levels(codes, storage).astype(dtype)
    return (codes.astype(jnp.float32) - storage.offset).astype(dtype)


def call(q, limits, sides, *, storages, scale: float, interpret: bool = False):
    """(most, total, out) of kv_attention.run."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    (batch, heads, real, _), dtype = q.shape, q.dtype
    keys, values = (_plan(*each) for each in zip(sides, storages, strict=True))
    chunks, group = keys.at.chunks, keys.at.group
    rows = -(-real // SUBLANES) * SUBLANES
    block = chunks if chunks <= LANES else max(LANES, BLOCK // group // LANES * LANES)
    precision = lax.Precision.HIGHEST if dtype == jnp.float32 else None
    slices = values.at.slices

    limits = jnp.pad(limits, [(0, 0), (0, rows - real)])
    q = jnp.pad(q, [(0, 0), (0, 0), (0, rows - real), (0, 0)])
    if keys.storage.axis:
        q = plain.sliced(q, keys.at)  # [b, h, rows, slices, bytes]
        q = q[:, :, None] * plain.own_group(keys.at, keys.bytes)[:, None, None].astype(dtype)
        q = q.transpose(0, 1, 4, 2, 3, 5)  # [b, h, slices, copies, rows, bytes]
        q = q.reshape(*q.shape[:3], -1, keys.bytes)
    else:
        q = q[:, :, None]
    sums = q.astype(jnp.float32).sum((2, 4))[..., None]  # [b, h, copies rows, 1]

    def steps(counts, b):
        return pl.cdiv(counts[b], block * group)

    def here(b, i, h, counts):
        """The block that is read at a step: behind the last token the one before, again."""
        last = jnp.maximum(steps(counts, b) - 1, 0)
        return jnp.minimum(i, last), jnp.where(i > last, heads - 1, h)

    def spec(shape, order):
        """Of an array [b, h, chunks, ...] whose axes were put in this order."""
        sizes = [shape[axis] for axis in order]
        for axis in (0, *([1] if order.index(1) == 1 else [])):
            sizes[order.index(axis)] = 1
        sizes[order.index(2)] = block

        def index(b, i, h, counts):
            i, h = here(b, i, h, counts)
            at = {0: b, 1: h if order.index(1) == 1 else 0, 2: i, 3: 0, 4: 0}
            return tuple(at[axis] for axis in order)

        return pl.BlockSpec(tuple(sizes), index)

    arrays, specs, index = [], [], []
    for side, plan in zip(sides, (keys, values), strict=True):
        if plan.storage.axis:
            # Single numbers of tokens lie with the heads along the sublanes.
            single = plan.at.groups == 1
            orders = (0, 1, 3, 4, 2), (0, 3, 4, 1, 2) if single else (0, 1, 3, 4, 2)
        else:
            orders = (0, 1, 2, 3, 4), (0, 1, 3, 2, 4)
        found = []
        for part, order in zip(side, (orders[0], orders[1], orders[1]), strict=True):
            found.append(None if part is None else len(arrays))
            if part is not None:
                arrays.append(part.transpose(order))
                specs.append(spec(part.shape, order))
        index.append(found)

    def dot(a, b, axis):
        return lax.dot_general(
            a,
            b,
            (((1,), (axis,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    def divide(i, by):  # // and % mind signs
        return lax.div(i, jnp.int32(by)), lax.rem(i, jnp.int32(by))

    def kernel(counts, q_ref, sums_ref, limits_ref, *refs):
        refs, (most_ref, total_ref, out_ref, shift_ref), scratch = (
            *(refs[: len(arrays)], refs[len(arrays) : len(arrays) + 4]),
            refs[len(arrays) + 4 :],
        )
        b, step, head = pl.program_id(0), pl.program_id(1), pl.program_id(2)
        scores_ref = scratch[0]

        @pl.when(step == 0)
        def _():
            most_ref[0, head] = jnp.full((rows, 1), -jnp.inf, jnp.float32)
            total_ref[0, head] = jnp.zeros((rows, 1), jnp.float32)
            out_ref[0, head] = jnp.zeros(out_ref.shape[2:], jnp.float32)
            shift_ref[0, head] = jnp.zeros(shift_ref.shape[2:], jnp.float32)

        def numbers(which, plan, token):
            """Scales or zeros of one token of each chunk, a row [1, chunks] for each group."""
            ref = refs[which]
            if plan.at.groups == 1:
                every = number(ref[0, token, 0])
                own = lax.broadcasted_iota(jnp.int32, every.shape, 0) == head
                return [jnp.where(own, every, 0).sum(0, keepdims=True)]
            every = number(ref[0, 0, token])
            return [every[g : g + 1] for g in range(plan.at.groups)]

        def place(token):
            lane = lax.broadcasted_iota(jnp.int32, (1, block), 1)
            return (step * block + lane) * group + token

        if not keys.storage.axis:
            every = refs[index[0][0]][0, 0].astype(jnp.int32)  # [chunks, bytes, size]
            words_ref = scratch[1]
            words_ref[...] = every.reshape(words_ref.shape)

        def score(token):
            codes, scales, zeros = index[0]
            at, storage = keys.at, keys.storage
            if storage.axis:
                words = refs[codes][0, 0, token].astype(jnp.int32)
                raw = 0.0
                for j in range(at.slices):
                    raw += dot(q_ref[0, 0, j], _levels(words, j, storage, dtype), 0)
                by = numbers(scales, keys, token)
                zero = None if zeros is None else numbers(zeros, keys, token)
                found = 0.0
                for g in range(at.groups):
                    each = raw[g * rows : (g + 1) * rows]
                    if zero is not None:
                        each -= zero[g] * sums_ref[0, 0, g * rows : (g + 1) * rows]
                    found += each * by[g]
            else:
                tile, inside = divide(token, at.rows * at.slices)
                number_, row = divide(inside, at.rows)
                start = tile * at.rows + row
                words = words_ref[pl.ds(start, block, stride=keys.bytes), :]
                level = _levels(words, number_, storage, jnp.float32)
                mine, _ = divide(token, group // at.groups)
                if zeros is not None:
                    level -= number(refs[zeros][0, 0, mine])
                level *= number(refs[scales][0, 0, mine])
                found = dot(q_ref[0, 0, 0], level.astype(dtype), 1)
            return jnp.where(place(token) < limits_ref[0], found * scale, -jnp.inf)

        def attend():
            most, total = most_ref[0, head], total_ref[0, head]

            def first(token, highest):
                scores = score(token)
                scores_ref[token] = scores
                return jnp.maximum(highest, scores)

            highest = jnp.full((rows, block), -jnp.inf, jnp.float32)
            highest = lax.fori_loop(0, group, first, highest, unroll=min(group, UNROLLED))
            new = jnp.maximum(most, highest.max(1, keepdims=True))
            base = jnp.where(new > -jnp.inf, new, 0.0)
            shrink = jnp.exp(most - base)
            tall = jnp.concatenate([shrink] * values.copies, 0)
            codes, scales, zeros = index[1]

            def second(token, state):
                total, shift, outs = state
                shares = jnp.exp(scores_ref[token] - base)
                total += shares
                there = place(token) < counts[b]  # what lies behind may be no number
                by = [jnp.where(there, x, 0) for x in numbers(scales, values, token)]
                parts = [(shares * x).astype(dtype) for x in by]
                if zeros is not None:
                    zero = [jnp.where(there, x, 0) for x in numbers(zeros, values, token)]
                    moved = [p.astype(jnp.float32) * x for p, x in zip(parts, zero, strict=True)]
                    moved = [x.sum(1, keepdims=True) for x in moved]
                    shift += jnp.concatenate(moved, 0)
                shares = jnp.concatenate(parts, 0)
                words = refs[codes][0, 0, token].astype(jnp.int32)
                outs = [
                    out + dot(shares, _levels(words, j, values.storage, dtype), 1)
                    for j, out in enumerate(outs)
                ]
                return total, shift, tuple(outs)

            outs = tuple(out_ref[0, head, j] * tall for j in range(slices))
            state = jnp.zeros((rows, block), jnp.float32), shift_ref[0, head] * tall, outs
            more, shift, outs = lax.fori_loop(0, group, second, state, unroll=min(group, UNROLLED))
            most_ref[0, head] = new
            total_ref[0, head] = total * shrink + more.sum(1, keepdims=True)
            shift_ref[0, head] = shift
            for j, out in enumerate(outs):
                out_ref[0, head, j] = out

        pl.when(step < steps(counts, b))(attend)

    def per_head(shape):
        return pl.BlockSpec((1, 1, *shape), lambda b, i, h, counts: (b, h, *(0,) * len(shape)))

    def all_heads(shape):
        return pl.BlockSpec(
            (1, heads, *shape), lambda b, i, h, counts: (b, *(0,) * (len(shape) + 1))
        )

    tall = values.copies * rows
    shapes = [(rows, 1), (rows, 1), (slices, tall, values.bytes), (tall, 1)]
    scratch = [pltpu.VMEM((group, rows, block), jnp.float32)]
    if not keys.storage.axis:
        scratch.append(pltpu.VMEM((block * keys.bytes, keys.at.size), jnp.int32))
    most, total, out, shift = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, pl.cdiv(chunks, block), heads),
            in_specs=[
                per_head(q.shape[2:]),
                per_head(sums.shape[2:]),
                pl.BlockSpec((1, rows, 1), lambda b, i, h, counts: (b, 0, 0)),
                *specs,
            ],
            out_specs=[all_heads(x) for x in shapes],
            scratch_shapes=scratch,
        ),
        out_shape=[dispatch.result(q, (batch, heads, *x), jnp.float32) for x in shapes],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        interpret=interpret,
        name="kv_attention",
    )(limits.max(1), q, sums, limits[..., None], *arrays)
    out = (out - shift[:, :, None]).reshape(*out.shape[:3], values.copies, rows, values.bytes)
    own = plain.own_group(values.at, values.bytes)[:, None]
    out = jnp.where(own, out, 0).sum(3)  # [b, h, slices, rows, bytes]
    out = plain.joined(out.swapaxes(2, 3), values.at)
    return most[:, :, :real, 0], total[:, :, :real, 0], out[:, :, :real]
