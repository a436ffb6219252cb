"""encode, decode, push, pop: the law, the rate, every transformation, named errors."""

import constriction
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import PartitionSpec

import jaxcomp as jc
from jaxcomp.base import JaxcompError
from jaxcomp.coding import (
    Stream,
    build_tables,
    concrete,
    decode,
    empty,
    encode,
    is_finished,
    pop,
    push,
    push_each,
    to_bytes,
)
from tests.checks import DRAWN, WORST, check_rate, check_round_trip


def draw(rng, tables, count, *, shape=None):
    """Symbols drawn from the integer tables, and the index of the table of each."""
    cumulative = np.cumsum(np.asarray(tables.frequencies), axis=1)
    index = rng.integers(0, len(cumulative), count).astype(np.int32)
    slots = rng.integers(0, 1 << tables.precision, count)
    symbols = (slots[:, None] >= cumulative[index]).sum(1) + np.asarray(tables.offset)[index]
    return symbols.astype(np.int32).reshape(shape or count), index.reshape(shape or count)


def dirichlet_tables(rng, tables=6, symbols=24, **options):
    return build_tables(rng.dirichlet(np.full(symbols, 0.3), tables), **options)


TABLES = {
    p: dirichlet_tables(np.random.default_rng(p), precision=p, offset=-7) for p in (5, 12, 16)
}


# Each is compiled for itself.
FORMS = [(0, 16, 4), (1, 12, 64), (400, 5, 4), (400, 12, 256), (400, 16, 64)]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(FORMS), st.integers(0, 2**32 - 1))
def test_round_trip_of_any_symbols(form, seed):
    count, precision, lanes = form
    rng = np.random.default_rng(seed)
    symbols = rng.integers(-7, 17, count).astype(np.int32)
    index = rng.integers(0, 6, count).astype(np.int32)
    check_round_trip(TABLES[precision], symbols, index, lanes=lanes)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=64), st.sampled_from([1, 4]))
def test_any_int32_escapes(values, lanes):
    tables = build_tables(np.ones(8), offset=3, escape=True)
    symbols = np.pad(np.array(values, np.int32), (0, 64 - len(values)))
    check_round_trip(tables, symbols, lanes=lanes)


def test_the_rate_of_drawn_symbols_and_of_the_worst():
    rng = np.random.default_rng(0)
    tables = dirichlet_tables(rng, 32, 64)
    symbols, index = draw(rng, tables, 400_000)
    assert check_rate(tables, symbols, index, factor=DRAWN, lanes=64) < DRAWN
    skewed = build_tables(np.array([0.97, 0.02, 0.01]))
    for symbol in range(3):
        run = np.full(50_000, symbol, np.int32)
        check_rate(skewed, run, factor=WORST, lanes=32)


def test_the_size_is_that_of_an_independent_coder():
    rng = np.random.default_rng(1)
    tables = dirichlet_tables(rng, 1, 40)
    symbols, _ = draw(rng, tables, 100_000)
    probabilities = np.asarray(tables.frequencies)[0] / 65536
    model = constriction.stream.model.Categorical(probabilities, perfect=False)
    peer = constriction.stream.stack.AnsCoder()
    peer.encode_reverse(symbols, model)
    peer_bits = 32 * len(peer.get_compressed())
    bits = 8 * len(to_bytes(encode(tables, symbols, lanes=32)))
    assert peer_bits * 0.999 < bits < peer_bits * 1.003 + 32 * 32


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("precision", [8, 16])
@pytest.mark.parametrize("lanes", [16, 256])
def test_jit_writes_the_bytes_of_eager(escape, precision, lanes):
    rng = np.random.default_rng(2)
    tables = dirichlet_tables(rng, precision=precision, escape=escape)
    symbols, index = draw(rng, tables, 3000, shape=(30, 100))
    if escape:
        symbols[3] += 1000
    eager = encode(tables, symbols, index, lanes=lanes)
    traced = jax.jit(encode, static_argnames="lanes")(tables, symbols, index, lanes=lanes)
    assert to_bytes(eager) == to_bytes(traced)
    back = jax.jit(decode)(tables, traced, index)
    np.testing.assert_array_equal(back, symbols)


