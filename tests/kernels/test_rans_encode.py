"""The encoder's kernels, interpreted, against its reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxcomp.kernels import rans_encode
from tests.kernels.cases import CASES, QUICK, SHAPES, message


def _equal(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_emit_the_bytes_of_the_reference(shape):
    # Some leave too little room, so that words are dropped.
    capacity = shape.steps * shape.lanes // (8 if shape.precision in (10, 14) else 1)
    static = {"capacity": capacity, "precision": shape.precision}
    reference, *kernels = (
        jax.jit(functools.partial(function, **static, **mode), compiler_options=QUICK)
        for function, mode in (
            (rans_encode.reference, {}),
            (rans_encode.cuda, {"interpret": True}),
            (rans_encode.tpu, {"interpret": True}),
        )
    )
    for seed in range(CASES):
        case = message(shape, seed)
        expected = reference(case.head, case.start_freq)
        for kernel in kernels:
            _equal(kernel(case.head, case.start_freq), expected)


def test_division_is_exact_where_a_float_estimate_is_worst():
    rng = np.random.default_rng(0)
    for precision in range(8, 17):
        freq = rng.integers(1, (1 << precision) + 1, 1 << 14).astype(np.uint32)
        freq[: 1 << 12] = rng.integers(1, 5, 1 << 12)
        bound = freq.astype(np.uint64) << (32 - precision)
        quotient = (rng.random(1 << 14) * (bound // freq)).astype(np.uint64)
        for near in (quotient * freq, quotient * freq + freq - 1, bound - 1):
            x = jnp.asarray(near.astype(np.uint32))
            got = rans_encode.divide(x, jnp.asarray(freq), precision)
            np.testing.assert_array_equal(got, near // freq)


def test_shard_map_gives_each_device_the_bytes_of_its_groups():
    mesh = jax.make_mesh((8,), ("groups",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("groups")
    encode = functools.partial(rans_encode.run, capacity=160, precision=12)
    shape = SHAPES[4]._replace(groups=16, lanes=32, steps=5)
    case = message(shape, 0)
    sharded = jax.shard_map(encode, mesh=mesh, in_specs=spec, out_specs=spec)
    arguments = jnp.asarray(case.head), jnp.asarray(case.start_freq)
    _equal(jax.jit(sharded)(*arguments), encode(*arguments))


def test_vmap_equals_a_loop():
    shape = SHAPES[0]
    cases = [message(shape, seed) for seed in range(6)]
    heads = jnp.stack([case.head for case in cases]).reshape(2, 3, *cases[0].head.shape)
    planes = jnp.stack([case.start_freq for case in cases[:3]])
    encode = functools.partial(rans_encode.run, capacity=160, precision=shape.precision)
    got = jax.vmap(jax.vmap(encode), in_axes=(0, None))(heads, planes)
    for i in range(2):
        for j in range(3):
            _equal([x[i, j] for x in got], encode(heads[i, j], planes[j]))


def test_nothing_to_push_changes_nothing():
    head = jnp.full((2, 32), 1 << 16, jnp.uint32)
    for steps, capacity in ((0, 4), (0, 0), (3, 0)):
        idle = jnp.full((2, steps, 32), 0xFFF << 16, jnp.uint32)
        got = rans_encode.run(head, idle, capacity, precision=12)
        _equal(got, (head, np.zeros((2, capacity), np.uint16), [0, 0]))


def test_supports_reads_shapes_only():
    supports = functools.partial(rans_encode.supports, precision=12)
    assert supports((4, 128), (4, 9, 128), platform="cuda")
    assert supports((4, 128), (4, 9, 128), platform="tpu")
    assert not supports((4, 96), (4, 9, 96), platform="cuda")  # not a power of two
    assert not supports((4, 256), (4, 9, 256), platform="tpu")  # wider than a register
    assert not supports((4, 128), (4, 0, 128), platform="tpu")
    assert not supports((4, 128), (4, 9, 128), platform="cpu")
