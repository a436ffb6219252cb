"""What the messages of cachegen are read with: four small integers for each channel, and tables.

    x = (code + mean / 4) 2**(step / 4),      code - (weight * code before + 4 >> 3) ~ table scale

Tables are those of a logistic distribution, rounded to integers, of standard deviations on a grid
of quarter octaves that all channels share: a channel needs the number of its table and no
frequencies. They are computed in float64 from sums, products and quotients alone, which IEEE 754
rounds in one way, and are integers from there on: every machine has the same.

Bytes: the eight planes of a model (steps, means, weights and scales, of keys and then of values)
are coded as keys and values are, as distances to the medians of their layers.

    u8[8]   the table of each plane's distances
    u8      k, and the medians: differences, as zigzag in exponential Golomb codes
    rest    an rANS message (coding/stream.py)
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxcomp import coding
from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput
from jaxcomp.coding import Tables, build_tables, universal

KINDS = 2  # keys, values
PLANES = 8  # four fields of two kinds
# Quarter octaves: a table whose deviation is 9 % off, the worst, costs 0.01 bits a symbol.
OCTAVE = 4
ROOT = math.sqrt(2)  # a square root is rounded in one way, a power is not
QUARTERS = (1.0, math.sqrt(ROOT), ROOT, ROOT * math.sqrt(ROOT))
# At 0.15 a symbol is 0 but once in 200 times and takes 0.007 bits: then a byte holds no more than
# EXPANSION symbols, and what a message claims to hold can be judged by its length.
LEAST_SCALE, SCALES = 0.15, 52
EXPANSION = 2048
REACH = 5.0  # deviations that a table spans; what lies outside, 2 in 10,000, is escaped
WIDEST = 1023  # codes to each side of 0: more columns cost the other tables 0.05 bits
MEANS = 4  # a mean is told in quarters of a bin: at most 1/8 off, which costs 0.01 bits
WEIGHTS = 8  # weights are eighths
STEP_LIMIT = 400  # 2**100: what float32 holds, with room for codes
MEAN_LIMIT = 1 << 22  # float32 has 24 bits: (4 code + mean) is exact
CODE_LIMIT = 1 << 21

ModelArray = Int[np.ndarray, "*layers channels"]


class Model(NamedTuple):
    """i32[2, layers, channels] each, keys before values (of one layer i32[channels]); channels are
    heads x size.

    step    the bin is 2**(step / 4)
    mean    what code 0 stands for, in quarters of a bin
    weight  of the token before, in eighths
    scale   the table of what is left
    """

    step: ModelArray
    mean: ModelArray
    weight: ModelArray
    scale: ModelArray


# Lowest and highest of each field.
LIMITS = Model((-STEP_LIMIT, STEP_LIMIT), (-MEAN_LIMIT, MEAN_LIMIT), (0, WEIGHTS), (0, SCALES - 1))


def bin_sizes(step: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """2**(step / 4) in float32, the same on every machine."""
    return np.ldexp(np.asarray(QUARTERS, np.float32)[step % OCTAVE], step // OCTAVE)


def quantize_layer(
    model: Model, x: Float[np.ndarray, "tokens channels"]
) -> Int[np.ndarray, "tokens channels"]:
    """The nearest codes of one layer's keys or values, by its part of a model, rounded in float64:
    of halves, the even one. UnsupportedInput for features beyond CODE_LIMIT."""
    codes = x / bin_sizes(model.step).astype(np.float64)
    codes -= model.mean / MEANS
    np.rint(codes, out=codes)
    largest = max(-codes.min(), codes.max())
    if not largest <= CODE_LIMIT:
        raise UnsupportedInput(
            f"expected finite features of up to {CODE_LIMIT} bins, got {largest:.0f}; fit a model "
            "of these"
        )
    return codes.astype(np.int32)


def left_of(
    weight: ModelArray, codes: Int[np.ndarray, "tokens *layers channels"], chunk: int
) -> Int[np.ndarray, "tokens *layers channels"]:
    """What the token before does not say of a code; a chunk's first token has none."""
    left = codes.copy()
    left[1:] -= predicted(weight, codes[:-1])
    left[::chunk] = codes[::chunk]
    return left