def test_eager_calls_of_many_lengths_share_programs():
    rng = np.random.default_rng(3)
    tables = dirichlet_tables(rng)
    before = concrete._encode._cache_size()
    for count in range(4097, 4097 + 64 * 8, 64):
        symbols, index = draw(rng, tables, count)
        back = decode(tables, encode(tables, symbols, index, lanes=32), index)
        np.testing.assert_array_equal(back, symbols)
    assert concrete._encode._cache_size() - before <= 3


def test_a_batch_under_vmap_is_a_loop():
    rng = np.random.default_rng(4)
    tables = dirichlet_tables(rng, escape=True)
    symbols, index = draw(rng, tables, 600, shape=(3, 200))
    symbols[1, 5] = -99

    def code(s, i):
        return encode(tables, s, i, lanes=8)

    batch = jax.vmap(code)(symbols, index)
    for row in range(3):
        one = jax.tree.map(lambda x, row=row: x[row], batch)
        assert to_bytes(one) == to_bytes(code(symbols[row], index[row]))
    back = jax.vmap(lambda s, i: pop(s, tables, i)[0])(batch, index)
    np.testing.assert_array_equal(back, symbols)


def test_pmap_codes_on_every_device():
    tables = build_tables(np.random.default_rng(0).dirichlet(np.ones(9)))
    symbols = np.random.default_rng(1).integers(0, 9, (8, 100)).astype(np.int32)
    streams = jax.pmap(lambda s: encode(tables, s, lanes=4))(symbols)
    for row in range(8):
        one = jax.tree.map(lambda x, row=row: x[row], streams)
        assert to_bytes(one) == to_bytes(encode(tables, symbols[row], lanes=4))


def test_scan_pushes_and_pops_in_reverse():
    rng = np.random.default_rng(5)
    tables = dirichlet_tables(rng, escape=True)
    symbols, index = draw(rng, tables, 800, shape=(10, 80))
    symbols[:, 7] += 500
    start = empty(16, 800, escape_capacity=100)

    @jax.jit
    def both(symbols, index):
        def pushed(stream, step):
            return push(stream, tables, *step), None

        def popped(stream, i):
            out, stream = pop(stream, tables, i)
            return stream, out

        full, _ = jax.lax.scan(pushed, start, (symbols, index), reverse=True)
        return full, *jax.lax.scan(popped, full, index)

    full, rest, out = both(symbols, index)
    np.testing.assert_array_equal(out, symbols)
    assert not is_finished(full) and is_finished(rest)


def test_sharded_encoding_writes_the_same_groups():
    rng = np.random.default_rng(6)
    tables = dirichlet_tables(rng)
    symbols, index = draw(rng, tables, 8 * 128 * 10)
    mesh = jax.make_mesh((8,), ("shard",), axis_types=(jax.sharding.AxisType.Auto,))
    split, same = PartitionSpec("shard"), PartitionSpec()

    def shard(tables, s, i):
        stream = encode(tables, s, i, lanes=128)
        return stream.head, stream.words, stream.size, stream.overflow[None]

    sharded = jax.jit(
        jax.shard_map(shard, mesh=mesh, in_specs=(same, split, split), out_specs=split)
    )(tables, symbols, index)
    whole = encode(tables, symbols, index, lanes=1024)
    together = Stream(*sharded[:3], whole.escapes, whole.escape_size, sharded[3].any())
    assert to_bytes(together) == to_bytes(whole)
    out = jax.jit(
        jax.shard_map(
            lambda t, h, w, n, i: pop(
                Stream(h, w, n, whole.escapes, whole.escape_size, whole.overflow), t, i
            )[0],
            mesh=mesh,
            in_specs=(same, split, split, split, split),
            out_specs=split,
        )
    )(tables, *sharded[:3], index)
    np.testing.assert_array_equal(out, symbols)


