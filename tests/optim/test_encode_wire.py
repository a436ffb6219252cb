"""Wires to bytes and back: exact, never more than the arrays, less where there is something."""

import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import CorruptStream, JaxcompError, UnsupportedInput, optim
from jaxcomp.formats import INT8
from jaxcomp.optim.encode_wire import _checksum
from jaxcomp.optim.places import pack_numbers
from jaxcomp.optim.wire import Wire

GOLDEN = Path(__file__).parent.parent / "golden"
KEY = jnp.array([1, 2], jnp.uint32)
X = jnp.asarray(np.random.default_rng(0).standard_t(3, (60, 500)), jnp.float32)


def sent(compressor, x=X):
    wire = jax.jit(compressor.compress)(KEY, x, compressor.init(x))[0]
    like = jax.eval_shape(compressor.compress, KEY, x, compressor.init(x))[0]
    return wire, like


@pytest.mark.parametrize(
    ("compressor", "most"),
    [
        (optim.quantized(INT8), 0.9),  # heavy tails leave most codes small
        (optim.natural(), 0.6),
        (optim.identity(), 0.92),  # signs and exponents
        (optim.sign(), 1.0),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_all_comes_back_and_in_fewer_bytes_where_codes_are_uneven(compressor, most):
    wire, like = sent(compressor)
    data = optim.encode_wire(wire)
    jax.tree.map(np.testing.assert_array_equal, optim.decode_wire(data, like), wire)
    assert len(data) <= most * optim.wire_nbytes(compressor, X) + 6


def test_places_are_gaps():
    compressor = optim.top_k(0.05)
    x = X.at[0, 3].set(jnp.nan).astype(jnp.bfloat16)
    wire, like = sent(compressor, x)
    data = optim.encode_wire(wire)
    again = optim.decode_wire(data, like)
    both = (np.float32(compressor.decompress(x)) for x in (again, wire))
    np.testing.assert_array_equal(*both)
    count = 1500
    gaps = (-0.05 * math.log2(0.05) - 0.95 * math.log2(0.95)) / 0.05  # bits, at random
    assert len(data) < min(count * (2 + 1.1 * gaps / 8), wire.nbytes)
    assert optim.encode_wire(again) == data


def test_golden_bytes():
    i = np.arange(4000, dtype=np.uint32)
    x = jnp.asarray((i * np.uint32(2654435761) >> 20).astype(np.float32) ** 2, jnp.bfloat16)
    wire, like = sent(optim.top_k(0.15), x)  # the multiplier is Knuth's
    golden = (GOLDEN / "wire_v2.bin").read_bytes()
    assert optim.encode_wire(wire) == golden
    for data in (golden, (GOLDEN / "wire_v1.bin").read_bytes(), raw_of_version_1(x)):
        again = optim.decode_wire(data, like)
        jax.tree.map(np.testing.assert_array_equal, again, wire)


def raw_of_version_1(x):
    """Arrays as they were, and places in the order of magnitudes."""
    _, places = jax.lax.top_k(jnp.abs(x), 600)
    packed = pack_numbers(places, 12)
    old = Wire({"values": x[places], "places": packed}, x.shape, x.dtype)
    data = bytes([1 << 4]) + np.asarray(packed).tobytes() + np.asarray(x[places]).tobytes()
    return data + _checksum(old, data)


def test_what_cannot_be_smaller_is_stored():
    noise = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)
    for arrays in ({"a": noise, "b": np.float32(3)}, {"a": np.zeros((0, 3), np.float32)}, {}):
        data = optim.encode_wire(arrays)
        assert len(data) == sum(x.nbytes for x in arrays.values()) + 5
        jax.tree.map(np.testing.assert_array_equal, optim.decode_wire(data, arrays), arrays)
    for size in (1, 300):
        for compressor in (optim.top_k(0.5),):
            wire, like = sent(compressor, jnp.zeros(size))
            data = optim.encode_wire(wire)
            assert len(data) <= wire.nbytes + 6
            jax.tree.map(np.testing.assert_array_equal, optim.decode_wire(data, like), wire)


def test_bytes_of_strangers_are_judged():
    wire, like = sent(optim.top_k(0.05), X[:20])
    data = optim.encode_wire(wire)
    for bad in (b"", data[:-1], data[:3], data + b"\0", bytes([data[0] ^ 64]) + data[1:]):
        with pytest.raises(CorruptStream):
            optim.decode_wire(bad, like)
    with pytest.raises(CorruptStream, match="of these shapes"):
        optim.decode_wire(data, sent(optim.top_k(0.05), X[:21])[1])
    random = np.random.default_rng(1)
    for _ in range(8):  # with a checksum that fits
        bad = bytearray(data[:-4])
        bad[random.integers(len(bad) // 4)] ^= 1 << random.integers(8)
        bad = bytes(bad[: len(bad) - random.integers(2)])
        try:
            found = optim.decode_wire(bad + _checksum(like, bad), like)
        except JaxcompError:
            continue
        leaves = zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True)
        assert all((x.shape, x.dtype) == (y.shape, y.dtype) for x, y in leaves)
    assert zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little")  # shapes are in it


def test_a_traced_wire_is_refused():
    with pytest.raises(UnsupportedInput, match="under jit"):
        jax.jit(optim.encode_wire)(jnp.ones(3))
