"""Arrays come back bit for bit, in no more bytes than they had, and near their entropy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcomp as jc
from jaxcomp.coding.coded_array import (
    EXPANSION,
    Codes,
    check_plane,
    read_array,
    symbol_counts,
    write_array,
)
from jaxcomp.kernels.packing import TRITS, pack

RNG = np.random.default_rng(0)


def through(x, codes=None):
    """(array, kind, bytes) by way of the planes."""
    kind, planes = write_array(x, codes)
    for plane, count in zip(planes, symbol_counts(kind, x.shape, x.dtype, codes), strict=True):
        check_plane(len(plane), count)
    return read_array(kind, planes, x.shape, x.dtype, codes), kind, sum(map(len, planes))


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_floats_are_coded_by_planes_of_bytes(dtype):
    x = np.asarray(jnp.asarray(RNG.normal(size=(20, 400)), dtype))
    got, _, size = through(x)
    assert same(got, x) and size < {4: 0.92, 2: 0.9, 1: 0.99}[x.itemsize] * x.nbytes
    noise = np.frombuffer(RNG.bytes(x.nbytes), x.dtype).reshape(x.shape)
    got, _, size = through(noise)
    assert same(got, noise) and size == x.nbytes


@settings(max_examples=20, deadline=None)
@given(st.sampled_from("bool int8 uint16 int32 float64 complex64".split()), st.data())
def test_any_array_comes_back(dtype, data):
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
    raw = data.draw(st.binary(min_size=1, max_size=9)) * 900
    x = np.frombuffer(raw, np.uint8)[: math.prod(shape) * np.dtype(dtype).itemsize]
    x = (x & 1 if dtype == "bool" else x).view(dtype).reshape(shape)
    got, _, size = through(x)
    assert same(got, x) and size <= x.nbytes


@pytest.mark.parametrize("bits", [TRITS, 1, 2, 3, 4, 5])
def test_codes_are_coded_one_by_one_to_their_entropy(bits):
    tile, shape = 40, (3, 7, 400)
    count = 3 if bits == TRITS else 1 << bits
    p = np.exp(-np.abs(np.arange(count) - count // 2))
    p /= p.sum()
    codes = RNG.choice(count, shape, p=p).astype(np.uint8)
    packed = np.asarray(pack(jnp.asarray(codes), bits, axis=-1, tile=tile)).swapaxes(-1, -2)
    how = Codes(bits, tile, -2)
    got, kind, size = through(np.ascontiguousarray(packed), how)
    assert same(got, np.ascontiguousarray(packed)) and kind == "codes"
    entropy = -(p * np.log2(p)).sum() * codes.size / 8
    assert entropy * 0.98 < size < 1.03 * entropy + 2 * count + 20
    # Codes share bytes, so bytes alone cannot tell this: three bits lie in two planes.
    if bits == 3:
        assert size < 0.97 * through(np.ascontiguousarray(packed))[2]


def test_codes_that_no_packing_made_stay_bytes():
    packed = np.full((4, 80), 250, np.uint8)  # above 3**5 - 1
    got, kind, _ = through(packed, Codes(TRITS, 40, -1))
    assert same(got, packed) and kind == "bytes"
    zeros = np.zeros((1 << 16, 8), np.uint8)  # a bit a value would be an expansion without end
    got, _, size = through(zeros, Codes(1, 64, -1))
    assert same(got, zeros) and zeros.size / EXPANSION < size < zeros.size / 500


def test_lies_are_named():
    u8 = np.dtype(np.uint8)
    with pytest.raises(jc.CorruptStream, match="at most 10 bytes"):
        check_plane(11, 10)
    with pytest.raises(jc.CorruptStream, match="at least 1 for"):
        check_plane(2, 2 * EXPANSION + 1)
    for codes, shape in ((None, (8,)), (Codes(4, 16, -2), (8,)), (Codes(4, 16, -1), (9,))):
        with pytest.raises(jc.CorruptStream, match="bytes or packed codes"):
            symbol_counts("codes", shape, u8, codes)
    with pytest.raises(jc.CorruptStream, match="bytes or packed codes"):
        symbol_counts("pickle", (8,), u8, None)
    x = RNG.choice(4, 4000, p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    (plane,) = write_array(x)[1]
    assert len(plane) < 1000
    for cut in range(0, len(plane), 13):
        with pytest.raises(jc.CorruptStream):
            read_array("bytes", [plane[:cut]], x.shape, u8, None)
    for bit in range(0, 8 * 60, 7):  # the table, the heads and the first words
        wrong = bytearray(plane)
        wrong[bit // 8] ^= 1 << bit % 8
        try:  # a plane has no checksum, but what comes out has the right shape or is refused
            got = read_array("bytes", [bytes(wrong)], x.shape, u8, None)
        except jc.CorruptStream:
            continue
        assert got.shape == x.shape
