"""cachegen: exactly its codes, a chunk at a time, in fewer bytes than they take when packed."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcomp as jc
from jaxcomp.kvcache import cachegen_model
from jaxcomp.kvcache.cachegen import CHUNK_LIMIT, LEVELS
from jaxcomp.kvcache.cachegen_model import bin_sizes, left_of, scales
from tests.kvcache.contexts import context

KEYS, VALUES = context()
CODEC = jc.kvcache.cachegen()
MODEL = CODEC.fit(KEYS, VALUES)
CODES = CODEC.quantize(MODEL, KEYS, VALUES)
MESSAGES = CODEC.encode(MODEL, CODES)
BINS = bin_sizes(MODEL.step)


def total(messages):
    return sum(map(len, messages))


def test_the_law():
    assert len(MESSAGES) == 3  # of 256, 256 and 88 tokens
    parts = [CODEC.decode(MODEL, message) for message in MESSAGES[::-1]]  # each by itself
    np.testing.assert_array_equal(np.concatenate(parts[::-1], 2), CODES)
    # In all of its range float32 rounds a code once more.
    half = np.moveaxis(BINS.reshape(2, 2, 2, 16, 1), -1, 2) / 2 * (1 + 1e-5)
    for x, back, limit in zip((KEYS, VALUES), CODEC.dequantize(MODEL, CODES, 2), half, strict=True):
        assert back.dtype == np.float32 and (abs(back - x) <= limit).all()
        assert abs(back - x).max() > 0.9 * limit.min()


def test_codes_and_side_information_take_less_than_codes_packed():
    side = len(cachegen_model.to_bytes(MODEL))
    levels = np.ptp(CODES, (2, 3)) + 1  # of each layer's keys and values
    packed = (np.ceil(np.log2(levels)) * CODES[0, 0].size).sum() / 8
    assert total(MESSAGES) + side <= 0.8 * packed
    assert side <= 0.01 * total(MESSAGES)


def test_bytes_are_near_what_the_source_allows():
    # Entropy of a normal variable in bins: log2(deviation / bin) + log2(2 pi e) / 2. What is left
    # of these keys has a deviation of sqrt(1 - 0.9**2) of them, and the noise of rounding, twice.
    spread = np.stack([KEYS.std(1), VALUES.std(1)]).reshape(2, 2, 32)
    left = np.square(spread) * np.array([1 - 0.9**2, 1])[:, None, None]
    left += np.square(BINS) / 12 * np.array([0.9**2, 0])[:, None, None]
    bits = np.log2(np.sqrt(left) / BINS) + np.log2(2 * np.pi * np.e) / 2
    assert total(MESSAGES) < 1.04 * bits.mean() * CODES.size / 8


@pytest.mark.parametrize("weight", [0, 8])
def test_a_weight_for_each_channel_beats_one_for_all(weight):
    """0 codes tokens as they are, 8 their differences."""
    same = np.full_like(MODEL.weight, weight)
    # With the tables that are best for it.
    left = left_of(same, np.moveaxis(CODES, 2, 0), 256)
    scale = scales(left.reshape(600, -1)).reshape(same.shape)
    other = CODEC.encode(MODEL._replace(weight=same, scale=scale), CODES)
    assert total(MESSAGES) < 0.97 * total(other)


def test_levels_trade_bytes_for_error():
    sizes, errors = [], []
    for level in range(len(LEVELS)):
        codec = jc.kvcache.cachegen(level)
        model = codec.fit(KEYS, VALUES)
        codes = codec.quantize(model, KEYS, VALUES)
        back = codec.dequantize(model, codes, 2)
        sizes.append(total(codec.encode(model, codes)))
        errors.append(np.square(back[0] - KEYS).mean() + np.square(back[1] - VALUES).mean())
    assert (np.diff(sizes) < -0.05 * sizes[0]).all() and (np.diff(errors) > 0).all()


def test_deeper_layers_take_coarser_bins():
    model = jc.kvcache.cachegen(deeper=2.0).fit(KEYS, VALUES)
    finer, coarser = (bin_sizes(model.step) / BINS).mean((0, 2))
    assert 0.9 < finer < 1.1 and 1.8 < coarser < 2.2


def test_queries_choose_the_bins_of_keys():
    """Error of scores at equal bytes: channels that are read little are stored in few bits."""
    reads = np.geomspace(4, 0.5, 16)
    queries = np.random.default_rng(1).normal(size=(2, 300, 4, 16)) * reads

    def run(**options):
        model = CODEC.fit(KEYS, VALUES, **options)
        codes = CODEC.quantize(model, KEYS, VALUES)
        off = CODEC.dequantize(model, codes, 2)[0] - KEYS
        return total(CODEC.encode(model, codes)), np.square(off * reads).sum()

    (size, error), (plain_size, plain_error) = run(queries=queries), run()
    # One bit less for each key is an error four times as large.
    bits = 8 * (plain_size - size) / KEYS.size
    assert error < 0.7 * plain_error * 4**bits


def test_a_model_serves_contexts_that_it_was_not_fitted_on():
    keys, values = context(seed=0)
    keys[:, 5] *= 100  # beyond every table
    codes = CODEC.quantize(MODEL, keys, values)
    back = [CODEC.decode(MODEL, message) for message in CODEC.encode(MODEL, codes)]
    np.testing.assert_array_equal(np.concatenate(back, 2), codes)
    with pytest.raises(jc.UnsupportedInput, match="fit a model of these"):
        CODEC.quantize(MODEL, keys * 1e8, values)


@settings(max_examples=10, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 40, 3, 9))),
    chunk=st.integers(1, 20),
    level=st.integers(0, 7),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e20]),
    seed=st.integers(0, 99),
)
def test_any_shape_comes_back(shape, chunk, level, scale, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, size=(2, *shape)) * scale
    codec = jc.kvcache.cachegen(level, chunk=chunk)
    model = codec.fit(*x)
    codes = codec.quantize(model, *x)
    messages = codec.encode(model, codes)
    assert len(messages) == -(-shape[1] // chunk)
    back = [codec.decode(model, message, tokens=chunk) for message in messages]
    np.testing.assert_array_equal(np.concatenate(back, 2), codes)
    keys, values = codec.dequantize(model, codes, shape[2])
    assert keys.shape == values.shape == shape and np.isfinite([keys, values]).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 8 * len(MESSAGES[2]) - 1), st.booleans())
def test_damage_is_named(bit, cut):
    message = bytearray(MESSAGES[2])
    message[bit // 8] ^= 1 << bit % 8
    with pytest.raises(jc.CorruptStream, match="chunk"):
        CODEC.decode(MODEL, MESSAGES[2][: bit // 8] if cut else bytes(message))


def test_what_a_false_message_claims_is_not_believed():
    def signed(body):
        return zlib.crc32(body).to_bytes(4, "little") + body

    for body, words in (
        (b"\xff\xff" + MESSAGES[2][6:], f"1 to {CHUNK_LIMIT} tokens"),
        (b"\xff\x0f" + MESSAGES[2][6:20], "4095 tokens of 128 channels, got 14 bytes"),
        (b"\x50\x00" + MESSAGES[2][6:], "back at its initial state"),
        (MESSAGES[2][4:6] + b"\x00" * 999, "expected a stream of version"),
    ):
        with pytest.raises(jc.CorruptStream, match=words):
            CODEC.decode(MODEL, signed(body))
    with pytest.raises(jc.CorruptStream, match="initial state"):  # the model of another
        CODEC.decode(MODEL._replace(scale=MODEL.scale + 1), MESSAGES[2])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jc.kvcache.cachegen(8), "a level from 0 to 7, got 8"),
        (lambda: jc.kvcache.cachegen(chunk=0), "chunk of 1 to 4096 tokens, got 0"),
        (lambda: jc.kvcache.cachegen(deeper=0.0), "deeper above 0"),
        (lambda: CODEC.fit(KEYS, VALUES[:, 1:]), "of one shape"),
        (lambda: CODEC.fit(KEYS[:, :0], VALUES[:, :0]), "of one shape"),
        (lambda: CODEC.fit(KEYS * np.nan, VALUES), "finite"),
        (lambda: CODEC.fit(KEYS, VALUES, queries=KEYS[..., :8]), "expected queries"),
        (lambda: CODEC.quantize(MODEL, KEYS[:1], VALUES[:1]), "2 layers and 32 channels"),
        (lambda: CODEC.encode(MODEL, CODES[..., :8]), "expected codes"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(jc.UnsupportedInput, match=words):
        call()
