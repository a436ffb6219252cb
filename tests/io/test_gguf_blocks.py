"""Blocks: any bytes come apart and go together again; values by hand. test_gguf.py has the tool's.

Values of every kind are held to those of the package gguf in test_gguf.py, bit for bit.
"""

import numpy as np
import pytest

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.io.gguf_blocks import KINDS, UNEVEN, decode, join, kind, split

rng = np.random.default_rng(0)
# Bits per value, as published.
BITS = {
    **{"Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 5.5, "Q5_1": 6.0, "Q8_0": 8.5, "Q2_K": 2.625},
    **{"Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "IQ4_NL": 4.5, "IQ4_XS": 4.25},
    **{"TQ1_0": 1.6875, "TQ2_0": 2.0625, "MXFP4": 4.25, "NVFP4": 4.5},
}


def test_sizes_are_those_published():
    assert {name: made.nbytes * 8 / made.values for name, made in KINDS.items()} == BITS


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"TQ1_0"}))
def test_any_bytes_come_back(name):
    blocks = rng.integers(0, 256, (20, KINDS[name].nbytes)).astype(np.uint8)
    np.testing.assert_array_equal(join(split(blocks, name), name), blocks)
    assert decode(blocks, name).dtype == np.float32


def test_five_trits_in_a_byte_come_back():
    codes = rng.integers(0, 3, (20, 256)).astype(np.uint8)
    parts = {"codes": codes, "d": np.ones(20, np.float16)}
    blocks = join(parts, "TQ1_0")
    np.testing.assert_array_equal(split(blocks, "TQ1_0")["codes"], codes)
    np.testing.assert_array_equal(decode(blocks, "TQ1_0"), codes.astype(np.float32) - 1)


def test_values_by_hand():
    d = np.float16(0.5).tobytes()
    q4 = np.frombuffer(d + bytes([0xF0] + [0x88] * 15), np.uint8)[None]
    assert decode(q4, "Q4_0")[0, [0, 16, 1]].tolist() == [-4.0, 3.5, 0.0]
    q8 = np.frombuffer(d + bytes([255, 3] + [0] * 30), np.uint8)[None]
    assert decode(q8, "Q8_0")[0, :3].tolist() == [-0.5, 1.5, 0.0]
    uneven = np.frombuffer(d + bytes([0xF0] * 16), np.uint8)[None]
    assert decode(uneven, "IQ4_NL")[0, [0, 16]].tolist() == [UNEVEN[0] / 2, UNEVEN[15] / 2]
    fp4 = np.frombuffer(bytes([128] + [0x97] * 16), np.uint8)[None]
    assert decode(fp4, "MXFP4")[0, [0, 16]].tolist() == [12.0, -0.5 * 2]
    nv = np.frombuffer(bytes([0x40, 0x38, 0, 127] + [0x97] * 32), np.uint8)[None]
    assert decode(nv, "NVFP4")[0, [0, 8, 16, 24, 32, 48]].tolist() == [12, -1, 6, -0.5, 0, 0]


def test_refusals():
    with pytest.raises(UnsupportedInput, match="among Q4_0.*got 'Q9'"):
        kind("Q9")
    with pytest.raises(CorruptStream, match="18 bytes for Q4_0"):
        split(np.zeros((2, 17), np.uint8), "Q4_0")
