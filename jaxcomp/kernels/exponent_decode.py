"""Lossless bfloat16: pairs of exponents decoded and joined to signs and mantissas in one pass.

What kernels/rans_decode.py does with one table, and then, with symbol s of step t and lane l,

    kind    = s & 15 of the first half of a group's weights, s >> 4 of the second
    rotated = kinds[kind] << 8 | raw[half, t, l]
    bits    = rotated >> 1 | rotated << 15        the exponent stands behind the sign again

so that symbols never reach memory: 3.3 bytes are read and written for a weight, instead of 9. On a
TPU the kernel of rans_decode finds symbols, and XLA joins them: there, finding takes the time.

Shapes: G groups, T steps, L lanes; 16 kinds, so 256 symbols.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt8, UInt16, UInt32

from jaxcomp.kernels import dispatch, rans_decode

KINDS = 16  # of exponents, two of which make a symbol of a byte
AHEAD = 4  # steps whose raw bytes are fetched while the four before them are decoded

Decoded = tuple[UInt16[Array, "groups 2 steps lanes"], UInt32[Array, "groups lanes"]]


def run(
    head: UInt32[Array, "groups lanes"],
    words: UInt16[Array, "groups capacity"],
    raw: UInt8[Array, "groups 2 steps lanes"],
    tables: rans_decode.Tables,
    kinds: UInt8[Array, " 16"],
    *,
    precision: int,
) -> Decoded:
    """(bits, head after the last symbol); stacks end where their rows do.

    tables are one row of entries and its directory. Damage never reads out of bounds.
    """
    entries, directory = tables
    return tuple(_decode(head, words, raw, entries, directory, kinds[None], precision=precision))


def reference(head, words, raw, entries, directory, kinds, *, precision):
    """What the kernel computes: rans_decode, and plain lax."""
    groups, _, steps, lanes = raw.shape
    size = jnp.full(groups, words.shape[1], jnp.int32)
    static = {"precision": precision, "steps": steps}
    count = jnp.full(groups, steps * lanes, jnp.int32)
    symbol, head, _ = rans_decode.run(
        head, words, size, (entries, directory), None, count, **static
    )
    symbol = symbol.astype(jnp.uint8)
    return merged(chosen(halves(symbol[:, None], 1), kinds[0]), raw), head


def halves(symbol: Array, axis: int) -> Array:
    """Kinds of the first half, then of the second, along an axis."""
    return jnp.concatenate([symbol & (KINDS - 1), symbol >> 4], axis)


def chosen(kind: Array, kinds: Array) -> Array:
    """kinds[kind] by comparisons, which fuse: on a CPU in a third of the time of a gather."""
    found = jnp.broadcast_to(kinds[0], kind.shape)
    for i in range(1, KINDS):
        found = jnp.where(kind == i, kinds[i], found)
    return found


def supports(head: tuple[int, int], entries: tuple[int, int], *, precision: int) -> bool:
    """Whether a GPU has the kernel for arguments of these shapes."""
    known = {"precision": precision, "platform": "cuda", "index": False}
    return entries == (1, KINDS**2) and rans_decode.supports(head, entries, **known)


def merged(high: Array, raw: Array) -> Array:
    """bits of bytes high, of which the low byte counts, and raw."""
    rotated = high.astype(jnp.uint16) << 8 | raw.astype(jnp.uint16)
    return rotated >> 1 | rotated << 15


def cuda(head, words, raw, entries, directory, kinds, *, precision, interpret=False):
    """One warp per group, which walks all steps with its states in registers."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    groups, _, steps, lanes = raw.shape
    capacity = words.shape[1]

    def kernel(head_ref, words_ref, raw_ref, entry_ref, directory_ref, pair_ref, bits_ref, new_ref):
        group = pl.program_id(0)

        def fetch(block):
            first = block * AHEAD
            return tuple(
                triton.load(
                    raw_ref.at[group, half * steps + first + step, :],
                    mask=jnp.broadcast_to(first + step < steps, (lanes,)),
                    other=jnp.uint8(0),
                )
                for step in range(AHEAD)
                for half in range(2)
            )

        def code(i, carry):
            x, size, now = carry
            ahead = fetch(i + 1)
            for step in range(AHEAD):
                t = i * AHEAD + step
                inside = jnp.broadcast_to(t < steps, (lanes,))
                slot = (x & ((1 << precision) - 1)).astype(jnp.int32)
                bucket = directory_ref[0, slot >> 4].astype(jnp.int32)
                starts = bucket & ((2 << (slot & 15)) - 1) & 0xFFFF
                symbol = ((bucket >> 16) + rans_decode.popcount16(starts)) & 0xFFFF
                symbol = jnp.minimum(symbol, entries.shape[1] - 1)
                entry, both = entry_ref[0, symbol], pair_ref[0, symbol]
                for half in range(2):
                    bits = merged(both >> (8 * half), now[2 * step + half])
                    triton.store(bits_ref.at[group, half * steps + t, :], bits, mask=inside)
                new = ((entry >> 16) + 1) * (x >> precision) + (
                    slot.astype(jnp.uint32) - (entry & 0xFFFF)
                )
                x = jnp.where(inside, new, x)
                need = x < 1 << 16
                flag = need.astype(jnp.int32)
                place = jnp.clip(size - jnp.cumsum(flag), 0, capacity - 1)
                word = triton.load(words_ref.at[group, place], mask=need, other=jnp.uint16(0))
                x = jnp.where(need, x << 16 | word.astype(jnp.uint32), x)
                size -= jnp.sum(flag)
            return x, size, ahead

        start = (head_ref[group, :], jnp.int32(capacity), fetch(jnp.int32(0)))
        new_ref[group, :] = lax.fori_loop(0, pl.cdiv(steps, AHEAD), code, start)[0]

    pairs = halves(jnp.arange(KINDS**2, dtype=jnp.uint8)[None], 0)
    low, high = kinds[0].astype(jnp.uint16)[pairs]
    pair = (low | high << 8)[None]  # one load for two weights
    rows = (groups, 2 * steps, lanes)  # no index of a kernel may be a Python number
    bits, new = pl.pallas_call(
        kernel,
        grid=(groups,),
        out_shape=(
            dispatch.result(head, rows, jnp.uint16),
            dispatch.result(head, head.shape, jnp.uint32),
        ),
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=interpret,
        name="exponent_decode",
    )(head, words, raw.reshape(rows), entries, directory, pair)
    return bits.reshape(raw.shape), new


def _shapes(head, words, raw, *rest, precision):
    return [(raw.shape, jnp.uint16), (head.shape, jnp.uint32)]


def _fold(batch, arrays, *, precision):
    """One after another: each has a table of its own, which an index per symbol would outweigh."""
    wide = [jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in arrays]
    return lax.map(lambda each: _decode(*each, precision=precision), wide)


def _on_cuda(head, words, raw, entries, directory, kinds, *, precision):
    use = cuda if supports(head.shape, entries.shape, precision=precision) else reference
    return use(head, words, raw, entries, directory, kinds, precision=precision)


_decode = dispatch.primitive(
    "exponent_decode",
    shapes=_shapes,
    reference=reference,
    kernels={"cuda": _on_cuda},
    fold=_fold,
)
