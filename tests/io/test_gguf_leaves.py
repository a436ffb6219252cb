"""Leaves of blocks: the same bytes again, the same weights, and no leaf where none is exact."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.io.gguf_blocks import KINDS
from jaxcomp.io.gguf_leaves import CARRIED, FORMATS, GGUFBlocks, blocks_of, leaf_of, round_to_gguf

rng = np.random.default_rng(0)
X = rng.standard_normal((2, 3, 512)).astype(np.float32)
BLOCKS = {name: round_to_gguf(X, name) for name in KINDS}


def test_leaves_have_the_values_of_the_blocks_and_give_their_bytes_back():
    leaves = {name: leaf_of(blocks) for name, blocks in BLOCKS.items()}
    exact = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, QTensor)}
    assert set(exact) == set(FORMATS)
    dense = jax.jit(lambda tree: {name: leaf.dense() for name, leaf in tree.items()})(exact)
    for name, leaf in exact.items():
        assert leaf.shape == X.shape
        np.testing.assert_array_equal(dense[name], BLOCKS[name].dense(), err_msg=name)
        np.testing.assert_array_equal(blocks_of(leaf).data, BLOCKS[name].data, err_msg=name)
        assert blocks_of(leaf).kind == name


def test_a_leaf_multiplies_as_its_weight():
    leaf = leaf_of(round_to_gguf(X[0], "Q6_K"))
    x = rng.standard_normal((4, 512)).astype(np.float32)
    out = leaf.matmul(jnp.asarray(x))
    np.testing.assert_allclose(out, x @ np.asarray(leaf.dense()).T, rtol=1e-4, atol=1e-3)


def test_a_quantised_weight_of_ours_becomes_blocks():
    format = FORMATS["Q8_0"]._replace(name="ours")
    leaf = jc.formats.quantize(jnp.asarray(X[0]), format, axes=-1)
    blocks = blocks_of(leaf)
    assert blocks.kind == "Q8_0" and blocks.shape == (3, 512)
    np.testing.assert_array_equal(blocks.dense(), leaf.dense())


def test_blocks_are_arrays_to_numpy():
    blocks = BLOCKS["Q4_K"]
    assert blocks.shape == X.shape and blocks.nbytes == X.size * 4.5 / 8
    np.testing.assert_array_equal(np.asarray(blocks), blocks.dense())
    assert float(((np.asarray(blocks) - X) ** 2).mean()) < 0.01


def test_no_leaf_where_it_would_not_be_exact():
    data = BLOCKS["MXFP4"].data.copy()
    data[0, 0, 0] = 255  # an exponent that is NaN to OCP, and not to ggml
    assert isinstance(leaf_of(GGUFBlocks("MXFP4", data)), GGUFBlocks)
    data = BLOCKS["NVFP4"].data.copy()
    data[0, 0, 0] = 127  # NaN to OCP, and 0 to ggml
    assert isinstance(leaf_of(GGUFBlocks("NVFP4", data)), GGUFBlocks)
    data = BLOCKS["TQ1_0"].data.copy()
    data[0, 0, 0] = 1  # five digits of 0, which are written as 0
    assert isinstance(leaf_of(GGUFBlocks("TQ1_0", data)), GGUFBlocks)


def test_refusals():
    with pytest.raises(UnsupportedInput, match=r"blocks of 256 for Q4_K, got \(3, 40\)"):
        round_to_gguf(np.zeros((3, 40), np.float32), "Q4_K")
    with pytest.raises(UnsupportedInput, match="round_to_gguf"):
        blocks_of(jc.formats.quantize(jnp.asarray(X[0]), jc.formats.INT8, axes=-1))
    leaf = leaf_of(BLOCKS["NVFP4"])
    twice = dataclasses.replace(leaf.scales, scales=leaf.scales.scales * 2)
    with pytest.raises(UnsupportedInput, match="global scale of 1"):
        blocks_of(dataclasses.replace(leaf, scales=twice))
    with pytest.raises(CorruptStream, match="whole blocks of 18"):
        GGUFBlocks("Q4_0", np.zeros((2, 20), np.uint8))
    assert "IQ2_XS" in CARRIED
    with pytest.raises(UnsupportedInput, match="got IQ2_XS"):
        GGUFBlocks("IQ2_XS", np.zeros((2, 74), np.uint8)).dense()
