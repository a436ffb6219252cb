"""Interleaved rANS decoding: stacks of 16-bit words -> symbols, one stack per group of lanes.

The inverse of rans_encode. A lane with state x takes the symbol whose interval of frequency f and
cumulative frequency c holds the slot x & (2**p - 1), then

    x = f * (x >> p) + slot - c;  if x < 2**16: x = x << 16 | next word

Steps are visited 0..T-1. Within a step the lanes that need a word take them in ascending lane
order, the first taken being words[size - 1], the next words[size - 2], and so on. Positions past a
group's count of valid symbols leave the state untouched and return symbol 0.

The symbol of a slot is found in one of two ways. `directory` holds one entry per bucket of 16
slots: the symbol before the bucket's first interval << 16 | a mask of the slots that start one;
two gathers and a popcount then find a symbol. Without a directory the cumulative frequencies are
searched.

Corrupt input never reads out of bounds: a stack that runs out yields unspecified words while size
counts on below zero.

Shapes: G groups, T steps, L lanes, N tables of K symbols at precision p.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32, UInt16, UInt32

from jaxcomp.kernels import dispatch, rans_lax
from jaxcomp.kernels.rans_encode import (
    GPU_AHEAD,
    TPU_LANES,
    TPU_STEPS,
    tpu_adder,
    tpu_count,
    tpu_pad,
    tpu_tiles,
)

Tables = tuple[UInt32[Array, "tables symbols"], UInt32[Array, "tables buckets"] | None]
Decoded = tuple[
    Int32[Array, "groups steps lanes"], UInt32[Array, "groups lanes"], Int32[Array, " groups"]
]

TPU_TABLE_ROWS = 4096  # rows of 128 entries kept on chip: 2 MiB of a v5e's 16
TPU_ROWS = TPU_STEPS + 1  # rows of 128 words from which one block of steps can take any


def run(
    head: UInt32[Array, "groups lanes"],
    words: UInt16[Array, "groups capacity"],
    size: Int32[Array, " groups"],
    tables: Tables,
    index: Int32[Array, "groups steps lanes"] | None,
    count: Int32[Array, " groups"] | int,
    *,
    precision: int,
    steps: int,
) -> Decoded:
    """Pop `steps` symbols per lane: (symbols as columns of their table, head, size).

    index chooses the table of each symbol (None: table 0). count is the number of valid
    positions per group in (step, lane) order, or, as an int, of all groups together in
    (group, step, lane) order.
    """
    groups, lanes = head.shape
    if steps == 0 or head.size == 0:
        return jnp.zeros((groups, steps, lanes), jnp.int32), head, size
    if isinstance(count, int):
        before = jnp.arange(groups, dtype=jnp.int32) * (steps * lanes)
        count = jnp.clip(count - before, 0, steps * lanes)
    if words.shape[1] == 0:
        words = jnp.zeros((groups, 1), jnp.uint16)
    optional = {"directory": tables[1], "index": index}
    given = {name: x for name, x in optional.items() if x is not None}
    arrays = (head, words, size, count.astype(jnp.int32), tables[0], *given.values())
    return _decode(*arrays, precision=precision, steps=steps, given=tuple(given))


def supports(
    head: tuple[int, int],
    entries: tuple[int, int],
    *,
    precision: int,
    platform: str,
    index: bool = True,
) -> bool:
    """Whether `platform` ("cuda" or "tpu") has a kernel for arguments of these shapes."""
    lanes = head[-1]
    fits = 8 <= precision <= 16 and min(*head, *entries) > 0
    if platform == "cuda":
        return fits and lanes <= 1024 and lanes & (lanes - 1) == 0
    tiles = -(-entries[0] // TPU_LANES) if index else 1
    fits = fits and lanes <= TPU_LANES and tiles * entries[1] <= TPU_TABLE_ROWS
    return fits and platform == "tpu"


reference = rans_lax.decode  # the plain lax twin of `run`, which defines its result


def cuda(head, words, size, tables, index, count, *, precision, steps, interpret=False):
    """One warp per group, which walks all steps with its states in registers (see rans_encode)."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    entries, directory = tables
    groups, lanes = head.shape
    capacity, symbols = words.shape[1], entries.shape[1]
    optional = [x for x in (directory, index) if x is not None]

    def kernel(head_ref, words_ref, size_ref, count_ref, entries_ref, *rest):
        *rest, symbol_ref, new_head_ref, left_ref = rest
        index_ref = None if index is None else rest.pop()
        directory_ref = None if directory is None else rest.pop()
        group = pl.program_id(0)
        lane = lax.iota(jnp.int32, lanes)
        valid_positions = count_ref[group]

        def fetch(block):
            if index is None:
                return (jnp.zeros(lanes, jnp.int32),) * GPU_AHEAD
            first = block * GPU_AHEAD
            return tuple(
                triton.load(
                    index_ref.at[group, first + step, :],
                    mask=jnp.broadcast_to(first + step < steps, (lanes,)),
                    other=0,
                )
                for step in range(GPU_AHEAD)
            )

        def find(table, slot):
            if directory is not None:
                bucket = directory_ref[table, slot >> 4].astype(jnp.int32)
                starts = bucket & ((2 << (slot & 15)) - 1) & 0xFFFF
                return ((bucket >> 16) + popcount16(starts)) & 0xFFFF
            symbol = jnp.zeros_like(table)
            for bit in reversed(range((symbols - 1).bit_length())):
                probe = symbol + (1 << bit)
                column = jnp.minimum(probe, symbols - 1)
                start = (entries_ref[table, column] & 0xFFFF).astype(jnp.int32)
                symbol = jnp.where((probe == column) & (start <= slot), probe, symbol)
            return symbol

        def code(i, carry):
            x, size, now = carry
            ahead = fetch(i + 1)
            for step, table in enumerate(now):
                t = i * GPU_AHEAD + step
                # A wrong index must not leave the tables: nothing below clamps it.
                table = jnp.clip(table, 0, entries.shape[0] - 1)
                slot = (x & ((1 << precision) - 1)).astype(jnp.int32)
                symbol = find(table, slot)
                entry = entries_ref[table, symbol]
                valid = t * lanes + lane < valid_positions
                inside = jnp.broadcast_to(t < steps, (lanes,))
                shown = jnp.where(valid, symbol, 0)
                triton.store(symbol_ref.at[group, t, :], shown, mask=inside)
                offset = slot.astype(jnp.uint32) - (entry & 0xFFFF)
                new = ((entry >> 16) + 1) * (x >> precision) + offset
                x = jnp.where(valid & inside, new, x)
                need = x < 1 << 16
                flag = need.astype(jnp.int32)
                place = jnp.clip(size - jnp.cumsum(flag), 0, capacity - 1)
                word = triton.load(words_ref.at[group, place], mask=need, other=jnp.uint16(0))
                x = jnp.where(need, x << 16 | word.astype(jnp.uint32), x)
                size -= jnp.sum(flag)
            return x, size, ahead

        start = (head_ref[group, :], size_ref[group], fetch(jnp.int32(0)))
        x, left, _ = lax.fori_loop(0, pl.cdiv(steps, GPU_AHEAD), code, start)
        new_head_ref[group, :] = x
        left_ref[group] = left

    return pl.pallas_call(
        kernel,
        grid=(groups,),
        out_shape=(
            dispatch.result(head, (groups, steps, lanes), jnp.int32),
            dispatch.result(head, (groups, lanes), jnp.uint32),
            dispatch.result(head, (groups,), jnp.int32),
        ),
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=interpret,
        name="rans_decode",
    )(head, words, size, count, entries, *optional)


