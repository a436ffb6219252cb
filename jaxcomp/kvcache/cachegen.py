"""CacheGen: keys and values of a context as a bitstream, to be stored or sent instead of computed.

    code = round(x / bin - mean)       one bin and mean per channel; errors are at most bin / 2
    left = code - (weight * code of the token before + 4 >> 3),   coded by rANS

Liu et al., CacheGen: KV Cache Compression and Streaming for Fast Context Loading, SIGCOMM 2024,
section 5. As there, tokens are coded as differences to tokens that are near, bins belong to layers
(coarser in deeper ones if `deeper` says so), tables belong to a layer and a channel and serve all
tokens, and chunks of tokens are coded by themselves. We differ in what we found to be smaller:

- the difference is to a weight of 0 to 1, one per channel, times the token before; CacheGen's is to
  the first of ten tokens. A difference is larger than what it is made of unless neighbours are
  correlated by more than 1/2: some channels of keys are, values are not. Bits of a number at the
  same codes, ours, without differences, and to anchors: 4.76, 5.09, 5.22 in stories260K, and 3.62,
  3.80, 4.04 in MiniLM. Codes are predicted from codes, so an error stays in its token, and the
  first token of a chunk needs no finer bins;
- tables are parametric (cachegen_model.py): 8 to 17 bits a channel in all, not counts of symbols;
- with queries=, bins of keys are a channel's own (cachegen_fit.py).

Keys are best given before their positions and turned when they are loaded: 4.40 bits in
stories260K, and the error of attention is the same.

Below the codes everything is integer, and the same on every machine.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.kvcache.cachegen_fit import KEYS, fit_layer, query_sizes, units
from jaxcomp.kvcache.cachegen_model import (
    CODE_LIMIT,
    MEANS,
    Model,
    bin_sizes,
    left_of,
    pack_codes,
    predicted,
    quantize_layer,
    unpack_codes,
)

# Bins of values in deviations of their layer, by level: each next one saves half a bit of a value.
LEVELS = (0.125, 0.18, 0.25, 0.35, 0.5, 0.71, 1.0, 1.41)
CHUNK_LIMIT = 4096  # tokens; more would save nothing, and is what a damaged message may allocate


class CacheGen(NamedTuple):
    """One level of quality: features <-> codes <-> messages of `chunk` tokens, on the host.

    fit(keys, values, *, queries=None) -> Model
        bins, means, weights and tables, of this context or of others of the same network, joined
        along tokens.
        keys and values f[layers, tokens, heads, size], queries f[layers, tokens, query heads, size]
    quantize(model, keys, values) -> i32[2, layers, tokens, heads x size]
    encode(model, codes) -> [bytes]
        a message for every `chunk` tokens, which is read by itself and carries a checksum
    decode(model, message, *, tokens=CHUNK_LIMIT) -> codes
        exactly those; CorruptStream for bytes of no encoder, and for more than `tokens`
    dequantize(model, codes, heads) -> (keys, values) f32[layers, tokens, heads, size]
        the same bits on every machine
    chunk, name
    """

    fit: Callable[..., Model]
    quantize: Callable[[Model, Any, Any], np.ndarray]
    encode: Callable[[Model, np.ndarray], list[bytes]]
    decode: Callable[..., np.ndarray]
    dequantize: Callable[[Model, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    chunk: int
    name: str


def cachegen(level: int = 3, *, chunk: int = 256, deeper: float = 1.0) -> CacheGen:
    """level: of LEVELS, 0 the finest. deeper: the bin of the last layer to that of the first, where
    in between it grows evenly; above 1 it saved nothing on stories260K and on MiniLM-L6."""
    if type(level) is not int or not 0 <= level < len(LEVELS):
        raise UnsupportedInput(f"expected a level from 0 to {len(LEVELS) - 1}, got {level!r}")
    if type(chunk) is not int or not 1 <= chunk <= CHUNK_LIMIT:
        raise UnsupportedInput(f"expected a chunk of 1 to {CHUNK_LIMIT} tokens, got {chunk!r}")
    if not 0 < deeper < math.inf:
        raise UnsupportedInput(f"expected deeper above 0, got {deeper}; with 1 all bins are alike")

    def fit(keys, values, *, queries=None):
        keys, values = _checked(keys, values)
        read = [KEYS] * len(keys) if queries is None else query_sizes(queries, keys)
        coarser = LEVELS[level] * deeper ** np.linspace(0, 1, len(keys))
        layers = []
        for features, reads in ((keys, read), (values, [None] * len(values))):
            for layer, unit, times in zip(features, reads, coarser, strict=True):
                x = _layer(layer)
                layers.append(fit_layer(x, times * units(x, unit), chunk))
        parts = (np.stack(field) for field in zip(*layers, strict=True))
        return Model(*(field.reshape(2, len(keys), -1) for field in parts))

    def quantize(model, keys, values):
        keys, values = _checked(keys, values)
        shape = keys.shape
        if model.step.shape != (2, shape[0], shape[2] * shape[3]):
            raise UnsupportedInput(
                f"expected keys and values of {model.step.shape[1]} layers and "
                f"{model.step.shape[2]} channels, got {shape}; fit a model of these"
            )
        codes = np.empty((2, *shape[:2], shape[2] * shape[3]), np.int32)
        for kind, features in enumerate((keys, values)):
            for at, layer in enumerate(features):
                part = Model(*(field[kind, at] for field in model))
                codes[kind, at] = quantize_layer(part, _layer(layer))
        return codes

    def encode(model, codes):
        if codes.ndim != 4 or (*codes.shape[:2], codes.shape[3]) != model.step.shape:
            raise UnsupportedInput(
                f"expected codes [2, layers, tokens, channels] of a model {model.step.shape}, got "
                f"{codes.shape}"
            )
        starts = range(0, codes.shape[2], chunk)
        return [_message(model, codes[:, :, at : at + chunk]) for at in starts]

    return CacheGen(fit, quantize, encode, decode, dequantize, chunk, f"cachegen {level}")


def decode(model: Model, message: bytes, *, tokens: int = CHUNK_LIMIT) -> np.ndarray:
    """CacheGen.decode: nothing of it depends on the level."""
    body, count = message[4:], int.from_bytes(message[4:6], "little")
    if len(message) < 8 or zlib.crc32(body) != int.from_bytes(message[:4], "little"):
        raise CorruptStream(
            f"expected a chunk and its CRC32, got {len(message)} bytes of other content; fetch it "
            "again"
        )
    if not 1 <= count <= tokens:
        raise CorruptStream(
            f"expected a chunk of 1 to {tokens} tokens, got {count}; fetch it again"
        )
    codes = unpack_codes(model.scale, body[2:], count)  # [tokens, 2, layers, channels]
    codes = codes if codes.flags.writeable else codes.copy()
    for at in range(1, count):
        codes[at] += predicted(model.weight, codes[at - 1])
    if max(-int(codes.min()), int(codes.max())) > CODE_LIMIT:
        raise CorruptStream(
            f"expected codes up to {CODE_LIMIT}, got {codes.min()} to {codes.max()}; the chunk and "
            "the model are not of one encoder"
        )
    return np.moveaxis(codes, 0, 2)


def dequantize(model: Model, codes: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """CacheGen.dequantize. Each value is rounded once."""
    x = np.array(codes, np.float32, order="C")
    x *= MEANS  # all of this is exact below 2**24
    x += model.mean[:, :, None].astype(np.float32)
    x *= (bin_sizes(model.step) / np.float32(MEANS))[:, :, None]
    keys, values = x.reshape(*x.shape[:3], heads, -1)
    return keys, values


def _message(model, codes):
    """CRC32 of what follows, u16 tokens, and a stream: all channels of a token, then the next."""
    tokens = codes.shape[2]
    left = left_of(model.weight, np.ascontiguousarray(np.moveaxis(codes, 2, 0)), tokens)
    body = tokens.to_bytes(2, "little") + pack_codes(model.scale, left)
    return zlib.crc32(body).to_bytes(4, "little") + body


def _layer(x):
    """[tokens, heads, size] of any float type -> f64[tokens, channels]."""
    x = x.astype(np.float64).reshape(x.shape[0], -1)
    if not np.isfinite(x).all():
        raise UnsupportedInput("expected finite keys and values, got NaN or infinite ones")
    return x


def _checked(keys, values):
    """Both on the host. UnsupportedInput for what are no keys and values."""
    keys, values = np.asarray(keys), np.asarray(values)
    if keys.ndim != 4 or keys.shape != values.shape or 0 in keys.shape:
        raise UnsupportedInput(
            "expected keys and values [layers, tokens, heads, size] of one shape, got "
            f"{keys.shape} and {values.shape}"
        )
    return keys, values
