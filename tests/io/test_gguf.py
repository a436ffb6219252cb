"""GGUF files: those of the real tools are read bit for bit and written byte for byte.

golden/gguf_v3.gguf was written by the package gguf 0.19.0, its blocks by ggml (in llama-cpp-python
0.3.36). VALUES has the CRC-32 of the float32 values that gguf.quants.dequantize gives.
"""

import random
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import JaxcompError, UnsupportedInput
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.io.gguf import gguf_metadata, load_gguf, save_gguf
from jaxcomp.io.gguf_leaves import GGUFBlocks, blocks_of, round_to_gguf

GOLDEN = Path(__file__).parent.parent / "golden" / "gguf_v3.gguf"
VALUES = {
    "blk.q4_0.weight": 2892956710,
    "blk.q4_1.weight": 2660898751,
    "blk.q5_0.weight": 2372315670,
    "blk.q5_1.weight": 3500568393,
    "blk.q8_0.weight": 4253514177,
    "blk.q2_k.weight": 1066104118,
    "blk.q3_k.weight": 2187830516,
    "blk.q4_k.weight": 2807809538,
    "blk.q5_k.weight": 4278135921,
    "blk.q6_k.weight": 1380319521,
    "blk.iq4_nl.weight": 4073188476,
    "blk.iq4_xs.weight": 633166325,
    "blk.tq1_0.weight": 2058259441,
    "blk.tq2_0.weight": 3756686198,
    "blk.mxfp4.weight": 523558344,
    "experts.weight": 979568376,
    "blk.nvfp4.weight": 2948640230,
}


@pytest.fixture(scope="module")
def tree():
    return load_gguf(GOLDEN)


def test_every_value_is_that_of_the_tool(tree):
    assert sum(isinstance(x, QTensor | GGUFBlocks) for x in tree.values()) == len(VALUES)
    for name, crc in VALUES.items():
        blocks = tree[name] if isinstance(tree[name], GGUFBlocks) else blocks_of(tree[name])
        assert zlib.crc32(blocks.dense().tobytes()) == crc, name
    assert tree["experts.weight"].shape == (2, 3, 64)
    assert {name: str(tree[name].dtype) for name in ("norm.weight", "half.weight", "ids")} == {
        **{"norm.weight": "float32", "half.weight": "float16", "ids": "int32"}
    }
    assert tree["brain.weight"].dtype == jnp.bfloat16


def test_the_file_of_the_tool_is_written_again_byte_for_byte(tree, tmp_path):
    save_gguf(tmp_path / "again.gguf", tree, gguf_metadata(GOLDEN))
    assert (tmp_path / "again.gguf").read_bytes() == GOLDEN.read_bytes()


def test_a_vocabulary_alone_comes_back(tmp_path):
    """Files without tensors, as the tool writes them: nothing is filled up after the metadata."""
    data = b"GGUF" + (3).to_bytes(4, "little")
    key, text = b"tokenizer.ggml.model", b"gpt2"
    entry = len(key).to_bytes(8, "little") + key + (8).to_bytes(4, "little")
    entry += len(text).to_bytes(8, "little") + text
    data += bytes(8) + (1).to_bytes(8, "little") + entry
    (tmp_path / "x.gguf").write_bytes(data)
    metadata = gguf_metadata(tmp_path / "x.gguf")
    assert metadata == {"tokenizer.ggml.model": "gpt2"} and load_gguf(tmp_path / "x.gguf") == {}
    save_gguf(tmp_path / "y.gguf", {}, metadata)
    assert (tmp_path / "y.gguf").read_bytes() == data


def test_metadata_keep_their_types():
    metadata = gguf_metadata(GOLDEN)
    assert metadata["a.text"] == "größer" and metadata["a.tokens"] == ["<s>", "</s>", "ab"]
    kinds = {key: type(metadata[key]) for key in ("a.u8", "a.i16", "a.bool", "a.f64", "a.u64")}
    assert list(kinds.values()) == [np.uint8, np.int16, np.bool_, np.float64, np.uint64]
    assert metadata["a.ints"].tolist() == [1, 2, -3] and metadata["a.ints"].dtype == np.int32


