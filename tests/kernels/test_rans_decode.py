"""The decoder's kernels, interpreted, against its reference, and both against the encoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

from jaxcomp.kernels import rans_decode, rans_encode
from tests.kernels.cases import CASES, QUICK, SHAPES, Shape, message


def _equal(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@functools.partial(jax.jit, static_argnames=("capacity", "precision"))
def _encode(head, start_freq, *, capacity, precision):
    return rans_encode.reference(head, start_freq, capacity, precision=precision)


def _arguments(case, shape):
    """(head, words, size, tables, index, count) of an encoded message."""
    capacity = shape.steps * shape.lanes
    stacks = _encode(case.head, case.start_freq, capacity=capacity, precision=shape.precision)
    others = ((case.entries, case.directory), case.index, case.count)
    return (*stacks, *jax.tree.map(jnp.asarray, others))


def _decoders(shape, tpu_mode=True):
    static = {"precision": shape.precision, "steps": shape.steps}
    return [
        jax.jit(functools.partial(function, **static, **mode), compiler_options=QUICK)
        for function, mode in (
            (rans_decode.reference, {}),
            (rans_decode.cuda, {"interpret": True}),
            (rans_decode.tpu, {"interpret": tpu_mode}),
        )
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_and_reference_return_what_was_encoded(shape):
    decoders = _decoders(shape)
    for seed in range(CASES):
        case = message(shape, seed)
        arguments = _arguments(case, shape)
        for decode in decoders:
            _equal(decode(*arguments), (case.symbols, case.head, np.zeros(shape.groups)))


def test_memory_of_the_tpu_kernel_is_read_where_it_was_written():
    shape = Shape(16, 2, 5, groups=1, steps=17, lanes=32, directory=False, index=True)
    mode = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    case = message(shape, 0)
    *_, decode = _decoders(shape, mode)
    _equal(decode(*_arguments(case, shape)), (case.symbols, case.head, np.zeros(shape.groups)))


def test_damage_stays_in_bounds():
    shape = SHAPES[0]
    rng = np.random.default_rng(0)
    case = message(shape, 1)
    head, words, size, *rest = _arguments(case, shape)
    decoders = _decoders(shape)
    damaged_size = np.array([-5, 0, 1, 2**30] * shape.groups, np.int32)[: shape.groups]
    for head_now, words_now, size_now in (
        (rng.integers(0, 1 << 32, head.shape, dtype=np.uint32), words, size),
        (head, rng.integers(0, 1 << 16, words.shape, dtype=np.uint16), size),
        (head, words, damaged_size),
        (head, words, np.zeros_like(size)),
    ):
        arguments = (head_now, words_now, size_now, *rest)
        for decode in decoders:
            symbols, _, left = decode(*arguments)
            assert 0 <= int(symbols.min()) and int(symbols.max()) < shape.symbols
            assert (np.asarray(left) <= size_now).all()


def _run(shape, *arguments):
    return rans_decode.run(*arguments, precision=shape.precision, steps=shape.steps)


def test_shard_map_gives_each_device_the_symbols_of_its_groups():
    mesh = jax.make_mesh((8,), ("groups",), axis_types=(AxisType.Auto,))
    shape = SHAPES[4]._replace(groups=16, lanes=32, steps=5)
    case = message(shape, 0)
    part, whole = PartitionSpec("groups"), PartitionSpec()
    specs = (part, part, part, whole, part, part)
    decode = functools.partial(_run, shape)
    sharded = jax.shard_map(decode, mesh=mesh, in_specs=specs, out_specs=part)
    got = jax.jit(sharded)(*_arguments(case, shape))
    _equal(got, (case.symbols, case.head, np.zeros(16)))


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[5]], ids=str)
def test_vmap_over_messages_with_tables_of_their_own(shape):
    cases = [message(shape, seed) for seed in range(3)]
    each = [_arguments(case, shape) for case in cases]
    got = jax.vmap(functools.partial(_run, shape))(*jax.tree.map(lambda *x: np.stack(x), *each))
    for i, case in enumerate(cases):
        _equal([x[i] for x in got], (case.symbols, case.head, np.zeros(shape.groups)))


def test_vmap_over_messages_that_share_tables():
    shape = SHAPES[0]
    case, other = message(shape, 0), message(shape, 1)
    head, words, size, tables, index, _ = _arguments(case, shape)
    counts = jnp.stack([case.count, other.count])
    got = jax.vmap(lambda count: _run(shape, head, words, size, tables, index, count))(counts)
    for i, count in enumerate(counts):
        _equal([x[i] for x in got], _run(shape, head, words, size, tables, index, count))
    _equal([x[0] for x in got], (case.symbols, case.head, np.zeros(shape.groups)))


def test_an_integer_counts_over_all_groups():
    shape = SHAPES[3]
    case = message(shape, 0)
    head, words, size, tables, index, _ = _arguments(case, shape)
    full = shape.steps * shape.lanes
    for total in (0, 5, full, full + 7, 2 * full):
        count = jnp.clip(jnp.array([total, total - full]), 0, full)
        expected = _run(shape, head, words, size, tables, index, count)
        _equal(_run(shape, head, words, size, tables, index, total), expected)


def test_nothing_to_pop_changes_nothing():
    head, entries = (
        jnp.full((2, 32), 1 << 16, jnp.uint32),
        jnp.full((1, 1), 0xFFF << 16, jnp.uint32),
    )
    words, size = jnp.zeros((2, 0), jnp.uint16), jnp.zeros(2, jnp.int32)
    for steps in (0, 3):
        got = rans_decode.run(
            head, words, size, (entries, None), None, 0, precision=12, steps=steps
        )
        _equal(got, (np.zeros((2, steps, 32)), head, size))


def test_supports_reads_shapes_only():
    supports = functools.partial(rans_decode.supports, precision=12)
    assert supports((4, 128), (64, 64), platform="cuda")
    assert supports((4, 128), (64, 64), platform="tpu")
    assert supports((4, 128), (100_000, 64), platform="cuda")
    assert supports((4, 128), (100_000, 64), platform="tpu", index=False)
    assert not supports((4, 128), (100_000, 64), platform="tpu")  # more than fits on chip
    assert not supports((4, 96), (64, 64), platform="cuda")  # not a power of two
    assert not supports((4, 128), (64, 64), platform="cpu")
