"""Tables: sums, the greedy optimum, one set of integers for host and trace, named errors."""

import heapq

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

import jaxcomp as jc
from jaxcomp.coding import build_tables
from jaxcomp.coding.tables import with_certain
from tests.checks import check_tables


def greedy(pmf, precision):
    """The exact optimum: every unit goes where it gains most."""
    freq = np.ones(len(pmf), int)
    heap = [(-p * np.log2(2.0), i) for i, p in enumerate(pmf)]
    heapq.heapify(heap)
    for _ in range((1 << precision) - len(pmf)):
        _, i = heapq.heappop(heap)
        freq[i] += 1
        heapq.heappush(heap, (-pmf[i] * np.log2(1 + 1 / freq[i]), i))
    return freq


@pytest.mark.parametrize("precision", [6, 8, 12, 16])
def test_within_a_millionth_of_a_bit_of_the_greedy_optimum(precision):
    rng = np.random.default_rng(precision)
    rows = [rng.dirichlet(np.full(60, c)) for c in (0.05, 0.5, 5.0)]
    rows += [np.pad(rng.dirichlet(np.ones(k)), (0, 60 - k)) for k in (2, 17)]
    pmf = np.array(rows, np.float32)
    tables = build_tables(pmf, precision=precision)
    check_tables(tables)
    gains = []
    for row, ours in zip(pmf.astype(np.float64), np.asarray(tables.frequencies), strict=True):
        ideal = row / row.sum()
        best = ideal @ np.log2(greedy(ideal, precision))
        assert best - ideal @ np.log2(ours) < 1e-6
        floor = np.floor(ideal * ((1 << precision) - len(row))) + 1
        floor[floor.argmax()] += (1 << precision) - floor.sum()
        gains.append(ideal @ np.log2(ours) - ideal @ np.log2(floor))
    assert min(gains) >= 0 and max(gains) > 1e-6  # plain rounding is worse


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.floats(0, 2.0**100, width=32, allow_subnormal=False), min_size=5, max_size=5
    ).filter(any),
    st.sampled_from([3, 9, 16]),
)
def test_a_trace_builds_the_integers_of_the_host(row, precision):
    pmf = np.array([row, row[::-1]], np.float32)
    host = build_tables(pmf, precision=precision)
    check_tables(host)
    traced = jax.jit(build_tables, static_argnames="precision")(pmf, precision=precision)
    np.testing.assert_array_equal(host.entries, traced.entries)


def test_wide_and_narrow_tables():
    one = build_tables(np.ones(1))
    assert np.asarray(one.frequencies).tolist() == [[65536]]
    check_tables(one)
    full = build_tables(np.random.default_rng(0).random(65536))
    assert (np.asarray(full.frequencies) == 1).all()
    subnormal = np.array([[1e-40, 1e-39, 1.0]], np.float32)
    traced = jax.jit(build_tables)(subnormal)
    np.testing.assert_array_equal(build_tables(subnormal).entries, traced.entries)
    tiny = build_tables(np.array([1e-300, 3e-300]), precision=2)
    assert np.asarray(tiny.frequencies).tolist() == [[1, 3]]


def test_ties_go_to_the_first():
    assert np.asarray(build_tables(np.ones(3), precision=3).frequencies).tolist() == [[3, 3, 2]]


def test_offsets_fit_or_are_refused():
    with pytest.raises(jc.JaxcompError, match="must fit int32"):
        build_tables(np.ones((2, 3)), offset=np.array([2**40, 0]))
    with pytest.raises(jc.JaxcompError, match="one offset or 2"):
        build_tables(np.ones((2, 3)), offset=np.zeros(3, np.int32))


def test_the_directory_finds_the_symbol_of_every_slot():
    pmf = np.random.default_rng(1).dirichlet(np.full(300, 0.1), 3)
    tables = build_tables(pmf, precision=10)
    slots = np.arange(1 << 10)
    bucket = np.asarray(tables.directory)[:, slots >> 4]
    starts = bucket & ((2 << (slots & 15)) - 1) & 0xFFFF
    found = (bucket >> 16) + np.bitwise_count(starts) & 0xFFFF
    for row, frequencies in zip(found, np.asarray(tables.frequencies), strict=True):
        np.testing.assert_array_equal(row, np.repeat(np.arange(300), frequencies))


def test_many_tables_get_no_directory():
    many = build_tables(np.ones((2000, 2)))
    assert many.directory is None and build_tables(np.ones((2, 2))).directory is not None


@pytest.mark.parametrize(
    ("pmf", "options", "words"),
    [
        ([0.5, np.nan], {}, "finite"),
        ([0.5, -0.1], {}, "non-negative"),
        ([0.0, 0.0], {}, "not all zero"),
        ([np.inf, 1.0], {}, "finite"),
        ([], {}, "at least one table"),
        ([1.0], {"escape": True}, "of 2 symbols"),
        (np.ones(257), {"precision": 8}, "257 symbols"),
        ([1.0], {"precision": 17}, "1 to 16"),
        (np.ones((2, 2, 2)), {}, r"\[tables, symbols\]"),
    ],
)
def test_bad_probabilities_are_refused_by_name(pmf, options, words):
    with pytest.raises(jc.JaxcompError, match=words):
        build_tables(np.array(pmf, np.float64), **options)


@pytest.mark.parametrize(("precision", "row"), [(16, None), (16, 1), (8, 0), (4, None)])
def test_a_certain_table_costs_nothing_and_the_others_stay(precision, row):
    plain = build_tables(np.eye(3, 6) + 0.1, precision=precision, offset=-2)
    tables = with_certain(plain, row)
    where = 3 if row is None else row
    others = [i for i in range(3) if i != where]
    np.testing.assert_array_equal(tables.entries[:3][others,], plain.entries[others,])
    rows = np.append(np.tile(others, 50), np.full(1000, where)).astype(np.int32)
    symbols = np.where(rows == where, 0, rows - 2).astype(np.int32)
    stream = jc.coding.encode(tables, symbols, rows, lanes=1)
    np.testing.assert_array_equal(jc.coding.decode(tables, stream, rows), symbols)
    without = jc.coding.encode(plain, symbols[:-1000], rows[:-1000], lanes=1)
    assert jc.coding.to_bytes(stream) == jc.coding.to_bytes(without)


def test_a_certain_table_needs_a_directory():
    with pytest.raises(jc.JaxcompError, match="directory"):
        with_certain(build_tables(np.ones(4), precision=3))
