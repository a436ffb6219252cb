"""An ANS message: its arrays, its size in lanes, and its bytes.

Bytes of a stream, little-endian, with no tables inside:

    u8      bits 0-2 log2(lanes per group), bit 3 escapes follow, bit 4 several groups,
            bits 5-7 version: 1, or 2 if the last symbols are on half of the lanes (halving.py)
    varint  words of the group; or the number of groups, and a u8 k with the words of each of them
            as exponential Golomb codes
    bits    4 bits per head: floor(log2 head) - 16; then the bits of each head below its top one
    u16     words of group 0, bottom of the stack first; of group 1; ...
    varint  the number of escapes, and a u8 k with the escapes as exponential Golomb codes
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, UInt16, UInt32

from jaxcomp.base import CapacityError, CorruptStream, JaxcompError
from jaxcomp.coding import universal

VERSION, HALVED = 1, 2
MAX_HALVED = 64  # more lanes cost 1 % of a message at most, and may be shards of a longer one
LANES_PER_GROUP = 128  # one row of a TPU vector register, four GPU warps
MAX_LANES = 1 << 14  # CPU and GPU gain nothing from more (measured)
# What a lane costs: the 16 bits of its initial state and, as no decoder knows how far a state has
# grown, 4 for its length; log2(16 ln 2) = 3.5 of them no code can save. Up to 64 lanes that code a
# whole message, half of them have initial states of use, and cost 4 (halving.py).
HEAD_BITS, HALVED_BITS = 20, 12
INITIAL_HEAD = 1 << 16


class Stream(NamedTuple):
    """Words, heads and escapes; every group of lanes is a stack of its own.

    head         u32[groups, lanes], in [2**16, 2**32), 2**16 when empty
    words        u16[groups, capacity], of which size[g] are in use, bottom first
    size         i32[groups]; negative: more was popped than had been pushed
    escapes      u32[m], of which escape_size are in use: values outside their tables
    escape_size  i32
    overflow     bool: a capacity was too small, or a symbol or an index was out of range
    halved       () if the last symbols are on half of the lanes (halving.py), else None; static
    """

    head: UInt32[Array, "*batch groups lanes"]
    words: UInt16[Array, "*batch groups capacity"]
    size: Int32[Array, "*batch groups"]
    escapes: UInt32[Array, "*batch m"]
    escape_size: Int32[Array, "*batch"]
    overflow: Bool[Array, "*batch"]
    halved: tuple[()] | None = None


def split_lanes(lanes: int) -> tuple[int, int]:
    """lanes -> (groups, lanes per group). Raises JaxcompError unless lanes is a power of two."""
    if lanes < 1 or lanes & (lanes - 1):
        raise JaxcompError(f"lanes must be a power of two, got {lanes}")
    per_group = min(lanes, LANES_PER_GROUP)
    return lanes // per_group, per_group


def choose_lanes(bits: float, *, whole: bool = False) -> int:
    """Lanes for a message of `bits`: heads cost at most 1 % of it, 3 % while that is 128 bytes.

    whole: its last symbols start half of the lanes (halving.py), which are then cheaper.
    """
    cost = max(0.01 * bits, min(0.03 * bits, 128 * 8))
    lanes = min(MAX_LANES, _power_of_two(cost / HEAD_BITS))
    return max(lanes, min(MAX_HALVED, _power_of_two(cost / HALVED_BITS))) if whole else lanes


def _power_of_two(limit):
    return 1 << int(np.log2(max(limit, 1)))


def empty(lanes: int, capacity: int, *, escape_capacity: int = 0) -> Stream:
    """A stream without symbols, with room for `capacity` words per group."""
    groups, per_group = split_lanes(lanes)
    return Stream(
        jnp.full((groups, per_group), INITIAL_HEAD, jnp.uint32),
        jnp.zeros((groups, capacity), jnp.uint16),
        jnp.zeros(groups, jnp.int32),
        jnp.zeros(escape_capacity, jnp.uint32),
        jnp.zeros((), jnp.int32),
        jnp.zeros((), bool),
    )


def is_finished(stream: Stream) -> Bool[Array, "*batch"]:
    """Whether everything pushed has been popped: the free integrity check of ANS.

    A wrong table, a flipped bit or a truncation leaves a lane away from its initial state with
    probability about 1 - 2**-16 per lane.
    """
    return jnp.asarray(_finished(stream))


def _finished(stream):
    # Operators, not jax.numpy: for arrays of the host nothing is compiled.
    empty = (stream.head == INITIAL_HEAD).all((-2, -1)) & (stream.size == 0).all(-1)
    return empty & (stream.escape_size == 0) & ~stream.overflow


def check_finished(stream: Stream) -> None:
    """Raise CorruptStream unless is_finished, on concrete values."""
    with jax.ensure_compile_time_eval():  # the values are concrete, whatever is being traced
        finished = bool(_finished(stream).all())
    if not finished:
        raise CorruptStream(
            "expected every lane back at its initial state and no word left after decoding; the "
            "stream is corrupt, or these are not the tables and indices that it was encoded with"
        )


def round_up(value: int) -> int:
    """`value` rounded up to one of eight sizes per octave, so that few shapes are compiled."""
    if value <= 16:
        return 16
    step = 1 << (int(value - 1).bit_length() - 4)
    return -(-value // step) * step


def to_bytes(stream: Stream) -> bytes:
    """The stream as bytes: at most 16 bytes, 2 bytes per further group, heads, words, escapes.

    Raises CapacityError if the stream overflowed, JaxcompError for a batch of streams.
    """
    head, words, size, escapes, escape_size, overflow = map(np.asarray, stream[:6])
    if head.ndim != 2:
        raise JaxcompError(f"expected one stream, got a batch of shape {head.shape[:-2]}; map it")
    if overflow or (size > words.shape[1]).any() or (size < 0).any():
        raise CapacityError(
            f"expected at most {words.shape[1]} words per group and {len(escapes)} escapes, got "
            f"{size.max()} and {escape_size}; encode with a larger capacity, and with symbols and "
            "indices inside the tables"
        )
    groups, lanes = head.shape
    version = VERSION if stream.halved is None else HALVED
    kind = version << 5 | (groups > 1) << 4 | bool(escape_size) << 3 | lanes.bit_length() - 1
    sizes = _varint(groups) + _golomb(size) if groups > 1 else _varint(size[0])
    extra = head.reshape(-1).astype(np.uint64)
    length = np.frexp(extra.astype(np.float64))[1] - 1  # floor(log2 head), 16 to 31
    rest = extra - (np.uint64(1) << length.astype(np.uint64))
    heads = universal.pack_bits(
        np.concatenate([length - 16, rest.astype(np.int64)]),
        np.concatenate([np.full(len(length), 4), length]),
    )
    used = [words[g, : size[g]] for g in range(groups)]
    parts = [bytes([kind]), sizes, heads, np.concatenate(used).astype("<u2").tobytes()]
    if escape_size:
        parts += [_varint(escape_size), _golomb(escapes[:escape_size])]
    return b"".join(parts)


def from_bytes(data: bytes, *, max_escapes: int | None = None) -> Stream:
    """The stream of to_bytes; its arrays are NumPy's, on the host.

    max_escapes: how many a message of this kind can hold; unpacking takes up to 200 times the bytes
    that they are packed in. Raises CorruptStream for bytes that no encoder wrote, and for more
    escapes, before allocating what they ask for.
    """
    if not data or data[0] >> 5 not in (VERSION, HALVED):
        raise CorruptStream(
            f"expected a stream of version {VERSION} or {HALVED}, got {len(data)} bytes starting "
            f"{data[:1].hex() or 'nowhere'}; an earlier or later jaxcomp may read it"
        )
    kind, lanes = data[0], 1 << (data[0] & 7)
    halved = () if kind >> 5 == HALVED else None
    if halved is not None and (kind & 16 or not 2 <= lanes <= MAX_HALVED):
        raise CorruptStream(f"expected one group of 2 to {MAX_HALVED} lanes, got others: {kind:x}")
    first, data = _read_varint(data[1:])
    if kind & 16:
        groups = first
        if not 1 <= groups * lanes * HEAD_BITS <= 8 * len(data):
            raise CorruptStream(f"expected {groups} x {lanes} heads, got {len(data)} bytes")
        size, data = _read_golomb(data, groups)
    else:
        size, groups = np.array([first], np.uint64), 1
    total = int(size.sum())
    if 2 * total > len(data):
        raise CorruptStream(f"expected {total} words, got {len(data)} bytes")
    count = groups * lanes
    lengths, _ = universal.unpack_bits(data, np.full(count, 4))
    lengths = lengths.astype(np.int64) + 16
    fields, used = universal.unpack_bits(data, np.concatenate([np.full(count, 4), lengths]))
    head = (np.uint64(1) << lengths.astype(np.uint64)) + fields[count:]
    data = data[used:]
    if 2 * total > len(data):
        raise CorruptStream(f"expected {total} words, got {len(data)} bytes")
    capacity = round_up(int(size.max()))
    if groups * capacity > (1 << 22) + 64 * len(data):
        raise CorruptStream(
            f"expected groups of similar sizes, got {groups} groups of up to {size.max()} words in "
            f"{len(data)} bytes"
        )
    words = np.zeros((groups, capacity), np.uint16)
    ends = np.cumsum(size.astype(np.int64))[:-1]
    for row, stack in zip(words, np.split(np.frombuffer(data, "<u2", total), ends), strict=True):
        row[: len(stack)] = stack
    data = data[2 * total :]
    escapes = np.zeros(0, np.uint32)
    if kind & 8:
        escape_count, data = _read_varint(data)
        if max_escapes is not None and escape_count > max_escapes:
            raise CorruptStream(f"expected at most {max_escapes} escapes, got {escape_count}")
        escapes, data = _read_golomb(data, escape_count)
    if data:
        raise CorruptStream(f"expected the end of the stream, got {len(data)} more bytes")
    return Stream(
        head.astype(np.uint32).reshape(groups, lanes),
        words,
        size.astype(np.int32),
        escapes.astype(np.uint32),
        np.asarray(len(escapes), np.int32),
        np.asarray(False),
        halved,
    )


def _golomb(values):
    k = universal.best_exponential_golomb(values)
    return bytes([k]) + universal.exponential_golomb_encode(values, k)


def _read_golomb(data, count):
    if not data or data[0] > 31:
        raise CorruptStream(f"expected an exponential Golomb parameter 0 to 31, got {data[:1]!r}")
    values, used = universal.exponential_golomb_decode(data[1:], count, data[0])
    if count and values.max() >= 1 << 32:
        raise CorruptStream(f"expected integers below 2**32, got {values.max()}")
    return values, data[1 + used :]


def _varint(value):
    value, out = int(value), b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _read_varint(data):
    value = 0
    for place, byte in enumerate(data[:5]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, data[place + 1 :]
    raise CorruptStream("expected an integer of at most 5 bytes; truncated?")
