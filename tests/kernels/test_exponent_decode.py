"""The fused decoder, interpreted, against its reference, and both against what was encoded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.formats.layout import layout
from jaxcomp.formats.lossless import stacks, tables
from jaxcomp.kernels import exponent_decode
from jaxcomp.weights.lossless import encode
from tests.kernels.cases import QUICK


def message(seed, rows=16, size=64, steps=3, lanes=None):
    """(weights, arguments) of a matrix whose blocks are full."""
    rng = np.random.default_rng(seed)
    w = (rng.normal(size=(rows, size)) * np.exp2(rng.integers(-4, 1, rows))[:, None]).astype(
        jnp.bfloat16
    )
    leaf = encode(w, layout(w.shape, (-1,)), steps)
    head = leaf.head
    raw = leaf.raw.reshape(head.shape[0], 2, -1, head.shape[1])
    words = stacks(leaf.words, leaf.deep, leaf.spill, leaf.depth)
    return w, (head, words, raw, *tables(leaf.freq[0]), leaf.kinds), leaf


@pytest.fixture(scope="module")
def decoders():
    functions = exponent_decode.reference, functools.partial(exponent_decode.cuda, interpret=True)
    return [jax.jit(functools.partial(f, precision=16), compiler_options=QUICK) for f in functions]


@pytest.mark.parametrize(("rows", "size", "steps"), [(16, 64, 3), (32, 128, 5)])
def test_kernel_and_reference_return_what_was_encoded(decoders, rows, size, steps):
    for seed in range(2):
        w, arguments, leaf = message(seed, rows, size, steps)
        (bits, head), other = (decode(*arguments) for decode in decoders)
        jax.tree.map(np.testing.assert_array_equal, (bits, head), other)
        assert (np.asarray(head) == 1 << 16).all()
        same = np.asarray(bits).reshape(w.shape) == w.view(np.uint16)
        assert same.sum() >= same.size - (np.asarray(leaf.escapes) != 0xFFFFFFFF).sum()


def test_damage_stays_in_bounds(decoders):
    rng = np.random.default_rng(0)
    _, (head, words, raw, *rest), leaf = message(0)
    head, words = (
        rng.integers(0, 1 << 8 * x.dtype.itemsize, x.shape, dtype=x.dtype) for x in (head, words)
    )
    for decode in decoders:
        bits, _ = decode(head, words, raw, *rest)
        assert np.isin(np.asarray(bits) >> 7 & 255, leaf.kinds).all()
        assert (np.asarray(bits) & 127 == np.asarray(raw) >> 1).all()


def test_a_batch_is_decoded_one_by_one():
    each = [message(seed)[1] for seed in range(2)]
    most = max(x[1].shape[1] for x in each)
    each = [(h, jnp.pad(w, ((0, 0), (most - w.shape[1], 0))), *rest) for h, w, *rest in each]

    def run(head, words, raw, entries, directory, kinds):
        tables = entries, directory
        return exponent_decode.run(head, words, raw, tables, kinds[0], precision=16)

    found = jax.vmap(run)(*jax.tree.map(lambda *x: jnp.stack(x), *each))
    for i, arguments in enumerate(each):
        expected = exponent_decode.reference(*arguments, precision=16)
        jax.tree.map(np.testing.assert_array_equal, [x[i] for x in found], list(expected))
