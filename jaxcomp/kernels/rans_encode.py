"""Interleaved rANS encoding: intervals of many symbols -> 16-bit words, one stack per group.

A lane is a coder of its own with a 32-bit state x in [2**16, 2**32). Pushing a symbol with
frequency f and cumulative frequency c at precision p is

    if x >> (32 - p) >= f:  emit x & 0xffff;  x >>= 16
    x = (x // f << p) + c + x % f

L lanes form a group that shares one stack of words. Encoding visits steps T-1..0 (decoding, which
pops, visits 0..T-1); within a step the emitted words are pushed in descending lane order, so that
the decoder's lanes take them in ascending order. This order is the format: it never depends on the
platform. The interval of step t, lane l arrives packed as (f - 1) << 16 | c, gathered by XLA
beforehand; padding is (2**p - 1) << 16, whose push leaves any state unchanged.

Shapes: G groups, T steps, L lanes. Duda, Asymmetric numeral systems, arXiv:1311.2540; interleaving
after Giesen, Interleaved entropy coders, arXiv:1402.3392.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, UInt16, UInt32

from jaxcomp.kernels import dispatch, rans_lax

Encoded = tuple[
    UInt32[Array, "groups lanes"], UInt16[Array, "groups capacity"], Int32[Array, " groups"]
]

GPU_AHEAD = 4  # steps whose intervals are fetched while the four before them are coded
TPU_LANES = 128  # lanes of a vector register; narrower groups leave the rest idle
TPU_STEPS = 16  # steps per grid cell: 256 KiB of intervals for 32 groups, double-buffered


def run(
    head: UInt32[Array, "groups lanes"],
    start_freq: UInt32[Array, "groups steps lanes"],
    capacity: int,
    *,
    precision: int,
) -> Encoded:
    """Push all symbols onto empty stacks: (head, words, size).

    words[g, :size[g]] is the stack of group g, bottom first, zeros above. Words that do not fit
    into `capacity` are dropped while size keeps counting: size > capacity means overflow.
    """
    if start_freq.size == 0:
        groups = head.shape[0]
        return head, jnp.zeros((groups, capacity), jnp.uint16), jnp.zeros(groups, jnp.int32)
    # An array without elements cannot be stored to: a capacity of 0 is cut from one of 1.
    room = max(capacity, 1)
    head, words, size = _encode(head, start_freq, capacity=room, precision=precision)
    return head, words[:, :capacity], size


def supports(
    head: tuple[int, int],
    start_freq: tuple[int, int, int],
    *,
    precision: int,
    platform: str,
) -> bool:
    """Whether `platform` ("cuda" or "tpu") has a kernel for arguments of these shapes."""
    lanes = head[-1]
    fits = 8 <= precision <= 16 and min(*head, *start_freq) > 0
    if platform == "cuda":
        return fits and lanes <= 1024 and lanes & (lanes - 1) == 0
    return fits and platform == "tpu" and lanes <= TPU_LANES


def reference(
    head: UInt32[Array, "groups lanes"],
    start_freq: UInt32[Array, "groups steps lanes"],
    capacity: int,
    *,
    precision: int,
) -> Encoded:
    """The plain lax twin of `run`, which defines its result."""
    head, word, emit = rans_lax.encode(head, start_freq, precision=precision)
    # Steps and lanes are both visited downwards: the stack is the flattened plane, reversed.
    groups = head.shape[0]
    word, emit = (jnp.flip(x.reshape(groups, -1), 1) for x in (word, emit))
    count = rans_lax.prefix_sum(emit)
    place = jnp.where(emit, count - 1, capacity)
    empty = jnp.zeros_like(word, shape=(groups, capacity))
    words = jax.vmap(lambda w, i, v: w.at[i].set(v, mode="drop"))(empty, place, word)
    return head, words, count[:, -1]


def divide(x: Array, freq: Array, precision: int) -> Array:
    """x // freq for 32-bit x < freq << (32 - precision), as renormalisation leaves it.

    A float32 estimate is off by at most 1 where the quotient has at most 20 bits (it errs by a few
    parts in 2**24); below precision 12 the remainder is divided once more to get there.
    """
    inverse = 1.0 / freq.astype(jnp.float32)
    quotient = (x.astype(jnp.float32) * inverse).astype(jnp.int32)
    x, freq = x.astype(jnp.int32), freq.astype(jnp.int32)
    rest = x - quotient * freq
    if precision < 12:
        quotient += (rest.astype(jnp.float32) * inverse).astype(jnp.int32)
        rest = x - quotient * freq
    quotient += (rest >= freq).astype(jnp.int32) - (rest < 0).astype(jnp.int32)
    return quotient.astype(jnp.uint32)


def push(x: Array, entry: Array, precision: int) -> tuple[Array, Array]:
    """(state after the symbol, whether the low word of x had to go first)."""
    freq, start = (entry >> 16) + 1, entry & 0xFFFF
    emit = x >> 16 >= freq << (16 - precision)
    x = jnp.where(emit, x >> 16, x)
    quotient = divide(x, freq, precision)
    return (quotient << precision) + start + (x - quotient * freq), emit


def cuda(head, start_freq, *, capacity, precision, interpret=False):
    """One warp per group, which walks all steps with its states in registers.

    A prefix sum over the lanes places the emitted words. One warp rather than four for 128 lanes:
    its prefix sum needs no barrier, and four lanes per thread hide each other's latency.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    groups, steps, lanes = start_freq.shape
    blocks = pl.cdiv(steps, GPU_AHEAD)
    idle = np.uint32(((1 << precision) - 1) << 16)
    wipe = 1024  # words cleared at once above the top of the stack

    def kernel(head_ref, entry_ref, new_head_ref, words_ref, size_ref):
        group = pl.program_id(0)

        def fetch(block):
            first = block * GPU_AHEAD
            return tuple(
                triton.load(
                    entry_ref.at[group, first + step, :],
                    mask=jnp.broadcast_to((first + step >= 0) & (first + step < steps), (lanes,)),
                    other=idle,
                )
                for step in range(GPU_AHEAD)
            )

        def code(i, carry):
            x, size, entries = carry
            ahead = fetch(blocks - 2 - i)
            for entry in reversed(entries):
                word = x.astype(jnp.uint16)
                x, emit = push(x, entry, precision)
                flag = emit.astype(jnp.int32)
                size += jnp.sum(flag)
                place = jnp.where(emit, size - jnp.cumsum(flag), capacity)
                triton.store(words_ref.at[group, place], word, mask=place < capacity)
            return x, size, ahead

        start = (head_ref[group, :], jnp.int32(0), fetch(jnp.int32(blocks - 1)))
        x, size, _ = lax.fori_loop(0, blocks, code, start)
        new_head_ref[group, :] = x
        size_ref[group] = size

        def clear(i, _):
            place = i * wipe + lax.iota(jnp.int32, wipe)
            above = (place >= size) & (place < capacity)
            triton.store(words_ref.at[group, place], jnp.zeros(wipe, jnp.uint16), mask=above)

        lax.fori_loop(jnp.minimum(size, capacity) // wipe, pl.cdiv(capacity, wipe), clear, None)

    return pl.pallas_call(
        kernel,
        grid=(groups,),
        out_shape=(
            dispatch.result(head, (groups, lanes), jnp.uint32),
            dispatch.result(head, (groups, capacity), jnp.uint16),
            dispatch.result(head, (groups,), jnp.int32),
        ),
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=interpret,
        name="rans_encode",
    )(head, start_freq)


def tpu(head, start_freq, *, capacity, precision, interpret=False):
    """Groups on sublanes, lanes on lanes; the grid walks groups, and inside them blocks of steps.

    Every group keeps its unfinished row of 128 words in a register. A step merges its words into
    that row and writes the row out, flagged when it is full; at most one row fills per step. What
    is left to XLA is to gather the flagged rows: whole rows of 128 words, not single words.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    groups, steps, lanes = start_freq.shape
    rows, all_groups, all_steps = tpu_tiles(groups, steps)
    blocks = all_steps // TPU_STEPS
    idle = np.uint32(((1 << precision) - 1) << 16)
    entry = tpu_pad(start_freq.swapaxes(0, 1), (all_steps, all_groups, TPU_LANES), idle)
    start = tpu_pad(head, (all_groups, TPU_LANES), 1 << 16)

    def kernel(head_ref, entry_ref, x_ref, size_ref, tail_ref, rows_ref, adder_ref):
        @pl.when(pl.program_id(1) == 0)
        def _():
            x_ref[...] = head_ref[...]
            size_ref[...] = jnp.zeros_like(size_ref)
            tail_ref[...] = jnp.zeros_like(tail_ref)
            adder_ref[...] = tpu_adder()

        lane = lax.broadcasted_iota(jnp.int32, (rows, TPU_LANES), 1)

        def code(i, carry):
            x, size, tail = carry
            step = TPU_STEPS - 1 - i
            word = (x & 0xFFFF).astype(jnp.int32)
            x, emit = push(x, entry_ref[step], precision)
            upto, total = tpu_count(emit, adder_ref[...])
            # Lane q of the row takes the k-th word pushed, k = q - fill (mod 128): the one of the
            # highest lane from which up more than k lanes emit. Found by bisection.
            fill = size & (TPU_LANES - 1)
            k = (lane - fill) & (TPU_LANES - 1)
            upward = total - upto + emit.astype(jnp.int32)
            source = jnp.zeros_like(lane)
            for bit in (64, 32, 16, 8, 4, 2, 1):
                enough = jnp.take_along_axis(upward, source + bit, axis=1) > k
                source = jnp.where(enough, source + bit, source)
            word = jnp.take_along_axis(word, source, axis=1)
            tail = jnp.where(lane >= fill, word, tail)
            full = fill + total >= TPU_LANES
            rows_ref[step] = tail | full.astype(jnp.int32) << 16
            return x, size + total, jnp.where(full, word, tail)

        carry = (x_ref[...], size_ref[...], tail_ref[...])
        x_ref[...], size_ref[...], tail_ref[...] = lax.fori_loop(0, TPU_STEPS, code, carry)

    state = pl.BlockSpec((rows, TPU_LANES), lambda g, b: (g, 0))
    plane = pl.BlockSpec((TPU_STEPS, rows, TPU_LANES), lambda g, b: (blocks - 1 - b, g, 0))
    x, size, tail, out = pl.pallas_call(
        kernel,
        grid=(all_groups // rows, blocks),
        in_specs=[state, plane],
        out_specs=[state, state, state, plane],
        out_shape=[
            dispatch.result(head, start.shape, jnp.uint32),
            dispatch.result(head, start.shape, jnp.int32),
            dispatch.result(head, start.shape, jnp.int32),
            dispatch.result(head, entry.shape, jnp.int32),
        ],
        scratch_shapes=[pltpu.VMEM((TPU_LANES, 2 * TPU_LANES), jnp.bfloat16)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="rans_encode",
    )(start, entry)
    size, tail, out = size[:groups, 0], tail[:groups], out[::-1, :groups]
    words = _gather_rows(out, tail, size, capacity)
    return x[:groups, :lanes], words, size


def _gather_rows(out, tail, size, capacity):
    """Flagged rows [T, G, 128] in order of pushing and the unfinished one -> [G, capacity]."""
    steps, groups = out.shape[:2]
    rows = -(-capacity // TPU_LANES)
    row = jnp.arange(rows, dtype=jnp.int32)
    full = out[:, :, 0] >> 16
    place = jnp.where(full == 1, jnp.cumsum(full, axis=0) - 1, rows)
    step = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.int32)[:, None], place.shape)
    source = jnp.zeros_like(place, shape=(rows, groups))
    source = source.at[place, jnp.arange(groups)].set(step, mode="drop")
    words = out[source, jnp.arange(groups)]  # [rows, G, 128]
    last = row[:, None] == size // TPU_LANES
    words = jnp.where(last[:, :, None], tail, words).swapaxes(0, 1).reshape(groups, -1)
    inside = jnp.arange(capacity) < size[:, None]
    return jnp.where(inside, words[:, :capacity], 0).astype(jnp.uint16)


def tpu_tiles(groups: int, steps: int) -> tuple[int, int, int]:
    """(groups per grid cell, groups padded to it, steps padded to blocks).

    Eight groups fill a vector register; four registers at once hide the latency of a step.
    """
    rows = min(32, -(-groups // 8) * 8)
    return rows, -(-groups // rows) * rows, -(-steps // TPU_STEPS) * TPU_STEPS


def tpu_pad(x: Array, shape: tuple[int, ...], value: int | np.integer) -> Array:
    """x at the start of an array of this shape, value elsewhere."""
    padding = [(0, new - old) for new, old in zip(shape, x.shape, strict=True)]
    return jnp.pad(x, padding, constant_values=value)


def tpu_adder() -> Array:
    """[128, 256] of ones and zeros whose product with a row of flags counts them, see tpu_count."""
    shape = (TPU_LANES, 2 * TPU_LANES)
    source, target = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    counted = (target >= TPU_LANES) | (source <= target)
    return counted.astype(jnp.float32).astype(jnp.bfloat16)


def tpu_count(flag: Array, adder: Array) -> tuple[Array, Array]:
    """(flags set up to and including each lane, flags set in all lanes), both [rows, 128].

    A product on the matrix unit, exact: ones and zeros in bfloat16, sums up to 128 in float32.
    """
    flag = flag.astype(jnp.float32).astype(jnp.bfloat16)
    count = jnp.dot(flag, adder, preferred_element_type=jnp.float32).astype(jnp.int32)
    return count[:, :TPU_LANES], count[:, TPU_LANES:]


def _shapes(head, start_freq, *, capacity, precision):
    groups = head.shape[0]
    return [(head.shape, jnp.uint32), ((groups, capacity), jnp.uint16), ((groups,), jnp.int32)]


def _fold(batch, arrays, **static):
    results = _encode(*(dispatch.spread(x, batch) for x in arrays), **static)
    return tuple(x.reshape(batch, -1, *x.shape[1:]) for x in results)


def _on(platform, kernel):
    """The kernel where it supports the shapes, else the reference."""

    def lowered(head, start_freq, *, capacity, precision):
        shapes = (head.shape, start_freq.shape)
        chosen = supports(*shapes, precision=precision, platform=platform)
        chosen = kernel if chosen else reference
        return chosen(head, start_freq, capacity=capacity, precision=precision)

    return lowered


_encode = dispatch.primitive(
    "rans_encode",
    shapes=_shapes,
    reference=reference,
    kernels={"cuda": _on("cuda", cuda), "tpu": _on("tpu", tpu)},
    fold=_fold,
)
