"""The lax twin against the definition: a coder in Python integers, one symbol at a time."""

import functools

import jax
import numpy as np
import pytest

from jaxcomp.kernels import rans_decode, rans_encode, rans_lax
from tests.kernels.cases import SHAPES, encode_in_python, message


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2], SHAPES[8]], ids=str)
def test_it_is_rans_in_integers(shape):
    case = message(shape, 1)
    head, stacks = encode_in_python(case.head, case.start_freq, shape.precision)
    capacity = max(map(len, stacks)) + 3
    words = np.zeros((shape.groups, capacity), np.uint16)
    for row, stack in zip(words, stacks, strict=True):
        row[: len(stack)] = stack
    static = {"capacity": capacity, "precision": shape.precision}
    encode = jax.jit(functools.partial(rans_encode.reference, **static))
    got = encode(case.head, case.start_freq)
    for a, b in zip(got, (head, words, [len(stack) for stack in stacks]), strict=True):
        np.testing.assert_array_equal(a, b)
    tables = (case.entries, case.directory), case.index, case.count
    static = {"precision": shape.precision, "steps": shape.steps}
    decode = jax.jit(functools.partial(rans_lax.decode, **static))
    symbols, start, left = decode(*got, *tables)
    np.testing.assert_array_equal(symbols, case.symbols)
    np.testing.assert_array_equal(start, case.head)
    np.testing.assert_array_equal(left, 0)


@pytest.mark.parametrize("lanes", [1, 2, 3, 16, 32, 33, 128, 5000])
def test_prefix_sum_counts_flags(lanes):
    flags = np.random.default_rng(0).random((5, lanes)) < 0.7
    prefix_sum = jax.jit(rans_lax.prefix_sum)
    np.testing.assert_array_equal(prefix_sum(flags), np.cumsum(flags, 1))
    np.testing.assert_array_equal(prefix_sum(np.ones((5, lanes), bool))[:, -1], lanes)


def test_the_decoder_defines_what_the_kernels_return():
    assert rans_decode.reference is rans_lax.decode


@pytest.mark.parametrize("directory", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_no_turn_of_the_decoder_is_shared_among_threads(directory, groups):
    """XLA would share what reads from a large table, and take ten times as long."""
    tables, steps, lanes = 1000, 100, 16
    shapes = [
        ((groups, lanes), np.uint32),
        ((groups, 1 << 16), np.uint16),
        ((groups,), np.int32),
        (((tables, 500), np.uint32), ((tables, 1 << 12), np.uint32) if directory else None),
        ((groups, steps, lanes), np.int32),
        ((groups,), np.int32),
    ]
    is_shape = lambda x: isinstance(x, tuple) and isinstance(x[-1], type)  # noqa: E731
    args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(*x), shapes, is_leaf=is_shape)
    decode = jax.jit(functools.partial(rans_lax.decode, precision=16, steps=steps))
    program = decode.lower(*args).compile().as_text()
    loop = [line for line in program.splitlines() if "/while/body/" in line]
    assert any("gather" in line for line in loop)
    assert not [line for line in loop if "outer_dimension_partitions" in line]
