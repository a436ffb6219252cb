"""Chunks of any array come back bit for bit, near their entropy; damaged ones say so."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding import byte_plane
from jaxcomp.coding.tensor_chunk import (
    as_integers,
    chunk_kind,
    decode_chunk,
    encode_chunk,
    gain_alone,
)

RNG = np.random.default_rng(0)
DTYPES = (
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64 complex64 "
    "complex128 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3b11fnuz float4_e2m1fn int4 uint4 int2"
).split()


def through(x, base=None):
    """The bytes of an array that came back from them."""
    data = encode_chunk(x, base=base)
    got = decode_chunk(data, x.dtype, x.size, base=base)
    assert got.dtype == x.dtype and got.shape == (x.size,) and got.tobytes() == x.tobytes()
    assert len(data) <= x.nbytes + 2
    return data


def typed(name):
    return np.dtype(getattr(ml_dtypes, name, name))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), st.sampled_from([0, 1, 2, 63, 700, 1025]), st.data())
def test_any_array_comes_back(name, count, data):
    dtype = typed(name)
    few = data.draw(st.binary(min_size=1, max_size=40))
    raw = np.frombuffer(few * (count * 16 // len(few) + 1), np.uint8)
    raw = np.where(RNG.random(raw.size) < data.draw(st.sampled_from([0, 0.02, 1])), 3, raw)
    x = (raw & 1 if name == "bool" else raw).astype(np.uint8)[: count * dtype.itemsize].view(dtype)
    base = data.draw(st.sampled_from([None, np.roll(x, 1), x.copy()]))
    through(x, base)


def normal(name, count=6000):
    dtype = typed(name)
    return (RNG.normal(size=count) * (2 if dtype.itemsize < 2 else 0.02)).astype(dtype)


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("bfloat16", 0.675), ("float32", 0.845), ("float16", 0.87), ("float64", 0.9)],
)
def test_gaussian_floats_are_near_the_entropy_of_their_exponents(name, ratio):
    x = normal(name)
    data = through(x)
    assert chunk_kind(data) == "planes" and len(data) <= ratio * x.nbytes
    x[::500], x[1::700] = np.nan, -0.0
    as_integers(x)[5::900] = 1  # the smallest denormal
    through(x)


def test_noise_is_stored_constants_and_zeros_take_nothing():
    noise = np.frombuffer(RNG.bytes(9000), np.float32)
    assert chunk_kind(through(noise)) == "raw"
    assert chunk_kind(through(np.full(900, -0.0))) == "constant" and len(through(np.ones(9))) == 9
    few = np.where(RNG.random(60000) < 0.1, normal("bfloat16", 60000), 0).astype("bfloat16")
    assert chunk_kind(through(few)) == "sparse" and len(through(few)) < 0.11 * few.nbytes
    mask = RNG.random(8000) < 0.5
    assert chunk_kind(through(mask)) == "bits" and len(through(mask)) < 1020


def test_rows_of_other_scales_have_other_tables():
    scale = np.exp(RNG.normal(size=(96, 1)) * 1.5)
    x = (RNG.normal(size=(96, 128)) * scale).astype(ml_dtypes.bfloat16)
    assert len(through(x)) < 0.97 * len(through(x.reshape(-1)))


def test_arrays_of_other_scales_have_other_tables_in_one_chunk():
    """Of 25 arrays in rows of 16: what they take alone, and row by row 4 % more."""
    parts = [RNG.normal(size=(64, 16)) * 2.0 ** (i % 5 * 3) for i in range(25)]
    x = np.concatenate(parts).astype(ml_dtypes.bfloat16)
    groups = np.full(25, 64)
    data = encode_chunk(x, groups=groups)
    assert decode_chunk(data, x.dtype, x.size).tobytes() == x.tobytes()
    assert len(data) < 0.97 * len(encode_chunk(x)) and len(data) < 0.67 * x.nbytes
    uneven = np.repeat([1, 3], [100, 500])
    assert decode_chunk(encode_chunk(x, groups=uneven), x.dtype, x.size).tobytes() == x.tobytes()


def test_what_a_chunk_of_its_own_saves_is_seen():
    draw = np.random.default_rng(7)
    x = draw.normal(size=(256, 64)).astype(np.float32)
    assert gain_alone(x) < 0.005 and gain_alone(x[:9]) == gain_alone(x[0]) == 0
    assert gain_alone(x * np.exp2(np.arange(256) % 7)[:, None].astype(np.float32)) < 0.005
    assert 0.015 < gain_alone(x * np.exp2(np.arange(64) % 7).astype(np.float32)) < 0.06
    assert abs(gain_alone(np.where(draw.random(x.shape) < 0.3, x, 0)) - 0.7) < 0.05
    assert gain_alone(np.zeros((0, 3))) == 1 and gain_alone(np.ones(9, np.int8)) == 0


def test_differences_from_a_base_take_the_smaller_way():
    base = normal("float32")
    near = base * np.float32(1 + 1e-5)
    data = through(near, base)
    assert chunk_kind(data).startswith("delta") and len(data) < 0.7 * len(through(near))
    assert len(through(base, base)) < 20
    with pytest.raises(CorruptStream, match="base"):
        decode_chunk(data, near.dtype, near.size)
    with pytest.raises(UnsupportedInput, match="base"):
        encode_chunk(near, base=base[:9])


def test_what_is_no_chunk_is_a_named_error():
    with pytest.raises(UnsupportedInput, match="numbers"):
        encode_chunk(np.array(["a"], object))
    with pytest.raises(CorruptStream, match="chunk"):
        decode_chunk(b"", np.float32, 3)
    out = np.empty(6000, ml_dtypes.bfloat16)
    assert decode_chunk(encode_chunk(out), out.dtype, 6000, out=out) is out
    with pytest.raises(UnsupportedInput, match="out"):
        decode_chunk(encode_chunk(out), out.dtype, 6000, out=out[:3])


def test_damaged_chunks_are_errors_or_arrays_of_the_length():
    x = normal("bfloat16", 3000)
    sparse = np.where(RNG.random(3000) < 0.3, x, 0).astype(x.dtype)
    chunks = [
        (d, b) for a, b in ((x, None), (sparse, None), (x, np.roll(x, 1))) for d in [through(a, b)]
    ]
    for i in range(1000):
        data, base = chunks[i % 3]
        bad = bytearray(data)
        for _ in range(RNG.integers(1, 4)):
            # Headers come first: half of the damage is done to them.
            bad[RNG.integers(len(bad) if i % 2 else 60)] = RNG.integers(256)
        if i % 5 == 0:
            del bad[RNG.integers(len(bad)) :]
        try:
            got = decode_chunk(bytes(bad), x.dtype, 3000, base=base)
            assert got.shape == (3000,)
        except CorruptStream:
            pass


def test_heads_carry_no_more_than_a_chunk_has():
    few, order, cargo = np.arange(10) % 2, np.arange(2), np.zeros(32)
    few, order, cargo = (x.astype(np.uint8) for x in (few, order, cargo))
    first = b"".join(byte_plane._write_coded(few, (0, None), order, np.ones(2), True, False, cargo))
    constant = b"\x02\0\0\0\x01\x07"  # as long as it is asked for, were it less than nothing
    forged = bytes([2, 0, len(first), 0, 0, 0]) + first + constant
    with pytest.raises(CorruptStream, match="heads that carry at most 10 bytes, got 32"):
        decode_chunk(forged, np.uint16, 10)


def test_golden_chunks_are_read_for_ever():
    """One of each kind, of numbers that are integers at heart: every machine draws the same."""
    text = (Path(__file__).parent.parent / "golden" / "tensor_chunk_v1.bin").read_bytes()
    for name, x, base in golden():
        size = int.from_bytes(text[:4], "little")
        data, text = text[4 : 4 + size], text[4 + size :]
        got = decode_chunk(data, x.dtype, x.size, base=base)
        assert got.tobytes() == x.tobytes() and chunk_kind(data) == name
        # Another release of zlib may deflate the tables to other bytes.
        assert abs(len(encode_chunk(x, base=base)) - len(data)) < 16
    assert not text


def golden():
    """(kind, array, base)"""
    noise = (np.arange(700, dtype=np.uint64) * 2654435761).astype(np.uint32)
    noise ^= noise >> 15
    # Exponents of a geometric distribution: trailing zeros of noise.
    low = np.log2(((noise & (~noise + 1)) + 1).astype(float)).astype(np.uint32)
    bfloat16 = ((noise >> 16 & 0x807F) | 120 - low << 7).astype(np.uint16)
    float32 = (noise & 0x807FFFFF) | 120 - low << 23
    rows = bfloat16[:640].reshape(20, 32) + (np.arange(20, dtype=np.uint16)[:, None] % 4 << 9)
    sparse = np.where(low > 1, float32, 0).astype(np.uint32)
    yield "raw", noise, None
    yield "constant", np.full(9, -0.0), None
    yield "planes", bfloat16.view(ml_dtypes.bfloat16), None
    yield "planes", np.tile(rows, (9, 1)).view(ml_dtypes.bfloat16), None
    yield "planes", float32.view(np.float32), None
    yield "planes", low.astype(np.int16) * 300 - 700, None
    yield "sparse", sparse.view(np.float32), None
    yield "bits", low > 0, None
    yield "delta subtract", (float32 + low).view(np.float32), float32.view(np.float32)
    yield "delta xor", float32 ^ (low > 2), float32
