"""Blocks of GGUF: where each kind keeps its codes and scales, and what they stand for.

    Q4_0 Q5_0 Q8_0    d (q - middle)                          32 values, d a float16
    Q4_1 Q5_1         d q + m                                 32 values, d and m float16
    Q3_K Q6_K         (d s) (q - middle)                      256 values, s of 6 or 8 bits for 16
    Q2_K Q4_K Q5_K    (d s) q - (dmin m)                      256 values, s and m for 16 or 32
    IQ4_NL IQ4_XS     d level(q), (d s) level(q)              levels that are not uniform
    TQ1_0 TQ2_0       d (q - 1)                               256 values; TQ1_0 has five to a byte
    MXFP4             2**(e - 127) e2m1(q)                    32 values
    NVFP4             e4m3(n) e2m1(q)                         64 values, n for 16

`split` takes blocks apart into those integers and floats, `join` puts them back, byte for byte, and
`decode` computes in float32, in the order of the brackets. The layouts are those of the ggml
library (MIT licence), told as a table: fields one after another, each of codes in tiles
(bit_fields.py).
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.formats.float4 import MAGNITUDES
from jaxcomp.io.bit_fields import pack_tiles, unpack_tiles

SUPER = 256  # values of a block of the kinds with scales of scales
# Levels of IQ4_NL and IQ4_XS.
UNEVEN = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class Field(NamedTuple):
    """part: what it belongs to; bits and tile as in bit_fields.py; count of codes; shift of them.

    bits 16 is a float16, and 12 the scales and minima of Q4_K and Q5_K, 6 bits each in 12 bytes.
    """

    part: str
    bits: int
    tile: int
    count: int
    shift: int = 0

    @property
    def nbytes(self) -> int:
        return self.count * 6 // 8 if self.bits == 12 else self.count * self.bits // 8


class Kind(NamedTuple):
    """number: in files. values: of a block. offset: the code of 0. group: values under a scale."""

    number: int
    values: int
    fields: tuple[Field, ...]
    offset: int = 0
    group: int = 0
    scale_offset: int = 0
    levels: tuple[float, ...] | None = None

    @property
    def nbytes(self) -> int:
        return sum(field.nbytes for field in self.fields)


def _codes(bits, tile, count, shift=0):
    return Field("codes", bits, tile, count, shift)


_D, _M = Field("d", 16, 0, 1), Field("m", 16, 0, 1)
_DMIN = Field("dmin", 16, 0, 1)
_SIX = Field("both", 12, 0, 16)
_FP4 = (*MAGNITUDES, *(0.0 - x for x in MAGNITUDES))  # zero has no sign

KINDS: dict[str, Kind] = {
    "Q4_0": Kind(2, 32, (_D, _codes(4, 32, 32)), 8),
    "Q4_1": Kind(3, 32, (_D, _M, _codes(4, 32, 32))),
    "Q5_0": Kind(6, 32, (_D, _codes(1, 8, 32, 4), _codes(4, 32, 32)), 16),
    "Q5_1": Kind(7, 32, (_D, _M, _codes(1, 8, 32, 4), _codes(4, 32, 32))),
    "Q8_0": Kind(8, 32, (_D, _codes(8, 32, 32)), 128),
    "Q2_K": Kind(10, SUPER, (Field("both", 4, 32, 32), _codes(2, 128, 256), _D, _DMIN), group=16),
    "Q3_K": Kind(
        11,
        SUPER,
        (
            *(_codes(1, 256, 256, 2), _codes(2, 128, 256)),
            *(Field("s", 4, 16, 16), Field("s", 2, 16, 16, 4), _D),
        ),
        offset=4,
        group=16,
        scale_offset=32,
    ),
    "Q4_K": Kind(12, SUPER, (_D, _DMIN, _SIX, _codes(4, 64, 256)), group=32),
    "Q5_K": Kind(
        13, SUPER, (_D, _DMIN, _SIX, _codes(1, 256, 256, 4), _codes(4, 64, 256)), group=32
    ),
    "Q6_K": Kind(
        14,
        SUPER,
        (_codes(4, 128, 256), _codes(2, 128, 256, 4), Field("s", 8, 16, 16), _D),
        offset=32,
        group=16,
        scale_offset=128,
    ),
    "IQ4_NL": Kind(20, 32, (_D, _codes(4, 32, 32)), levels=UNEVEN),
    "IQ4_XS": Kind(
        23,
        SUPER,
        (_D, Field("s", 2, 4, 8, 4), Field("s", 4, 2, 8), _codes(4, 32, 256)),
        group=32,
        scale_offset=32,
        levels=UNEVEN,
    ),
    "TQ1_0": Kind(34, SUPER, (Field("trits", 8, 52, 52), _D), 1),
    "TQ2_0": Kind(35, SUPER, (_codes(2, 128, 256), _D), 1),
    "MXFP4": Kind(39, 32, (Field("e", 8, 1, 1), _codes(4, 32, 32)), levels=_FP4),
    "NVFP4": Kind(40, 64, (Field("n", 8, 1, 4), _codes(4, 16, 64)), group=16, levels=_FP4),
}
SIGNED = ("Q8_0", "Q6_K")  # whose fields of 8 bits are two's complement: from 0 on, 128 more
# Runs of TQ1_0: (bytes, digits in each); digit n of byte r is the value n * bytes + r of its run.
TRIT_RUNS = ((32, 5), (16, 5), (4, 4))


def kind(name: str) -> Kind:
    """UnsupportedInput for a name without blocks here."""
    if name not in KINDS:
        raise UnsupportedInput(
            f"expected a kind of block among {', '.join(KINDS)}, got {ascii(name)[:40]}; choose "
            "one of these, or convert the file with the tool that wrote it"
        )
    return KINDS[name]


def split(blocks: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """u8 [n, bytes of a block] -> the parts: codes u8 [n, values] and s, m u8 [n, groups], all from
    0 on (level = code - offset); d, m, dmin f16 [n]; e u8 [n]."""
    made, at = kind(name), 0
    if blocks.ndim != 2 or blocks.shape[1] != made.nbytes or blocks.dtype != np.uint8:
        raise CorruptStream(
            f"expected blocks of {made.nbytes} bytes for {name}, got {blocks.dtype} {blocks.shape};"
            " fetch the file again"
        )
    parts: dict[str, Any] = {}
    for field in made.fields:
        raw = np.ascontiguousarray(blocks[:, at : at + field.nbytes])
        at += field.nbytes
        if field.bits == 16:
            parts[field.part] = raw.view("<f2")[:, 0]
            continue
        x = _unpack_six(raw) if field.bits == 12 else unpack_tiles(raw, field.bits, field.tile)
        if field.bits == 8 and name in SIGNED:
            x = x ^ np.uint8(128)
        parts[field.part] = parts.get(field.part, 0) | x << field.shift
    if "both" in parts:
        both = parts.pop("both")
        parts["s"], parts["m"] = np.split(both, 2, 1)
    if "e" in parts:
        parts["e"] = parts["e"][:, 0]
    if "trits" in parts:
        parts["codes"] = _unpack_trits(parts.pop("trits"))
    return parts


def join(parts: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The inverse of split: u8 [n, bytes of a block]."""
    made, parts = kind(name), dict(parts)
    if any(field.part == "both" for field in made.fields):
        parts["both"] = np.concatenate([parts["s"], parts["m"]], 1)
    if "e" in parts:
        parts["e"] = parts["e"][:, None]
    if name == "TQ1_0":
        parts["trits"] = _pack_trits(parts["codes"])
    done = []
    for field in made.fields:
        x = parts[field.part]
        if field.bits == 16:
            done.append(np.ascontiguousarray(x.astype("<f2"))[:, None].view(np.uint8))
        elif field.bits == 12:
            done.append(_pack_six(x))
        else:
            if field.bits == 8 and name in SIGNED:
                x = x ^ np.uint8(128)
            low = x >> field.shift & np.uint8((1 << field.bits) - 1)
            done.append(pack_tiles(low, field.bits, field.tile))
    return np.concatenate(done, 1)