def predicted(weight: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Of a code, by the code before: weight eighths of it, rounded."""
    product = weight * before
    product += WEIGHTS // 2
    product >>= 3
    return product


@functools.cache
def deviations() -> np.ndarray:
    """Standard deviations of the tables, in bins."""
    grid = np.arange(SCALES)
    return LEAST_SCALE * np.ldexp(np.asarray(QUARTERS)[grid % OCTAVE], grid // OCTAVE)


def tables_of(scale: Int[np.ndarray, "*shape"]) -> tuple[Tables, Int[np.ndarray, "*shape"]]:
    """(the tables that are used, i32 the one of each)."""
    used, index = np.unique(scale, return_inverse=True)
    return _tables(tuple(used.tolist())), index.reshape(scale.shape).astype(np.int32)


def scales(left: Int[np.ndarray, "tokens channels"]) -> Int[np.ndarray, " channels"]:
    """The table of each channel, by the mean absolute value: outliers move it little."""
    return np.searchsorted(_boundaries(), np.abs(left).mean(0)).astype(np.int32)


@functools.cache
def _boundaries():
    """Between the mean absolute values that neighbouring tables expect."""
    half = 2 * int(deviations()[-1])
    k = np.abs(np.arange(-half, half + 1))
    size = (masses(deviations(), half)[:, :-1] * k).sum(1)
    return np.sqrt(size[1:] * size[:-1])


@functools.lru_cache(maxsize=16)
def _tables(scales):
    deviation = deviations()[list(scales)]
    half = min(WIDEST, math.ceil(REACH * float(deviation.max())))
    return build_tables(masses(deviation, half).astype(np.float32), offset=-half, escape=True)


def masses(deviation: np.ndarray, half: int) -> np.ndarray:
    """P(k - 1/2 < X < k + 1/2) of logistic X, k from -half to half, and of X outside, last."""
    spread = deviation[:, None] * (math.sqrt(3) / math.pi)
    edge = np.arange(half + 1) + 0.5
    above = _upper(edge / spread)  # P(X > edge)
    positive = above[:, :-1] - above[:, 1:]
    parts = [positive[:, ::-1], 1 - 2 * above[:, :1], positive, 2 * above[:, -1:]]
    return np.concatenate(parts, 1)


def _upper(x):
    """1 / (1 + exp(x)), without a library's exp, whose last bit differs between machines."""
    x = np.minimum(x, 40.0) / 1024
    small = (12 - 6 * x + x * x) / (12 + 6 * x + x * x)  # exp(-x), Pade: off by x**5 / 720
    for _ in range(10):
        small = small * small
    return small / (1 + small)


def to_bytes(model: Model) -> bytes:
    """The bytes of a model: 8 to 17 bits a channel."""
    planes = np.stack(model).astype(np.int64).reshape(PLANES, *model.step.shape[1:])
    middle = np.sort(planes, 2)[:, :, planes.shape[2] // 2]
    left = (planes - middle[:, :, None]).reshape(PLANES, -1).astype(np.int32)
    scale = scales(left.T)
    medians = np.diff(middle.reshape(-1), prepend=0)
    zigzag = (medians << 1) ^ (medians >> 63)
    k = universal.best_exponential_golomb(zigzag)
    head = scale.astype(np.uint8).tobytes() + bytes([k])
    head += universal.exponential_golomb_encode(zigzag, k)
    return head + pack_codes(scale, np.ascontiguousarray(left.T))


def from_bytes(data: bytes, layers: int, channels: int) -> Model:
    """The model of to_bytes. CorruptStream for other bytes, before anything large is allocated."""
    scale = np.frombuffer(data[:PLANES], np.uint8).astype(np.int32)
    if PLANES * layers * channels > EXPANSION * len(data) or len(data) < PLANES + 2:
        raise CorruptStream(
            f"expected a model of {layers} layers of {channels} channels, got {len(data)} bytes; "
            "fetch or write the file again"
        )
    if scale.max() >= SCALES or data[PLANES] > 31:
        raise CorruptStream(
            f"expected tables below {SCALES} and k below 32, got {scale.max()} and {data[PLANES]}"
        )
    at = PLANES + 1
    zigzag, used = universal.exponential_golomb_decode(data[at:], PLANES * layers, data[PLANES])
    medians = ((zigzag >> np.uint64(1)) ^ (-(zigzag & np.uint64(1)))).view(np.int64)
    middle = np.cumsum(medians).reshape(PLANES, layers, 1)
    left = unpack_codes(scale, data[at + used :], layers * channels)
    planes = middle + left.T.reshape(PLANES, layers, channels)
    fields = planes.reshape(len(Model._fields), KINDS, layers, channels)
    for name, field, (low, high) in zip(Model._fields, fields, LIMITS, strict=True):
        if field.min() < low or field.max() > high:
            raise CorruptStream(
                f"expected {name} from {low} to {high}, got {field.min()} to {field.max()}; fetch "
                "or write the file again"
            )
    return Model(*fields.astype(np.int32))


def pack_codes(scale: Int[np.ndarray, "*layers channels"], left: np.ndarray) -> bytes:
    """An rANS message of left i32[tokens, *layers, channels], each channel with its table."""
    tables, index = tables_of(scale)
    each = np.tile(index.reshape(-1), len(left))
    return coding.to_bytes(coding.encode(tables, left.reshape(-1), each))


def unpack_codes(
    scale: Int[np.ndarray, "*layers channels"], data: bytes, tokens: int
) -> Int[np.ndarray, "tokens *layers channels"]:
    """left of pack_codes. CorruptStream for bytes that are none, or less than EXPANSION allows."""
    symbols = scale.size * tokens
    if symbols > EXPANSION * len(data):
        raise CorruptStream(
            f"expected {tokens} tokens of {scale.size} channels, got {len(data)} bytes; fetch or "
            "write them again"
        )
    tables, index = tables_of(scale)
    try:
        stream = coding.from_bytes(data, max_escapes=symbols)
        left = coding.decode(tables, stream, np.tile(index.reshape(-1), tokens))
    except CorruptStream:
        raise
    except (JaxcompError, ValueError, OverflowError) as error:
        raise CorruptStream(f"expected a stream of {symbols} codes, got none: {error}") from None
    return np.asarray(left).reshape(tokens, *scale.shape)
