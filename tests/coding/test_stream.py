"""Streams as bytes: golden bytes, short heads, lanes chosen from the message, hostile bytes."""

import contextlib
import tracemalloc
from pathlib import Path

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

import jaxcomp as jc
from jaxcomp.codecs.message import read_message
from jaxcomp.coding import (
    adaptive,
    build_tables,
    choose_lanes,
    decode,
    encode,
    from_bytes,
    is_finished,
    pop,
    push,
    to_bytes,
)
from jaxcomp.coding.stream import round_up

GOLDEN = Path(__file__).parent.parent / "golden"


def message(count=3000, lanes=256, **options):
    """The message of the golden files; the multiplier is Knuth's, not a generator of NumPy's."""
    tables = build_tables(
        np.array([[8, 4, 2, 1, 1], [1, 1, 1, 1, 4]], np.float32), offset=-2, escape=True
    )
    mixed = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) >> 16
    symbols = (mixed % 6).astype(np.int32) - 2
    symbols[::500] *= 1_000_000
    index = (mixed >> 8 & 1).astype(np.int32)
    return tables, symbols, index, encode(tables, symbols, index, lanes=lanes, **options)


@pytest.mark.parametrize(("name", "lanes"), [("stream_v1.bin", 256), ("stream_v2.bin", 64)])
def test_golden_bytes(name, lanes):
    tables, symbols, index, stream = message(lanes=lanes)
    golden = (GOLDEN / name).read_bytes()
    assert to_bytes(stream) == golden
    np.testing.assert_array_equal(decode(tables, from_bytes(golden), index), symbols)


@pytest.mark.parametrize("lanes", [2, 16, 64])
@pytest.mark.parametrize("bits", [0.02, 0.5, 4])
def test_lanes_of_a_whole_message_start_with_what_they_code(lanes, bits):
    """64 of them cost at most 128 bytes, header included; in parts, they cost 160."""
    rng = np.random.default_rng(0)
    chance = {0.02: 0.002, 0.5: 0.11}.get(bits)
    pmf = np.full(16, 1 / 16) if chance is None else np.array([1 - chance, chance])
    tables = build_tables(pmf)
    symbols = rng.choice(len(pmf), 40_000, p=pmf).astype(np.int32)
    freq = np.asarray(tables.frequencies)[0, symbols]
    ideal = (16 - np.log2(freq)).sum() / 8
    short, plain = (encode(tables, symbols, lanes=lanes, in_parts=p) for p in (False, True))
    cost, cost_in_parts = (len(to_bytes(s)) - ideal for s in (short, plain))
    assert 2.2 * lanes < cost_in_parts < 2.8 * lanes + 8
    assert cost < (2 * lanes if bits > 0.1 else 2.5 * lanes) + 8
    if lanes == 64 and bits > 0.1:
        assert cost <= 128 and cost_in_parts > 150
    for stream in (short, plain):
        np.testing.assert_array_equal(decode(tables, stream, shape=symbols.shape), symbols)


def test_a_whole_message_is_neither_pushed_on_nor_popped_in_parts():
    tables, symbols, index, _ = message()
    symbols %= 3
    stream, plain = (encode(tables, symbols, index, lanes=64, in_parts=p) for p in (False, True))
    with pytest.raises(jc.JaxcompError, match="in_parts=True"):
        push(stream, tables, symbols, index)
    with pytest.raises(jc.JaxcompError, match="in_parts=True"):
        pop(stream, tables, index, count=np.array(100))
    first, rest = pop(plain, tables, index[:640])
    last, rest = pop(rest, tables, index[640:])
    np.testing.assert_array_equal(np.concatenate([first, last]), symbols)
    assert is_finished(rest)


def test_lanes_grow_with_the_message_and_cost_little():
    lanes = [choose_lanes(8.0 * n) for n in (0, 1, 1000, 17_000, 1_400_000, 1e12)]
    assert lanes == sorted(lanes) and lanes[:2] == [1, 1] and lanes[3] == 64
    tables = build_tables(np.random.default_rng(0).dirichlet(np.ones(20)))
    symbols = np.random.default_rng(1).integers(0, 20, 100_000)
    bits = 16 - np.log2(np.asarray(tables.frequencies)[0, symbols])
    size = len(to_bytes(encode(tables, symbols)))
    assert size <= 1.003 * bits.sum() / 8 + max(0.015 * bits.sum() / 8, 128) + 16