def test_a_table_per_symbol_needs_no_directory():
    pmf = np.random.default_rng(7).dirichlet(np.ones(9), 5000).astype(np.float32)

    @jax.jit
    def both(pmf, symbols):
        tables = build_tables(pmf)
        index = jnp.arange(len(pmf))
        stream = encode(tables, symbols, index, lanes=32)
        return tables.directory is None, pop(stream, tables, index)

    symbols = np.random.default_rng(8).integers(0, 9, 5000).astype(np.int32)
    _, (out, rest) = both(pmf, symbols)
    np.testing.assert_array_equal(out, symbols)
    assert is_finished(rest)


def test_what_cannot_be_coded_is_reported():
    tables = build_tables(np.ones((2, 4)), offset=np.array([0, 10]))
    with pytest.raises(jc.JaxcompError, match="expected symbols 10 to 13, got 3 at position 1"):
        encode(tables, np.array([3, 3]), np.array([0, 1]))
    with pytest.raises(jc.JaxcompError, match="index must be 0 to 1, got 2"):
        encode(tables, np.array([3, 3]), np.array([0, 2]))
    with pytest.raises(jc.JaxcompError, match="index that chooses"):
        encode(tables, np.array([3, 3]))
    with pytest.raises(jc.JaxcompError, match="neither"):
        decode(tables, empty(4, 8))
    with pytest.raises(jc.JaxcompError, match="must fit int32"):
        encode(tables, np.array([2**40]), np.array([0]))
    with pytest.raises(jc.JaxcompError, match="shape"):
        encode(tables, np.array([1, 2]), np.array([0]))
    with pytest.raises(jc.JaxcompError, match="power of two"):
        encode(tables, np.array([1]), np.array([0]), lanes=3)
    traced = jax.jit(encode, static_argnames="lanes")
    assert traced(tables, np.array([3, 3]), np.array([0, 1]), lanes=4).overflow
    assert traced(tables, np.array([3, 3]), np.array([0, 2]), lanes=4).overflow
    assert not traced(tables, np.array([3, 13]), np.array([0, 1]), lanes=4).overflow


def test_a_full_stack_overflows_and_an_empty_one_goes_below_zero():
    tables = build_tables(np.ones(256))
    stream = push(empty(4, 6), tables, np.arange(64))
    assert stream.overflow and not is_finished(stream)
    _, below = pop(empty(4, 6), tables, shape=(64,))
    assert (below.size < 0).all() and not is_finished(below)


@pytest.mark.parametrize("lanes", [4, 512])
def test_pushed_together_is_pushed_one_after_the_other(lanes):
    rng = np.random.default_rng(lanes)
    start = empty(lanes, 5000, escape_capacity=900)
    parts, one_by_one = [], start
    for escape, count, rows in ((True, 333, 3), (False, 1000, 5), (True, 17, 1)):
        tables = build_tables(rng.dirichlet(np.ones(9), rows), escape=escape)
        index = rng.integers(0, rows, count).astype(np.int32)
        symbols = rng.integers(0, 8, count).astype(np.int32)
        symbols[::5] += 40 * escape
        parts.append((tables, symbols, index))
        one_by_one = push(one_by_one, *parts[-1])
    assert int(one_by_one.escape_size) == 67 + 4
    for a, b in zip(push_each(start, parts), one_by_one, strict=True):
        np.testing.assert_array_equal(a, b)
    coarse = build_tables(np.ones((1, 2)), precision=12)
    with pytest.raises(JaxcompError, match=r"one precision, got \[12, 16\]"):
        push_each(start, [*parts, (coarse, symbols, index)])


@pytest.mark.parametrize("count", [0, 1, 100, 160])
def test_what_was_not_pushed_is_not_popped(count):
    tables = build_tables(np.random.default_rng(0).dirichlet(np.ones(9), 3), escape=True)
    rng = np.random.default_rng(count)
    index = rng.integers(0, 3, 160).astype(np.int32)
    symbols = rng.integers(-3, 12, 160).astype(np.int32)  # some escape
    start = push(empty(16, 500, escape_capacity=300), tables, symbols, index)
    stream = push(start, tables, symbols[:count], index[:count])
    found, rest = jax.jit(lambda n: pop(stream, tables, index, count=n))(jnp.int32(count))
    np.testing.assert_array_equal(found[:count], symbols[:count])
    np.testing.assert_array_equal(rest.head, start.head)
    assert rest.size == start.size and rest.escape_size == start.escape_size