def values(parts: dict[str, np.ndarray], name: str) -> np.ndarray:
    """f32 [n, values] of the parts of blocks."""
    made = kind(name)
    codes = parts["codes"]
    if made.levels is not None:
        levels = np.asarray(made.levels, np.float32)
        x = levels[codes]
    else:
        x = codes.astype(np.float32) - np.float32(made.offset)
    if "e" in parts:  # from 0 on, 255 too: this kind has no NaN
        scale = np.ldexp(np.float32(1), parts["e"].astype(np.int32) - 128)
        return x * np.float32(2) * scale[:, None]
    if "n" in parts:
        scale = unsigned_e4m3()[parts["n"]]
        return (x.reshape(*scale.shape, made.group) * scale[:, :, None]).reshape(codes.shape)
    d = parts["d"].astype(np.float32)[:, None]
    if "s" not in parts:
        x = d * x
        return x if "m" not in parts else x + parts["m"].astype(np.float32)[:, None]
    s = parts["s"].astype(np.float32) - np.float32(made.scale_offset)
    x = (d * s)[:, :, None] * x.reshape(*s.shape, made.group)
    if "dmin" in parts:
        dmin = parts["dmin"].astype(np.float32)[:, None]
        x = x - (dmin * parts["m"].astype(np.float32))[:, :, None]
    return x.reshape(codes.shape)