def test_a_short_message_has_sixteen_bytes_of_header_at_most():
    tables = build_tables(np.ones(4))
    stream = encode(tables, np.zeros(1, np.int32), lanes=1)
    assert len(to_bytes(stream)) <= 16 + 4


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_bytes_are_refused_or_come_out_bounded(data):
    tables, _, index, stream = message(200, 16, in_parts=data.draw(st.booleans()))
    good = bytearray(to_bytes(stream))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    for mutated in (bytes(good), cut, bytes(good) + b"x"):
        try:
            stream = from_bytes(mutated)
        except jc.CorruptStream:
            continue
        assert sum(x.nbytes for x in stream[:6]) < 1 << 20
        with contextlib.suppress(jc.CorruptStream):  # or by chance they are another message
            decode(tables, stream, index)
        with contextlib.suppress(jc.CorruptStream):
            read_message(mutated, lanes=16, words=400, escapes=200)
        assert (stream.head >= 1 << 16).all() and (stream.size <= stream.words.shape[1]).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x20",
        b"\x40\x01" + bytes(9),
        b"\x27\xff\xff\xff\xff\x0f" + bytes(99),
        b"\x37\xff\xff\xff\xff\x0f\x00" + bytes(99),
        b"\x20\x80\x80\x80\x80\x80\x80",
    ],
)
def test_lies_about_sizes_are_refused(data):
    with pytest.raises(jc.CorruptStream, match="expected"):
        from_bytes(data)


def test_more_escapes_than_a_message_can_hold_are_refused_before_they_are_unpacked():
    tables = build_tables(np.ones(2), escape=True)
    data = to_bytes(encode(tables, np.arange(50_000), lanes=1))
    assert len(from_bytes(data, max_escapes=50_000).escapes) == 49_999
    tracemalloc.start()
    with pytest.raises(jc.CorruptStream, match="at most 9 escapes, got 49999"):
        from_bytes(data, max_escapes=9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(data)


@pytest.mark.parametrize("lanes", [256, 64])
def test_wrong_tables_and_flipped_words_are_noticed(lanes):
    tables, symbols, index, stream = message(lanes=lanes)
    with pytest.raises(jc.CorruptStream, match="initial state"):
        decode(build_tables(np.ones((2, 5)), escape=True), stream, index)
    words = stream.words.copy()
    words[0, 3] ^= 16
    with pytest.raises(jc.CorruptStream, match="initial state"):
        decode(tables, stream._replace(words=words), index)


@pytest.mark.parametrize("lanes", [1, 16])
def test_escapes_that_are_not_there_are_noticed(lanes):
    tables, _, index, stream = message(lanes=lanes)
    none = stream._replace(escapes=np.zeros(0, np.uint32), escape_size=np.int32(0))
    with pytest.raises(jc.CorruptStream, match="initial state"):
        decode(tables, none, index)


def test_whole_messages_are_refused_where_parts_are_popped():
    data = to_bytes(message(lanes=16)[-1])
    with pytest.raises(jc.CorruptStream, match="popped in parts"):
        read_message(data, lanes=16, words=5000, escapes=5000)
    with pytest.raises(jc.CorruptStream, match="adaptive"):
        adaptive.decode(from_bytes(data), 3000)


def test_a_capacity_is_of_the_whole_stream_under_a_trace_too():
    tables = build_tables(np.array([1000.0, *np.ones(255)]))
    symbols = np.concatenate([np.zeros(2048), np.random.default_rng(0).integers(0, 256, 2048)])
    eager = encode(tables, symbols.astype(np.int32), lanes=64)
    traced = jax.jit(encode, static_argnames=("lanes", "capacity"))
    for capacity, enough in ((int(eager.size[0]), True), (int(eager.size[0]) - 1, False)):
        stream = traced(tables, symbols.astype(np.int32), lanes=64, capacity=capacity)
        assert stream.words.shape == (1, capacity) and bool(stream.overflow) != enough
        if enough:
            assert to_bytes(stream) == to_bytes(eager)


def test_messages_of_almost_nothing_get_few_lanes():
    tables = build_tables(np.array([0.998, 0.002]))
    symbols = (np.random.default_rng(0).random(1_000_000) < 0.002).astype(np.int32)
    bits = (16 - np.log2(np.asarray(tables.frequencies)[0, symbols])).sum()
    assert 8 * len(to_bytes(encode(tables, symbols))) < 1.003 * bits + max(0.03 * bits, 128) + 128


def test_an_overflow_is_named():
    tables, symbols, index, stream = message()
    with pytest.raises(jc.CapacityError, match="larger capacity"):
        encode(tables, symbols, index, lanes=4, capacity=7)
    with pytest.raises(jc.CapacityError, match="larger capacity"):
        to_bytes(stream._replace(overflow=np.asarray(True)))


def test_capacities_come_in_eight_sizes_per_octave():
    sizes = {round_up(n) for n in range(1025, 2049)}
    assert len(sizes) == 8 and all(round_up(n) >= n for n in range(5000))
