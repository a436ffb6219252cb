"""One plane of bytes <-> fewer bytes, exactly: as it is, one value, or rANS of bytes or pairs.

    u8     0 raw       n bytes
           1 constant  the byte
           2 singles   a symbol is a byte
           3 pairs     a symbol is two bytes of at most 16 kinds: one lookup for both
           4 runs      where a part of the bytes is noise and another is not: u8, how many; for
                       each u32 bytes, u32 length; then a plane for each, of another kind
    of 2 and 3
    u8     log2 of lanes
    u8     precision of the tables: 12, 13 or 14 bits
    u8     kinds - 1; where ESCAPES, the last kind stands for all other bytes
    u8     classes
    u8     flags: ESCAPES, ROWS, COLUMNS, CARGO: heads carry two bytes each of another plane
    u32    symbols in a row, bytes of the side information, words, escapes
    side   deflated: the kinds; a class step for each row and each column (coding/byte_classes.py);
           shares - 1 of each class and kind, all low bytes, then all high ones
    u32    a head for each lane
    u16    words
    u8     the byte of each escape

Shares are estimated from a sample, and any byte can be coded: an escape costs a byte more than
its symbol. Where one is decoded, the plane holds the least byte that is no kind.
"""

import itertools
import struct
import zlib

import numpy as np

from jaxcomp.base import CorruptStream
from jaxcomp.coding import byte_classes, byte_streams
from jaxcomp.coding.byte_tables import SHARES, best_table, frequencies, shares
from jaxcomp.kernels.rans_bytes import KINDS, MOST, PRECISIONS, SYMBOLS

RAW, CONSTANT, SINGLES, PAIRS, RUNS = range(5)
ESCAPES, ROWS, COLUMNS, CARGO = 1, 2, 4, 8
HEADER = struct.Struct("<BBBBBBIIII")
LEAST = 256  # bytes: below, what a table and heads take is never saved
# Bytes looked at: an eighth of the plane. From so many, 256 frequencies cost 0.01 bits a byte at
# most, and the 25 of exponents a thousandth.
LEAST_SAMPLE, MOST_SAMPLE = 1 << 15, 1 << 16
GOLDEN = (5**0.5 - 1) / 2  # multiples of it are far from each other, modulo 1
BLOCK = 32  # neighbours that are sampled together
ENOUGH = 0.99  # of the raw size: what is saved above it does not pay for the time
FEW = 1 << 10  # bytes to an escape: of fewer escapes each is searched for, which is faster
FOUND_AT_ONCE = 1 << 16  # bytes in which escapes are looked for: they stay in a cache
RARE = 2.0**-14  # share of a byte that costs less as an escape than as a kind
SEGMENT = 1 << 17  # bytes that are noise or not
NOISE = 0.98  # of 8 bits: a segment that has more is noise
RUN = struct.Struct("<II")
ESCAPED = 2.0**-8  # share of escapes at which pairs cost more than singles


