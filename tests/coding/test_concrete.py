"""Coding on the host: the lanes it chooses, and threads and compilers that change nothing."""

import jax
import numpy as np
import pytest

from jaxcomp.coding import build_tables, concrete, decode, encode, from_bytes, to_bytes

ALWAYS, NEVER = 0.0, float("inf")  # when programs are compiled, in seconds of NumPy


@pytest.fixture(autouse=True, params=[ALWAYS, NEVER], ids=["compiled", "numpy"])
def compilation(request, monkeypatch):
    monkeypatch.setattr(concrete, "COMPILATION", request.param)


def message():
    rng = np.random.default_rng(0)
    tables = build_tables(rng.dirichlet(np.ones(30), 4))
    index = rng.integers(0, 4, 200_000)
    return tables, rng.integers(0, 30, 200_000), index


def test_the_estimate_is_the_ideal_size():
    tables, symbols, index = message()
    freq = np.asarray(tables.frequencies)[index, symbols]
    ideal = (16 - np.log2(freq)).sum()
    assert abs(concrete.estimate_bits(tables, symbols, index) / ideal - 1) < 0.01
    assert concrete.estimate_bits(tables, symbols[:0], index[:0]) == 0


def test_any_number_of_threads_writes_the_same_bytes(monkeypatch):
    tables, symbols, index = message()
    streams = []
    for cores in (1, 2, 8):
        monkeypatch.setattr(concrete.os, "cpu_count", lambda cores=cores: cores)
        streams.append(encode(tables, symbols, index, lanes=1024))
        np.testing.assert_array_equal(decode(tables, streams[-1], index), symbols)
    assert len({to_bytes(stream) for stream in streams}) == 1


@pytest.mark.parametrize("lanes", [16, 256])
@pytest.mark.parametrize("escape", [False, True])
def test_either_reads_what_the_other_writes(lanes, escape, monkeypatch):
    tables, symbols, index = (x[:999] if hasattr(x, "shape") else x for x in message())
    if escape:
        tables = build_tables(np.asarray(tables.frequencies) / 65536, offset=3, escape=True)
        symbols[::9] = np.random.default_rng(1).integers(-(1 << 31), 1 << 31, 111)
    data = to_bytes(encode(tables, symbols, index, lanes=lanes))
    monkeypatch.setattr(concrete, "COMPILATION", NEVER if concrete.COMPILATION == 0 else ALWAYS)
    np.testing.assert_array_equal(decode(tables, from_bytes(data), index), symbols)
    assert to_bytes(encode(tables, symbols, index, lanes=lanes)) == data


def test_a_program_is_compiled_where_numpy_took_as_long(monkeypatch):
    tables, symbols, index = message()
    programs = []
    monkeypatch.setattr(concrete, "COMPILATION", 0.3)
    monkeypatch.setattr(concrete, "_spent", concrete.collections.Counter())
    compiled = concrete._encode_part
    monkeypatch.setattr(concrete, "_encode_part", lambda *a: programs.append(1) or compiled(*a))
    turns = []
    for _ in range(100):
        encode(tables, symbols[:20_000], index[:20_000], lanes=64)
        turns.append(len(programs))
        if programs:
            break
    assert 10 < len(turns) < 100 and programs


def test_arrays_of_jax_are_coded_like_those_of_numpy():
    tables, symbols, index = message()
    ours = encode(tables, jax.numpy.asarray(symbols[:999]), jax.numpy.asarray(index[:999]))
    assert to_bytes(ours) == to_bytes(encode(tables, symbols[:999], index[:999]))


def test_any_number_of_groups_is_decoded(monkeypatch):
    tables, symbols, index = message()
    parts = [encode(tables, symbols[i::5][:1280], index[i::5][:1280], lanes=128) for i in range(5)]
    joined = parts[0]._replace(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in ("head", "size")},
        words=np.concatenate([np.pad(p.words, ((0, 0), (0, 9))) for p in parts]),
    )
    expected = np.concatenate([symbols[i::5][:1280] for i in range(5)])
    choice = np.concatenate([index[i::5][:1280] for i in range(5)])
    for cores in (1, 2, 4):
        monkeypatch.setattr(concrete.os, "cpu_count", lambda cores=cores: cores)
        np.testing.assert_array_equal(decode(tables, joined, choice), expected)


def test_constants_inside_a_trace_are_coded_when_it_is_traced():
    tables, symbols, index = message()
    symbols, index = symbols[:500], index[:500]
    stream = encode(tables, symbols, index)

    @jax.jit
    def add(x):
        again = encode(tables, symbols, index, lanes=stream.head.size)
        return x + decode(tables, again, index), decode(tables, stream, index)

    shifted, back = add(1)
    np.testing.assert_array_equal(back, symbols)
    np.testing.assert_array_equal(shifted, symbols + 1)
    rows = jax.vmap(lambda i: decode(tables, stream, i))(np.stack([index, index]))
    np.testing.assert_array_equal(rows, np.stack([symbols, symbols]))
