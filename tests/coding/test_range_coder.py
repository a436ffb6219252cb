"""Range-coded strings: those of tensorflow-compression, byte for byte; round trips; damage."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import jaxcomp as jc
from jaxcomp.coding import build_tables, decode, encode, range_coder
from tests.checks import check_tables

ORACLE = np.load(Path(__file__).parents[1] / "oracle" / "tfc_strings.npz")
CASES = sorted({key.split("/")[0] for key in ORACLE.files})
COIN = np.array([1, 0, 1, 2], np.int32)


def case(name):
    index = ORACLE[f"{name}/index"] if f"{name}/index" in ORACLE.files else None
    string = ORACLE[f"{name}/string"].tobytes()
    return ORACLE[f"{name}/cdf"], ORACLE[f"{name}/symbols"], index, string


@pytest.mark.parametrize("name", CASES)
def test_strings_are_those_of_tensorflow_compression(name):
    cdf, symbols, index, string = case(name)
    assert range_coder.encode(cdf, symbols, index) == string
    decoded = range_coder.decode(cdf, string, index, shape=symbols.shape)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)


def test_the_oracle_reaches_every_rule():
    assert len(CASES) > 30
    lengths = {len(ORACLE[f"short_{n:02}/string"]) - 2 * (n // 10) for n in range(24)}
    assert len(lengths) > 2
    carried = {name: case(f"carry_{name}")[3] for name in ("low", "middle", "high")}
    assert carried["low"][:2] == b"\x7f\xff" and carried["high"][:2] == b"\x80\x00"
    assert carried["middle"] == b"\x80"  # hundreds of zero bytes, none of them written
    far = case("far")[1].astype(np.int64)
    assert far.max() > 1 << 29 and far.min() < -(1 << 29)


@st.composite
def messages(draw):
    """A table of several rows, some with escapes, and symbols in its reach."""
    header = draw(st.integers(3, 16))
    cdf, rows = [], draw(st.integers(1, 4))
    reach = []
    for _ in range(rows):
        inner = draw(st.lists(st.integers(1, (1 << header) - 1), max_size=6, unique=True))
        escape = draw(st.booleans())
        cdf += [-header if escape else header, 0, *sorted(inner), 1 << header]
        reach.append((-(1 << 29), 1 << 29) if escape else (0, len(inner)))
    index = draw(st.lists(st.integers(0, rows - 1), max_size=40))
    near = [st.integers(max(low, -3), min(high, 9)) for low, high in reach]
    any_of = [near[row] | st.integers(*reach[row]) for row in index]
    symbols = draw(st.tuples(*any_of))
    return np.array(cdf, np.int32), np.array(symbols, np.int32), np.array(index, np.int32)


@settings(max_examples=150, deadline=None)
@given(messages(), st.integers(-50, 50))
def test_round_trip_at_the_ideal_length(message, offset):
    cdf, symbols, index = message
    string = range_coder.encode(cdf, symbols + offset, index, offset=offset)
    decoded = range_coder.decode(cdf, string, index, offset=offset)
    np.testing.assert_array_equal(decoded, symbols + offset)
    starts, ends = range_coder.intervals(range_coder.read_rows(cdf), index, symbols)
    ideal_bits = -np.log2((np.array(ends) - np.array(starts)) / 65536).sum()
    # Sizes are rounded down in 16 bits or more: a step loses at most a bit, and hardly ever that.
    assert 8 * len(string) <= ideal_bits * 1.02 + 0.1 * len(starts) + 16


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12), st.integers(0, 30), st.sampled_from(["escapes", "gaps", "mixed"]))
def test_a_string_decodes_only_if_the_encoder_wrote_it(string, count, name):
    cdf = case(name)[0]
    try:
        symbols = range_coder.decode(cdf, string, shape=(count,))
    except jc.CorruptStream:
        return
    assert range_coder.encode(cdf, symbols) == string


def test_longer_and_miscounted_strings_are_refused():
    for name in ("escapes", "channels", "carry_high", "far"):
        cdf, symbols, index, string = case(name)
        for bad in (string + b"\0", string + b"\x80", string + string):
            with pytest.raises(jc.CorruptStream, match="another table or number of symbols"):
                range_coder.decode(cdf, bad, index, shape=symbols.shape)
        fewer = symbols.size * 9 // 10
        with pytest.raises(jc.CorruptStream, match=f"got {len(string)} bytes"):
            range_coder.decode(
                cdf, string, index if index is None else index[:fewer], shape=(fewer,)
            )
    with pytest.raises(jc.CorruptStream, match="escape below"):
        range_coder.decode(np.array([-1, 0, 2]), b"\0" * 8, shape=(1,))


def test_the_rate_is_far_below_that_of_a_flat_table():
    freq = np.array([60000, 3000, 2000, 536])
    cdf = np.concatenate([[16, 0], np.cumsum(freq)]).astype(np.int32)
    symbols = np.random.default_rng(0).choice(4, 20_000, p=freq / 65536).astype(np.int32)
    ideal = -np.log2(freq[symbols] / 65536).sum()
    ours = 8 * len(range_coder.encode(cdf, symbols))
    flat = 8 * len(range_coder.encode(np.array([2, 0, 1, 2, 3, 4]), symbols))
    assert 0 <= ours - ideal < 0.0005 * ideal + 16
    assert ours < 0.4 * flat and flat == 40_000


def test_tables_go_to_rans_and_back():
    rng = np.random.default_rng(1)
    tables = build_tables(rng.dirichlet(np.full(30, 0.4), 5), offset=np.arange(5) - 9, escape=True)
    cdf, offset = range_coder.from_tables(tables)
    assert cdf.dtype == offset.dtype == np.int32 and (cdf[:, 0] == -16).all()
    back = range_coder.to_tables(cdf, offset=offset)
    np.testing.assert_array_equal(back.entries, tables.entries)
    np.testing.assert_array_equal(back.offset, tables.offset)
    assert back.escape and back.precision == 16
    # What their coder writes with the table, ours carries too, escapes and all.
    index = rng.integers(0, 5, 3000).astype(np.int32)
    symbols = np.round(rng.normal(2, 8, 3000)).astype(np.int32)
    string = range_coder.encode(cdf, symbols, index, offset=offset)
    np.testing.assert_array_equal(range_coder.decode(cdf, string, index, offset=offset), symbols)
    stream = encode(back, symbols, index)
    np.testing.assert_array_equal(decode(back, stream, index), symbols)


def test_rows_of_several_lengths_become_tables():
    cdf, symbols, index, string = case("escapes")
    rows = range_coder.read_rows(cdf)
    for precision in (12, 16):
        tables = range_coder.to_tables(cdf, precision=precision)
        check_tables(tables)
        freq = np.asarray(tables.frequencies).astype(int)
        for line, first, last in zip(freq, rows.first, rows.last, strict=True):
            theirs = np.diff(rows.cumulative[first : first + last + 2]) >> (16 - precision)
            padded = freq.shape[1] - 1 - last
            assert line[-1] == theirs[-1] and (line[last:-1] == 1).all()
            lost = theirs[:-1] - line[:last]
            assert (
                lost.sum() == padded
                and (lost >= 0).all()
                and lost[theirs[:-1].argmax()] == lost.max()
            )
    stream = encode(tables, symbols, index)
    np.testing.assert_array_equal(decode(tables, stream, index), symbols)


def test_bad_input_is_named():
    refused = {
        "precision of 1 to 16": [[17, 0, 1], [0, 0, 1], [-17, 0, 1]],
        "rises from 0": [[2, 0, 3], [2, 1, 4], [2, 0, 3, 2, 4], [2], [2, 0]],
        "one row per line": [[[1, 0, 1, 2], [1, 0, 2, 1]]],
        "not empty": [[], [[[1, 0, 2]]]],
    }
    for message, tables in refused.items():
        for cdf in tables:
            with pytest.raises(jc.JaxcompError, match=message):
                range_coder.read_rows(np.array(cdf, np.int32))
    with pytest.raises(jc.JaxcompError, match="no escape"):
        range_coder.encode(COIN, np.array([2]))
    with pytest.raises(jc.JaxcompError, match="no probability"):
        range_coder.encode(case("gaps")[0], np.array([1]))
    with pytest.raises(jc.JaxcompError, match="2\\*\\*30 beyond"):
        range_coder.encode(np.array([-1, 0, 1, 2]), np.array([-(1 << 30)]))
    with pytest.raises(jc.JaxcompError, match="rows 0 to 0"):
        range_coder.encode(COIN, np.array([1]), np.array([1]))
    with pytest.raises(jc.JaxcompError, match="expected index"):
        range_coder.encode(COIN, np.array([1]), np.array([0, 0]))
    with pytest.raises(jc.JaxcompError, match="got neither"):
        range_coder.decode(COIN, b"")
    with pytest.raises(jc.JaxcompError, match="convert them apart"):
        range_coder.to_tables(case("mixed")[0])
    with pytest.raises(jc.JaxcompError, match="or more precision"):
        range_coder.to_tables(np.array([1, 0, 0, 1, 2]))
