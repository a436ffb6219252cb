"""AWQ: arrays that AutoAWQ packed are read to its weights, and written again bit for bit.

golden/awq_gemm.safetensors is what WQLinear_GEMM.from_linear of AutoAWQ 0.2.9 makes; WEIGHT is the
CRC-32 of the float16 weight [out, in] that its dequantize_gemm gives.
"""

import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.io.awq import from_awq, to_awq

GOLDEN = Path(__file__).parent.parent / "golden" / "awq_gemm.safetensors"
WEIGHT = 3455716456


@pytest.fixture(scope="module")
def arrays():
    return {name: np.asarray(x) for name, x in jc.io.load_safetensors(GOLDEN).items()}


def test_the_weight_is_that_of_the_tool_and_arrays_come_back(arrays):
    tree = from_awq(arrays)
    assert tree["m.weight"].shape == (32, 64)
    assert zlib.crc32(np.asarray(tree["m.weight"].dense()).tobytes()) == WEIGHT
    back, config = to_awq(tree)
    assert set(back) == set(arrays) and config["group_size"] == 32
    for name, x in back.items():
        np.testing.assert_array_equal(x, arrays[name], err_msg=name)


def test_order_by_hand():
    """The k-th code of a word is the output 0, 2, 4, 6, 1, 3, 5, 7 of its eight."""
    codes = (0, 2, 4, 6, 1, 3, 5, 7)
    word = np.int32(sum(code << 4 * k for k, code in enumerate(codes)))
    arrays = {"m.qweight": np.full((8, 1), word), "m.qzeros": np.zeros((1, 1), np.int32)}
    leaf = from_awq(arrays | {"m.scales": np.ones((1, 8), np.float16)})["m.weight"]
    np.testing.assert_array_equal(leaf.dense()[:, 0], np.arange(8))


def test_refusals(arrays):
    with pytest.raises(CorruptStream, match="expected AWQ arrays"):
        from_awq(arrays | {"m.scales": arrays["m.scales"][:, :8]})
    leaf = jc.formats.quantize(jnp.ones((6, 32)), jc.formats.INT4, -1)
    with pytest.raises(UnsupportedInput, match="outputs in eights"):
        to_awq({"m.weight": leaf})