def unsigned_e4m3() -> np.ndarray:
    """f32[256]: the scales of NVFP4. The sign counts for nothing, and 127 is 0 rather than NaN."""
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 15, byte & 7
    table = np.ldexp(np.where(exponent, 8.0, 0.0) + fraction, np.maximum(exponent, 1) - 10)
    table[127] = 0
    return table.astype(np.float32)


def decode(blocks: np.ndarray, name: str) -> np.ndarray:
    """f32 [n, values] of u8 [n, bytes of a block]."""
    with np.errstate(invalid="ignore", over="ignore"):  # damaged scales may be infinite or NaN
        return values(split(blocks, name), name)


def _unpack_six(raw):
    """12 bytes -> 8 scales and 8 minima: the first four of each in the low bits of bytes 0 to 3 and
    4 to 7; the others in the nibbles of the last four, and the high bits of the first eight."""
    a, b, c = (raw[:, i : i + 4] for i in (0, 4, 8))
    scales = [a & 63, c & 15 | a >> 6 << 4]
    return np.concatenate([*scales, b & 63, c >> 4 | b >> 6 << 4], 1)


def _pack_six(both):
    s, t, m, n = np.split(both, 4, 1)
    return np.concatenate([s | t >> 4 << 6, m | n >> 4 << 6, t & 15 | (n & 15) << 4], 1)


def _unpack_trits(raw):
    """Digits of the fraction byte / 256 in base 3, the first first."""
    done, at = [], 0
    for size, digits in TRIT_RUNS:
        left = raw[:, at : at + size].astype(np.uint16)
        at += size
        for _ in range(digits):
            left = left * 3
            done.append((left >> 8).astype(np.uint8))
            left &= 255
    return np.concatenate(done, 1)


def _pack_trits(codes):
    done, at = [], 0
    for size, digits in TRIT_RUNS:
        runs = codes[:, at : at + size * digits].reshape(len(codes), digits, size)
        at += size * digits
        number = np.zeros((len(codes), size), np.uint32)
        for n in range(5):  # a run of four has a last digit of 0
            number = number * 3 + (runs[:, n] if n < digits else 0)
        done.append((number * 256 + 242) // 243)  # rounded up, so that digits come out whole
    return np.concatenate(done, 1).astype(np.uint8)
