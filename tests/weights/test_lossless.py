"""Lossless coding: as small as the entropy of exponents allows, or not done at all."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import layout
from tests.checks import check_transform

GOLDEN = Path(__file__).parent.parent / "golden" / "lossless_v1.jxc"
LOSSLESS = importlib.import_module("jaxcomp.weights.lossless")
RNG = np.random.default_rng(0)


def gaussian(*shape, dtype="bfloat16"):
    return (RNG.normal(size=shape) * 0.02).astype(jnp.dtype(dtype))


def made(w, axes=(-2,)):
    return jc.weights.lossless().compress(w, None, axes)


def assert_bits(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


def test_size_is_the_entropy_of_pairs_and_heads():
    w = gaussian(512, 512)
    leaf = made(w, (-1,))
    exponent = (w.view(np.uint16) >> 7 & 255).reshape(leaf.head.shape[0], 2, -1)
    _, counts = np.unique(exponent[:, 0] * 256 + exponent[:, 1], return_counts=True)
    pairs = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert leaf.nbytes == jc.tree.nbytes(leaf) == sum(x.nbytes for x in jax.tree.leaves(leaf))
    assert leaf.nbytes < 1.01 * (w.size + pairs) + leaf.head.nbytes
    assert leaf.nbytes < 0.68 * w.nbytes
    # float32 has the same exponents, and three planes beside.
    wide = made(gaussian(512, 512, dtype="float32"), (-1,))
    assert wide.nbytes < 0.845 * 4 * w.size


def test_what_would_not_shrink_stays_and_says_so():
    bits = RNG.integers(0, 1 << 16, (2, 64, 64), dtype=np.uint16).view(jnp.bfloat16)
    bits[0] = gaussian(64, 64)
    with pytest.warns(UserWarning, match="stays dense"):
        params = {"w": jnp.asarray(bits)}
        kept = jc.weights.compress(params, jc.weights.lossless(), axes=-2, donate=True)["w"]
    assert_bits(kept, bits)


def test_the_law_of_transforms():
    w = gaussian(128, 64, dtype="float32")
    assert_bits(check_transform(jc.weights.lossless(), w).dense(), w)


def test_what_is_not_finite_is_compressed_too():
    w = gaussian(128, 64)
    w[3, 5], w[4, 5] = np.nan, np.inf
    leaf = jc.weights.compress({"w": jnp.asarray(w)}, jc.weights.lossless(), axes=-2)["w"]
    assert_bits(leaf.dense(), w)


def golden_weights():
    """Integers all through. Some rows are of other scales, so that their block needs more room."""
    mixed = np.arange(96 * 64).reshape(96, 64) * 2654435761 % 2**32
    exponent = 120 + np.bitwise_count(mixed >> 7 & 0x3FF) + (np.arange(96) < 8)[:, None] * mixed % 9
    bits = (mixed & 0x807F | exponent << 7).astype(np.uint16)
    leaf = jc.weights.lossless(steps=8).compress(bits.view(jnp.bfloat16), None, (-1,))
    return {"w": leaf, "wide": made((mixed >> 9 << 7 | exponent).astype(np.float32))}


def test_golden_file():
    back, now = jc.io.load_weights(GOLDEN), golden_weights()
    assert jax.tree.structure(back) == jax.tree.structure(now)
    jax.tree.map(assert_bits, back, now)
    assert now["w"].spill is not None


def test_what_it_does_not_take():
    with pytest.raises(UnsupportedInput, match="float64"):
        made(np.zeros((4, 4)))
    with pytest.raises(UnsupportedInput, match="at least one step"):
        jc.weights.lossless(steps=0)


@pytest.mark.parametrize("dtype, shape", [("bfloat16", (129, 35)), ("float16", (65, 33))])
def test_turns_and_the_compiled_coder_give_the_same_leaf(monkeypatch, dtype, shape):
    w = gaussian(*shape, dtype=dtype)
    w.reshape(-1)[::50] *= 2.0 ** RNG.integers(-30, 12, len(w.ravel()[::50]))  # rare exponents
    whole = LOSSLESS.encode(w, layout(shape, (-1,)), steps=4)
    monkeypatch.setattr(LOSSLESS, "AT_ONCE", 1 << 10)
    monkeypatch.setattr(LOSSLESS, "STEPS", 8)
    monkeypatch.setattr(LOSSLESS, "COMPILED", 0)
    turns = LOSSLESS.encode(w, layout(shape, (-1,)), steps=4)
    jax.tree.map(assert_bits, whole, turns)
    assert whole.head.shape[0] > 4
    assert whole.escapes is None or (np.asarray(whole.escapes) != 0xFFFFFFFF).sum() > 20
    assert_bits(turns.dense(), w)
