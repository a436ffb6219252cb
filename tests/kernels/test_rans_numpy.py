"""The NumPy twin against the definition, and against the lax twin on damaged streams."""

import functools

import jax
import numpy as np
import pytest

from jaxcomp.kernels import rans_lax, rans_numpy
from tests.kernels.cases import SHAPES, encode_in_python, message

WITH_DIRECTORY = [shape for shape in SHAPES if shape.directory]


def stacked(word, emit):
    """(words, size): the stack of each group, last step and last lane first, and zeros above."""
    stacks = [w[e][::-1] for w, e in zip(word, emit, strict=True)]
    size = np.array([len(stack) for stack in stacks], np.int32)
    words = np.zeros((len(stacks), size.max() + 3), np.uint16)
    for row, stack in zip(words, stacks, strict=True):
        row[: len(stack)] = stack
    return words, size


@pytest.mark.parametrize("shape", WITH_DIRECTORY, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_rans_in_integers(shape, seed):
    case = message(shape, seed)
    head, stacks = encode_in_python(case.head, case.start_freq, shape.precision)
    got, word, emit = rans_numpy.encode(case.head, case.start_freq, precision=shape.precision)
    words, size = stacked(word, emit)
    np.testing.assert_array_equal(got, head)
    np.testing.assert_array_equal(np.concatenate(stacks), word[:, ::-1, ::-1][emit[:, ::-1, ::-1]])
    static = {"precision": shape.precision, "steps": shape.steps}
    tables = case.entries, case.directory
    out = rans_numpy.decode(got, words, size, tables, case.index, case.count, **static)
    for found, expected in zip(out, (case.symbols, case.head, 0 * size), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [WITH_DIRECTORY[0], WITH_DIRECTORY[3]], ids=str)
def test_of_damaged_words_it_makes_what_lax_makes(shape):
    case = message(shape, 1)
    head, word, emit = rans_numpy.encode(case.head, case.start_freq, precision=shape.precision)
    words, size = stacked(word, emit)
    rng = np.random.default_rng(0)
    static = {"precision": shape.precision, "steps": shape.steps}
    lax = jax.jit(functools.partial(rans_lax.decode, **static))
    for _ in range(5):
        wrong = words ^ (rng.random(words.shape) < 0.1)
        args = head, wrong, size, (case.entries, case.directory), case.index, case.count
        for ours, theirs in zip(rans_numpy.decode(*args, **static), lax(*args), strict=True):
            np.testing.assert_array_equal(ours, theirs)