def popcount16(x: Array) -> Array:
    """Bits set in x < 2**16, by pairs, nibbles and bytes: Triton under XLA has no popcount."""
    x = x - (x >> 1 & 0x5555)
    x = (x & 0x3333) + (x >> 2 & 0x3333)
    x = (x + (x >> 4)) & 0x0F0F
    return (x + (x >> 8)) & 0x1F


def tpu(head, words, size, tables, index, count, *, precision, steps, interpret=False):
    """Groups on sublanes, lanes on lanes; the grid walks groups, and inside them blocks of steps.

    There is no gather from a table, only one inside a row of 128 lanes. So a symbol is the number
    of its table's intervals that start at or below the slot, counted over the columns; a column
    holds one entry per table, and the lanes gather theirs by table number. Words come in rows of
    128: before a block of steps, a copy brings for each group the rows below its cursor, and in
    each step every lane position picks, among those rows, the word within 128 of the cursor.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    entries = tables[0] if index is not None else tables[0][:1]
    groups, lanes = head.shape
    rows, all_groups, all_steps = tpu_tiles(groups, steps)
    tiles, symbols = -(-entries.shape[0] // TPU_LANES), entries.shape[1]
    if index is None:
        column = jnp.broadcast_to(entries.T, (symbols, TPU_LANES))
    else:
        column = tpu_pad(entries.T, (symbols, tiles * TPU_LANES), 0)
    column = column.reshape(symbols, tiles, TPU_LANES).swapaxes(0, 1)
    depth = max(-(-words.shape[1] // TPU_LANES), TPU_ROWS)
    stack = tpu_pad(words.astype(jnp.int32), (all_groups, depth * TPU_LANES), 0)
    stack = stack.reshape(all_groups, depth, TPU_LANES)
    state_shape, plane_shape = (all_groups, TPU_LANES), (all_steps, all_groups, TPU_LANES)
    # Per-group numbers fill all lanes of their row.
    size, count = (
        jnp.broadcast_to(tpu_pad(x, (all_groups,), 0)[:, None], state_shape) for x in (size, count)
    )
    start = tpu_pad(head, state_shape, 1 << 16)
    chosen = [] if index is None else [tpu_pad(index.swapaxes(0, 1), plane_shape, 0)]

    def kernel(head_ref, start_size_ref, count_ref, column_ref, stack_ref, *rest):
        index_ref = None if index is None else rest[0]
        symbol_ref, x_ref, size_ref, window_ref, adder_ref, copied = rest[len(chosen) :]
        first_group, block = pl.program_id(0) * rows, pl.program_id(1)

        @pl.when(block == 0)
        def _():
            x_ref[...] = head_ref[...]
            size_ref[...] = start_size_ref[...]
            adder_ref[...] = tpu_adder()

        top_row = (size_ref[...] + TPU_LANES - 1) >> 7
        base = jnp.clip(top_row - TPU_ROWS, 0, depth - TPU_ROWS)
        copies = [
            pltpu.make_async_copy(
                stack_ref.at[first_group + row, pl.ds(base[row, 0], TPU_ROWS)],
                window_ref.at[:, row],
                copied.at[row],
            )
            for row in range(rows)
        ]
        for copy in copies:
            copy.start()
        for copy in copies:
            copy.wait()

        lane = lax.broadcasted_iota(jnp.int32, (rows, TPU_LANES), 1)

        def compare(k, found, slot, table):
            symbol, entry = found
            here = [
                jnp.broadcast_to(column_ref[tile, pl.ds(k, 1)], lane.shape) for tile in range(tiles)
            ]
            if table is None:
                candidate = here[0]  # the one table's entry, in every lane
            else:
                here = [jnp.take_along_axis(x, table & (TPU_LANES - 1), axis=1) for x in here]
                candidate = here[0]
                for tile in range(1, tiles):
                    candidate = jnp.where(table >> 7 == tile, here[tile], candidate)
            below = (candidate & 0xFFFF).astype(jnp.int32) <= slot
            return symbol + below.astype(jnp.int32), jnp.where(below, candidate, entry)

        def find(slot, table):
            found = (jnp.full(lane.shape, -1, jnp.int32), jnp.zeros(lane.shape, jnp.uint32))
            many = 8  # columns per turn of the loop

            def turn(i, found):
                for k in range(many):
                    found = compare(i * many + k, found, slot, table)
                return found

            found = lax.fori_loop(0, symbols // many, turn, found)
            for k in range(symbols - symbols % many, symbols):
                found = compare(k, found, slot, table)
            return found

        def code(i, carry):
            x, size = carry
            slot = (x & ((1 << precision) - 1)).astype(jnp.int32)
            symbol, entry = find(slot, None if index is None else index_ref[i])
            position = (block * TPU_STEPS + i) * lanes + lane
            valid = (position < count_ref[...]) & (lane < lanes)
            symbol_ref[i] = jnp.where(valid, symbol, 0)
            offset = slot.astype(jnp.uint32) - (entry & 0xFFFF)
            x = jnp.where(valid, ((entry >> 16) + 1) * (x >> precision) + offset, x)
            need = x < 1 << 16
            taken, total = tpu_count(need, adder_ref[...])
            # Position q of a row of words belongs to the cursor's row up to the cursor, to the row
            # below it beyond: the 128 words that this step can take, each at its own position.
            top = size - 1
            past = lane > (top & (TPU_LANES - 1))
            wanted = (top >> 7) - base - past.astype(jnp.int32)
            word = jnp.zeros(lane.shape, jnp.int32)
            for row in range(TPU_ROWS):
                word = jnp.where(wanted == row, window_ref[row], word)
            word = jnp.take_along_axis(word, (size - taken) & (TPU_LANES - 1), axis=1)
            x = jnp.where(need, x << 16 | word.astype(jnp.uint32), x)
            return x, size - total

        carry = (x_ref[...], size_ref[...])
        x_ref[...], size_ref[...] = lax.fori_loop(0, TPU_STEPS, code, carry)

    state = pl.BlockSpec((rows, TPU_LANES), lambda g, b: (g, 0))
    plane = pl.BlockSpec((TPU_STEPS, rows, TPU_LANES), lambda g, b: (b, g, 0))
    whole = pl.BlockSpec(column.shape, lambda g, b: (0, 0, 0))
    symbols_out, x, size = pl.pallas_call(
        kernel,
        grid=(all_groups // rows, all_steps // TPU_STEPS),
        in_specs=[state, state, state, whole, pl.BlockSpec(memory_space=pl.ANY)]
        + [plane] * len(chosen),
        out_specs=[plane, state, state],
        out_shape=[
            dispatch.result(head, plane_shape, jnp.int32),
            dispatch.result(head, state_shape, jnp.uint32),
            dispatch.result(head, state_shape, jnp.int32),
        ],
        scratch_shapes=[
            pltpu.VMEM((TPU_ROWS, rows, TPU_LANES), jnp.int32),
            pltpu.VMEM((TPU_LANES, 2 * TPU_LANES), jnp.bfloat16),
            pltpu.SemaphoreType.DMA((rows,)),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="rans_decode",
    )(start, size, count, column, stack, *chosen)
    symbols_out = symbols_out[:steps, :groups, :lanes].swapaxes(0, 1)
    return symbols_out, x[:groups, :lanes], size[:groups, 0]


def _split(arrays, given):
    """(the five arrays that are always there, directory or None, index or None)."""
    optional = dict(zip(given, arrays[5:], strict=True))
    return arrays[:5], optional.get("directory"), optional.get("index")


def _shapes(head, *rest, precision, steps, given):
    groups, lanes = head.shape
    return [((groups, steps, lanes), jnp.int32), (head.shape, jnp.uint32), ((groups,), jnp.int32)]


def _fold(batch, arrays, *, precision, steps, given):
    (*state, entries), directory, index = _split(arrays, given)
    state = [dispatch.spread(x, batch) for x in state]
    if index is not None:
        index = dispatch.spread(index, batch)
    sets = max(len(entries), 1 if directory is None else len(directory))
    if sets > 1:
        # Every element brings its own tables: stack the sets and shift the indices.
        groups, lanes = state[0].shape
        tables = entries.shape[1]
        first = jnp.arange(batch, dtype=jnp.int32).repeat(groups // batch) * tables
        index = jnp.zeros((groups, steps, lanes), jnp.int32) if index is None else index
        index = jnp.clip(index, 0, tables - 1) + first[:, None, None]
    entries = dispatch.spread(entries, sets)
    directory = None if directory is None else dispatch.spread(directory, sets)
    head, words, size, count = state
    static = {"precision": precision, "steps": steps}
    results = run(head, words, size, (entries, directory), index, count, **static)
    return tuple(x.reshape(batch, -1, *x.shape[1:]) for x in results)


def _on(platform, kernel):
    """The kernel where it supports the shapes, else the reference."""

    def lowered(*arrays, precision, steps, given):
        (head, words, size, count, entries), directory, index = _split(arrays, given)
        known = {"precision": precision, "platform": platform, "index": index is not None}
        use = kernel if kernel and supports(head.shape, entries.shape, **known) else reference
        static = {"precision": precision, "steps": steps}
        return use(head, words, size, (entries, directory), index, count, **static)

    return lowered


_decode = dispatch.primitive(
    "rans_decode",
    shapes=_shapes,
    reference=_on("any", None),
    kernels={"cuda": _on("cuda", cuda), "tpu": _on("tpu", tpu)},
    fold=_fold,
)
