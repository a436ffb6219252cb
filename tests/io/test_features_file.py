"""Files of keys and values: exactly their codes, chunk by chunk, and nothing else believed."""

import os
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcomp as jc
from jaxcomp.coding import container
from jaxcomp.io import features_file
from jaxcomp.io.features_file import codes_of, features_bytes, features_of, opened
from jaxcomp.kvcache.cachegen_model import Model
from tests.kvcache.contexts import context

GOLDEN = Path(__file__).parent.parent / "golden" / "cachegen_v1.jxc"
CODEC = jc.kvcache.cachegen(4, chunk=64)
KEYS, VALUES = context(tokens=150, size=8)
DATA = features_bytes(KEYS, VALUES, codec=CODEC)
FILE = container.unpack(DATA)


def golden():
    """Integers all through, so that no version of a float function matters."""
    layers, channels, tokens = 2, 6, 50
    each = np.arange(2 * layers * channels).reshape(2, layers, channels)
    fields = each % 9 - 12, each * 37 % 101 - 50, each % 9, 4 + each % 13
    model = Model(*(field.astype(np.int32) for field in fields))
    count = np.arange(2 * layers * tokens * channels).reshape(2, layers, tokens, channels)
    codes = np.bitwise_count(count * 2654435761 % 4096).astype(np.int32) - 6  # binomial
    codes[0, 1, 7, 3] = 70_000  # beyond its table
    return model, codes


def test_golden_file():
    model, codes = golden()
    codec = jc.kvcache.cachegen(chunk=20)
    keys, values = codec.dequantize(model, codes, 3)
    data = features_bytes(
        jnp.asarray(keys, jnp.float32), jnp.asarray(values), codec=codec, model=model
    )
    assert data == GOLDEN.read_bytes()
    file = opened(container.read(GOLDEN))
    for x, y in zip(file.model, model, strict=True):
        np.testing.assert_array_equal(x, y)
    for i in range(3):
        np.testing.assert_array_equal(codes_of(file, i), codes[:, :, 20 * i : 20 * i + 20])
    for x, y in zip(features_of(file), (keys, values), strict=True):
        assert np.asarray(x).tobytes() == y.tobytes()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_saved_is_loaded(tmp_path, dtype):
    keys, values = jnp.asarray(KEYS, dtype), jnp.asarray(VALUES, dtype)
    path = tmp_path / "context.jxc"
    size = jc.io.save_features(path, keys, values, codec=CODEC)
    assert size == os.path.getsize(path)
    model = CODEC.fit(keys, values)
    codes = CODEC.quantize(model, keys, values)
    wanted = CODEC.dequantize(model, codes, 2)
    file = opened(container.read(path))
    found = np.concatenate([codes_of(file, i) for i in range(3)], 2)
    np.testing.assert_array_equal(found, codes)
    for x, y in zip(jc.io.load_features(path), wanted, strict=True):
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, y.astype(dtype))
    for x, y in zip(jc.io.load_features(path, chunks=[2, 0]), wanted, strict=True):
        np.testing.assert_array_equal(x, np.concatenate([y[:, 128:], y[:, :64]], 1).astype(dtype))


def test_attention_over_a_loaded_context_is_near(tmp_path):
    jc.io.save_features(tmp_path / "c.jxc", KEYS, VALUES, codec=jc.kvcache.cachegen(2))
    keys, values = jc.io.load_features(tmp_path / "c.jxc")
    q = np.random.default_rng(0).normal(size=(2, 2, 8))

    def attended(keys, values):  # of one query for each layer and head
        shares = np.exp(np.einsum("lhd,lthd->lht", q, keys) / 8**0.5)
        return np.einsum("lht,lthd->lhd", shares / shares.sum(2, keepdims=True), values)

    exact = attended(KEYS, VALUES)
    assert 0 < np.square(attended(keys, values) - exact).mean() < 0.01 * np.square(exact).mean()


def test_the_damaged_chunk_is_named():
    """By the container, and by the chunk itself where a section was swapped for another."""
    at = DATA.index(FILE.sections["chunk1"]) + 40
    with pytest.raises(jc.CorruptStream, match="section 'chunk1' is damaged"):
        container.unpack(DATA[:at] + bytes([DATA[at] ^ 4]) + DATA[at + 1 :])
    bad = bytearray(FILE.sections["chunk1"])
    bad[40] ^= 4
    file = opened(FILE._replace(sections={**FILE.sections, "chunk1": bytes(bad)}))
    with pytest.raises(jc.CorruptStream, match="chunk 1 of 3: expected a chunk and its CRC32"):
        features_of(file)
    features_of(file, [0, 2])  # the others are as good as before
    spliced = opened(FILE._replace(sections={**FILE.sections, "chunk1": FILE.sections["chunk2"]}))
    with pytest.raises(jc.CorruptStream, match="chunk 1 of 3: expected 64 tokens, got 22"):
        features_of(spliced)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 8 * len(DATA) - 1), st.integers(0, len(DATA) - 1))
def test_flips_and_truncations_are_corrupt(bit, cut):
    flipped = bytearray(DATA)
    flipped[bit // 8] ^= 1 << bit % 8
    for data in (bytes(flipped), DATA[:cut]):
        with pytest.raises(jc.CorruptStream):
            features_of(opened(container.unpack(data)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [2, 150, 2]}, "expected shape, chunk and dtype"),
        ({"shape": [2, 0, 2, 8]}, "expected shape, chunk and dtype"),
        ({"shape": [2, 10**9, 2, 8]}, "expected a model and 15625000 chunks"),
        ({"shape": [10**9, 150, 10**9, 10**9]}, "expected a model of 1000000000 layers"),
        ({"shape": [2, 150, 2, 9]}, "expected"),
        ({"chunk": 1 << 30}, "expected a model and 1 chunks"),
        ({"chunk": 65}, "chunk 0 of 3: expected 65 tokens, got 64"),
        ({"dtype": "int8"}, "expected shape, chunk and dtype"),
        ({"more": 1}, "expected shape, chunk and dtype"),
    ],
)
def test_false_headers_allocate_nothing(change, words):
    tracemalloc.start()
    with pytest.raises(jc.CorruptStream, match=words):
        features_of(opened(FILE._replace(header={**FILE.header, **change})))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(jc.UnsupportedInput, match="written by save_features, got 'tree'"):
        opened(FILE._replace(codec="tree"))
    with pytest.raises(jc.UnsupportedInput, match="version 1, got 2"):
        opened(FILE._replace(header={**FILE.header, "cachegen_version": 2}))
    path = tmp_path / "context.jxc"
    with pytest.raises(jc.UnsupportedInput, match="one dtype among"):
        jc.io.save_features(path, KEYS, VALUES.astype(np.int32))
    with pytest.raises(jc.UnsupportedInput, match="at most 1023 chunks of 1 tokens"):
        long = np.zeros((1, 1024, 1, 1), np.float32)
        jc.io.save_features(path, long, long, codec=jc.kvcache.cachegen(chunk=1))
    assert not path.exists()
    path.write_bytes(DATA)
    with pytest.raises(jc.UnsupportedInput, match="chunks from 0 to 2, got .3."):
        jc.io.load_features(path, chunks=[3])
    assert features_file.VERSION == 1