def test_trees_and_python_values_there_and_back(tmp_path):
    w = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    leaf = jc.formats.quantize(
        jnp.asarray(w), jc.formats.Format(4, 32, offset=8, scale="float16"), -1
    )
    nested = {"blk": {"0": {"q": leaf, "k": round_to_gguf(w, "Q4_1")}}, "norm": jnp.ones(3)}
    metadata = {
        **{"general.architecture": "x", "n": 3, "low": -3, "big": 1 << 40, "eps": 1e-5},
        **{"yes": True, "list": [1, 2], "words": ["a", "b"], "none": [], "deep": [[1], [2, 3]]},
        "general.alignment": 64,
    }
    size = save_gguf(tmp_path / "x.gguf", nested, metadata)
    assert size == (tmp_path / "x.gguf").stat().st_size
    back, kept = load_gguf(tmp_path / "x.gguf"), gguf_metadata(tmp_path / "x.gguf")
    assert list(back) == ["blk.0.q", "blk.0.k", "norm"]
    jax.tree.map(np.testing.assert_array_equal, back["blk.0.q"], leaf)
    assert kept["big"] == 1 << 40 and kept["eps"] == np.float32(1e-5) and kept["none"] == []
    assert kept["deep"][1].tolist() == [2, 3] and kept["yes"].dtype == bool


def test_damage_is_named_or_harmless(tmp_path):
    """Bytes that are changed, lost or put in: a named error, or a file that reads as it stands."""
    data, draw, path = GOLDEN.read_bytes(), random.Random(0), tmp_path / "bad.gguf"
    header = data.index(b"blk.nvfp4") + 56
    refused = 0
    for trial in range(200):
        bad = bytearray(data)
        if trial % 4 == 3:
            del bad[draw.randrange(len(bad)) :]
        else:
            for _ in range(draw.randint(1, 3)):
                bad[draw.randrange(header)] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
        path.write_bytes(bad)
        try:
            back = load_gguf(path)
        except JaxcompError as error:
            assert str(error).count("expected") and len(str(error)) < 600
            refused += 1
        else:
            save_gguf(path, {"x": jnp.ones(3)}, gguf_metadata(path))
            assert len(back) == 21
    assert refused > 70


@pytest.mark.parametrize("count", [1 << 20, 1 << 62, (1 << 64) - 1])
def test_counts_are_compared_with_the_file_first(count, tmp_path):
    data = bytearray(GOLDEN.read_bytes())
    for at in (8, 16):
        bad = bytearray(data)
        bad[at : at + 8] = count.to_bytes(8, "little")
        (tmp_path / "bad.gguf").write_bytes(bad)
        with pytest.raises(jc.CorruptStream, match="a count of|GGUF file"):
            load_gguf(tmp_path / "bad.gguf")


def test_refusals(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"")
    with pytest.raises(jc.CorruptStream, match="fetch the file again"):
        load_gguf(path)
    path.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + bytes(100))
    with pytest.raises(UnsupportedInput, match="version 2 or 3"):
        load_gguf(path)
    leaf = jc.formats.quantize(jnp.ones((2, 32)), jc.formats.INT8, -1)
    for tree, match in (
        ({"a": leaf}, "'a': expected a QTensor"),
        ({"a": np.zeros(3, np.complex64)}, "complex64"),
        ({"a" * 64: jnp.ones(3)}, "at most 63 bytes"),
        ([jnp.ones(3)], "a dict of tensors"),
        ({"a": np.zeros((0, 3), np.float32)}, "values in 1 to 4 axes"),
        ({"a": {"b": jnp.ones(3)}, "a.b": jnp.ones(3)}, "two of one name"),
    ):
        with pytest.raises(UnsupportedInput, match=match):
            save_gguf(path, tree)
    with pytest.raises(UnsupportedInput, match="of one type in the metadata"):
        save_gguf(path, {"a": jnp.ones(3)}, {"k": [1, "a"]})
    with pytest.raises(UnsupportedInput, match="power of two"):
        save_gguf(path, {"a": jnp.ones(3)}, {"general.alignment": 48})
    with pytest.raises(UnsupportedInput, match="a whole number for general.alignment"):
        save_gguf(path, {"a": jnp.ones(3)}, {"general.alignment": "32"})