def write_plane(
    plane: np.ndarray,
    width: int = 0,
    cargo: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> list[bytes | np.ndarray]:
    """u8[n] -> parts that joined are its bytes. width: values in a row of a matrix, else 0.
    groups: rows of each of several arrays, if they are.

    cargo: u8[n] bytes of which a coded plane takes the first with it, as many as `carried` says.
    """
    raw = [bytes([RAW]), plane]
    if plane.size < LEAST:
        return raw
    if cargo is None and len(runs := _runs(plane)) > 1:
        parts = [write_plane(run) for run in runs]
        sizes = [RUN.pack(run.size, length(p)) for run, p in zip(runs, parts, strict=True)]
        parts = [bytes([RUNS, len(runs)]), *sizes, *itertools.chain(*parts)]
        return parts if length(parts) <= plane.size else raw
    sample = _sample(plane)
    counts = np.bincount(sample, minlength=SYMBOLS)
    if counts.max() == sample.size and (plane == plane[0]).all():
        return [bytes([CONSTANT, plane[0]])]
    if _entropy(counts) > 8 * ENOUGH:
        return raw
    order = np.argsort(-counts, kind="stable").astype(np.uint8)
    counts = counts[order]
    kinds, paired, escapes = _alphabet(counts / sample.size, plane, order)
    counts[kinds - 1] += counts[kinds:].sum()
    rows = width, groups
    coded = _write_coded(plane, rows, order[:kinds], counts[:kinds], paired, escapes, cargo)
    return coded if length(coded) <= plane.size else raw


def carried(parts: list[bytes | np.ndarray]) -> int:
    """Bytes of other cargo in what write_plane has made."""
    mode, log2, *_, flags = HEADER.unpack_from(parts[0])[:6] if len(parts[0]) > 2 else (RAW, 0, 0)
    return 2 << log2 if mode > CONSTANT and flags & CARGO else 0


def is_raw(parts: list[bytes | np.ndarray]) -> bool:
    """Whether write_plane stored the plane as it is: then it is the second of the parts."""
    return parts[0][0] == RAW


def read_plane(data: memoryview, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(u8[count] of write_plane, or u8[1] of a constant; cargo). Raises CorruptStream."""
    if not len(data) or data[0] > RUNS:
        raise CorruptStream(f"expected a plane of bytes, got {bytes(data[:1])!r}")
    if data[0] <= CONSTANT:
        expected = 2 if data[0] else 1 + count
        if len(data) != expected:
            raise CorruptStream(f"expected a plane of {expected} bytes, got {len(data)}")
        return np.frombuffer(data, np.uint8, offset=1), np.zeros(0, np.uint8)
    if data[0] == RUNS:
        return _read_runs(data, count), np.zeros(0, np.uint8)
    return _read_coded(data, count)


def length(parts: list[bytes | np.ndarray]) -> int:
    """Bytes of parts that are to be joined."""
    return sum(memoryview(part).nbytes for part in parts)


def _runs(plane):
    """Parts of a plane, of whole segments, that are noise or that are not, by turns."""
    if plane.size < 2 * SEGMENT:
        return [plane]
    starts = np.arange(0, plane.size // SEGMENT) * SEGMENT
    samples = [np.bincount(plane[s : s + SEGMENT : 16], minlength=SYMBOLS) for s in starts]
    noise = np.array([_entropy(counts) > 8 * NOISE for counts in samples])
    cuts = starts[1:][noise[1:] != noise[:-1]]
    return np.split(plane, cuts) if len(cuts) < 255 else [plane]


def _entropy(counts):
    share = counts[counts > 0] / counts.sum()
    return -(share * np.log2(share)).sum()


def _read_runs(data, count):
    at = 2 + RUN.size * (data[1] if len(data) > 1 else 255)
    if len(data) < at:
        raise CorruptStream(f"expected runs of at least {at} bytes, got {len(data)}")
    sizes = [RUN.unpack_from(data, i) for i in range(2, at, RUN.size)]
    if sum(size for size, _ in sizes) != count or sum(n for _, n in sizes) != len(data) - at:
        raise CorruptStream(f"expected runs of {count} bytes in {len(data)}, got others")
    plane, start = np.empty(count, np.uint8), 0
    for size, n in sizes:
        run = data[at : at + n]
        if len(run) and run[0] == RUNS:
            raise CorruptStream("expected a run, got runs in runs")
        got, cargo = read_plane(run, size)
        if cargo.size:
            raise CorruptStream("expected a run that carries nothing, got one with cargo")
        plane[start : start + size], start, at = got, start + size, at + n
    return plane


def _sample(plane):
    blocks = plane.size // BLOCK
    wanted = min(max(plane.size // 8, LEAST_SAMPLE), MOST_SAMPLE) // BLOCK
    return spread(plane, blocks, wanted) if blocks > 1.5 * wanted else plane


def spread(values: np.ndarray, blocks: int, wanted: int) -> np.ndarray:
    """Values in so many blocks of all, evenly spread, and in step with no width of rows."""
    k = np.arange(1, wanted + 1) * GOLDEN % 1 * blocks
    return values[: values.size // blocks * blocks].reshape(blocks, -1)[k.astype(int)].reshape(-1)


def _alphabet(share, plane, order):
    """(kinds, whether two share a symbol, whether the last is the escape)."""
    common = int((share > RARE).sum())
    if share[KINDS - 1 :].sum() < ESCAPED:
        return min(common, KINDS - 1) + 1, True, True
    if common == KINDS and not share[KINDS:].any():
        known = np.zeros(SYMBOLS, bool)
        known[order[:KINDS]] = True
        if known[plane].all():
            return KINDS, True, False
    return (SYMBOLS, False, False) if common == SYMBOLS else (common + 1, False, True)


def _write_coded(plane, rows, order, counts, paired, escapes, cargo):
    kinds = len(order)
    rank = np.full(SYMBOLS, kinds - 1, np.uint8)
    known = kinds - escapes
    rank[order[:known]] = np.arange(known, dtype=np.uint8)
    width, groups = rows
    paired, classes = byte_classes.choose(plane, width, paired, rank, counts, groups)
    per = 1 + paired
    g = shares(classes.counts)
    precision, table = best_table(g, paired)
    last = kinds - 1 if escapes else SYMBOLS - 1
    if plane.size % per:
        plane = np.append(plane, order[0])
    symbols = plane.view(np.uint16) if paired else plane
    lanes = byte_streams.lanes_for(symbols.size)
    with_cargo = cargo is not None and cargo.size >= 2 * lanes
    freight = cargo[: 2 * lanes].view(np.uint16) if with_cargo else np.zeros(lanes, np.uint16)
    head, words, found = byte_streams.encode(
        symbols, classes.of(symbols.size), freight, rank, last, table, precision, paired
    )
    flags = escapes * ESCAPES | (classes.rows is not None) * ROWS
    flags |= (classes.columns is not None) * COLUMNS | with_cargo * CARGO
    tail = []
    if escapes:
        found = plane.reshape(-1, per)[found].reshape(-1)
        tail = [found[rank[found] == last]]
    parts = [order[:known].tobytes(), *(s.tobytes() for s in classes.steps())]
    side = b"".join([*parts, (g - 1 & 0xFF).astype(np.uint8), (g - 1 >> 8).astype(np.uint8)])
    side = zlib.compress(side, 9)
    numbers = classes.width, len(side), len(words), length(tail)
    log2 = lanes.bit_length() - 1
    start = HEADER.pack(SINGLES + paired, log2, precision, kinds - 1, len(g), flags, *numbers)
    return [start, side, head, words, *tail]


def _read_coded(data, count):
    if len(data) < HEADER.size:
        raise CorruptStream(f"expected a plane of at least {HEADER.size} bytes, got {len(data)}")
    mode, log2, precision, kinds, classes, flags, *numbers = HEADER.unpack_from(data)
    width, side, words, escaped = numbers
    paired, kinds = mode == PAIRS, kinds + 1
    symbols = -(-count // (1 + paired))
    escapes = flags & ESCAPES
    lanes = byte_streams.lanes_for(symbols)  # told for readers on other floors; never another
    expected = HEADER.size + side + 4 * lanes + 2 * words + escaped
    most_kinds = KINDS if paired else SYMBOLS
    fits = expected == len(data) and kinds <= most_kinds and escaped <= (count if escapes else 0)
    fits &= 1 << min(log2, 31) == lanes and precision in PRECISIONS and flags < 16
    if not fits or not 1 <= classes <= byte_classes.MOST or words > symbols:
        raise CorruptStream("expected the header of a plane of bytes, got another")
    at = HEADER.size
    known = kinds - escapes
    layout = byte_classes.sizes(width, symbols, flags & ROWS > 0, flags & COLUMNS > 0)
    whole = known + sum(layout) + 2 * classes * kinds
    blob = _inflate(data[at : at + side], whole)
    order, blob = blob[:known], blob[known:]
    index = byte_classes.read(blob[: sum(layout)], layout, width, symbols, classes)
    table = _read_table(blob[sum(layout) :].reshape(2, classes, kinds), precision, paired)
    values, none = _values(order, kinds, paired)
    at += side
    head = np.frombuffer(data, np.uint32, lanes, at)
    at += 4 * lanes
    stream = np.frombuffer(data, np.uint16, words, at)
    plane, cargo = byte_streams.decode(
        head, stream, index, table, precision, values, symbols, paired
    )
    plane = plane.view(np.uint8)[:count]
    at += 2 * words
    if not flags & CARGO and cargo.any():
        raise CorruptStream("expected heads that carry nothing, got others; damaged?")
    cargo = cargo.view(np.uint8) if flags & CARGO else np.zeros(0, np.uint8)
    if escapes:
        plane = _with_escapes(plane, none, np.frombuffer(data, np.uint8, escaped, at))
    return plane, cargo


def _read_table(stored, precision, paired):
    """Frequencies of stored shares, u8[2, classes, kinds]: low bytes, then high ones."""
    g = (stored[0].astype(np.int64) | stored[1].astype(np.int64) << 8) + 1
    if (g.sum(1) != SHARES).any():
        raise CorruptStream(f"expected shares that sum to {SHARES}, got {g.sum(1).max()}")
    table = frequencies(g, precision, paired)
    if table.max() > MOST:
        raise CorruptStream(f"expected frequencies up to {MOST}, got {table.max()}")
    return table


def _values(order, kinds, paired):
    """(u16[256], the byte or bytes of each symbol; the byte that stands for an escape)."""
    times = np.bincount(order, minlength=SYMBOLS)
    none = np.flatnonzero(times == 0)[:1].astype(np.uint8)
    known = len(order)
    if known + len(none) < kinds or times.max() > 1:
        raise CorruptStream(f"expected {known} kinds of bytes, got some of them twice")
    values = np.zeros(KINDS if paired else SYMBOLS, np.uint16)
    values[:known] = order
    values[known:kinds] = none[: kinds - known]
    if paired:
        values = (values[None, :] | values[:, None] << 8).reshape(-1)
    return values, none


def _with_escapes(plane, none, escapes):
    if len(escapes) * FEW > plane.size:
        blocks = range(0, plane.size, FOUND_AT_ONCE)
        found = [np.flatnonzero(plane[i : i + FOUND_AT_ONCE] == none[0]) + i for i in blocks]
        place = np.concatenate(found) if found else np.zeros(0, int)
        plane = plane if plane.flags.writeable else plane.copy()
    else:
        held = bytearray(plane)  # which can be searched, and written to
        place, at = [], held.find(none[0])
        while at >= 0 and len(place) <= len(escapes):
            place.append(at)
            at = held.find(none[0], at + 1)
        plane = np.frombuffer(held, np.uint8)
    if len(place) != len(escapes):
        raise CorruptStream(f"expected {len(escapes)} escapes, got {len(place)}")
    plane[place] = escapes
    return plane


def _inflate(data, size):
    """u8[size] of deflated bytes, and no more memory than that."""
    inflate = zlib.decompressobj()
    try:
        out = inflate.decompress(data, size + 1)
    except zlib.error as error:
        raise CorruptStream(f"expected side information, got none: {error}") from None
    if len(out) != size or not inflate.eof or inflate.unused_data:
        raise CorruptStream(f"expected {size} bytes of side information, got {len(out)}")
    return np.frombuffer(out, np.uint8)
