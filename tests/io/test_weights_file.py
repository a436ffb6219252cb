"""Weights files: bit for bit, honest in size, atomic, and nothing else believed."""

import json
import os
import tracemalloc
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcomp as jc
from jaxcomp import formats
from jaxcomp.coding import container
from jaxcomp.formats import INT4_G32, INT8, UINT3_G32, Format, quantize
from jaxcomp.formats.codebook import codebook
from jaxcomp.formats.grid_choice import choose
from jaxcomp.formats.latent import Rule, latent
from jaxcomp.formats.layout import layout
from jaxcomp.formats.level_rules import Levels
from jaxcomp.formats.low_rank import low_rank
from jaxcomp.formats.outlier_victim import outlier_victim
from jaxcomp.formats.qtensor import from_codes
from jaxcomp.formats.selected import selected
from jaxcomp.formats.sparse_nm import sparse_nm
from jaxcomp.formats.sparse_rows import sparse_rows
from jaxcomp.formats.sum import Sum
from jaxcomp.formats.transformed import Transformed
from jaxcomp.io.tree_nodes import LEAVES
from jaxcomp.io.weights_file import tree_of, weights_bytes
from jaxcomp.weights.lossless import encode

GOLDEN = Path(__file__).parent.parent / "golden" / "tree_v1.jxc"
RNG = np.random.default_rng(0)


def golden_tree():
    """Integers all through, so that no version of a float function matters."""
    count = np.arange(64 * 48).reshape(48, 64)
    codes = np.bitwise_count(count * 2654435761 % 4096)  # 0 to 12, binomial
    scales = jnp.asarray(1 + np.arange(96).reshape(48, 2) % 7, jnp.bfloat16)
    narrow, wide = Format(4, group=32, offset=8), Format(8, offset=128)
    leaf = from_codes(jnp.asarray(codes), scales, None, narrow, size=64, dtype=jnp.bfloat16)
    wide = from_codes(jnp.asarray(count % 256), scales[:, :1], None, wide, size=64)
    return {
        "layers": [{"kernel": leaf, "bias": jnp.asarray(count[0] / 64, jnp.float32)}],
        "wide": wide,
        "rest": (None, 3, 0.5, "text", {}, np.arange(3, dtype=np.int64)),
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if hasattr(x, "dtype"):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert type(x) is type(y) and x == y


def test_golden_file():
    data = GOLDEN.read_bytes()
    assert_same(tree_of(data), golden_tree())
    # What is written must not change either, but for how the index deflates.
    new, old = (container.unpack(x) for x in (weights_bytes(golden_tree()), data))
    assert new.header == old.header and new.sections["arrays"] == old.sections["arrays"]
    assert zlib.decompress(new.sections["index"]) == zlib.decompress(old.sections["index"])


def model(params, x):
    for kernel in params["layers"]:
        x = jnp.tanh(x @ kernel)
    return x


def incompressible(format, shape, axes=-2):
    """A leaf whose codes and scales are uniform bits: nothing that a coder could save."""
    leaf = quantize(jnp.asarray(RNG.normal(size=shape), jnp.float32), format, axes)

    def noise(x):
        return jnp.asarray(np.frombuffer(RNG.bytes(x.nbytes), x.dtype).reshape(x.shape))

    return jax.tree.map(noise, leaf)


@pytest.mark.parametrize("format", [INT4_G32, INT8, UINT3_G32])
def test_size_is_nbytes_within_one_percent_where_codes_are_random(tmp_path, format):
    small = {f"layer{i}": incompressible(format, (256, 256)) for i in range(8)}
    size = jc.io.save_weights(tmp_path / "w.jxc", small)
    assert size == os.path.getsize(tmp_path / "w.jxc")
    assert abs(size - jc.tree.nbytes(small)) < 0.01 * jc.tree.nbytes(small)
    assert_same(jc.io.load_weights(tmp_path / "w.jxc"), small)


def test_real_weights_take_less_and_compute_the_same(tmp_path):
    kernels = [jnp.asarray(RNG.normal(size=(128, 128)) / 11, jnp.float32) for _ in range(2)]
    small = {"layers": [quantize(kernels[0], INT4_G32), kernels[1].astype(jnp.bfloat16)]}
    size = jc.io.save_weights(tmp_path / "w.jxc", small)
    assert size < 0.9 * jc.tree.nbytes(small)
    back = jc.io.load_weights(tmp_path / "w.jxc")
    assert_same(back, small)
    x = jnp.asarray(RNG.normal(size=(4, 128)), jnp.float32)
    run = jax.jit(jc.lift(model))
    np.testing.assert_array_equal(run(small, x), run(back, x))


def test_stacked_and_convolution_leaves_and_a_template():
    import optax

    conv = quantize(jnp.asarray(RNG.normal(size=(3, 3, 16, 8)), jnp.float32), INT8, (0, 1, 2))
    stack = incompressible(INT4_G32, (2, 64, 8))
    state = optax.adam(1e-3).init({"w": jnp.ones((4, 3))})
    tree = {"conv": conv, "stack": stack, "opt": state}
    data = weights_bytes(tree)
    assert_same(tree_of(data, like={**tree, "conv": jnp.zeros(1)}), tree)
    with pytest.raises(jc.UnsupportedInput, match="expected like= for a tree with nodes of"):
        tree_of(data)
    with pytest.raises(jc.UnsupportedInput, match="they differ in stack"):
        tree_of(data, like={"conv": 0, "opt": state})


def test_every_kind_of_leaf_comes_back():
    w = jnp.asarray(RNG.normal(size=(16, 64)), jnp.float32)
    four = quantize(w, formats.INT4_G32, -1)
    codes, table = jnp.asarray(RNG.integers(0, 8, (16, 32))), jnp.asarray(RNG.normal(size=(8, 2)))
    rule = Rule(-7, 7, 0.01)
    leaves = [
        *(quantize(w, f, -1) for f in (formats.NF4_DOUBLE, formats.NVFP4, formats.MXFP8)),
        codebook(codes, table.astype(jnp.float32), size=64),
        sparse_nm(w, 2, 4, values=formats.INT4),
        sparse_rows(jnp.where(w > 1, w, 0)),
        low_rank(w[:, :3], w[:3], factors=formats.INT8),
        selected(four, jnp.arange(64), 100),
        latent(w, four.format, rule, jnp.ones((16, 2)), jnp.float32),
        Transformed(four, signs=jnp.ones((1, 8), jnp.uint8), rotate=True, activation="int8"),
        Sum((four, low_rank(w[:, :3], w[:3]))),
        choose(w, Levels("power", 4, (1.0, 0.5)), formats.INT4_G32),
        outlier_victim(w, formats.INT4_G32),
        encode(np.asarray(w), layout(w.shape, (-1,))),
    ]
    assert {type(leaf).__name__ for leaf in leaves} == set(LEAVES)
    back = tree_of(weights_bytes(leaves))
    assert_same(back, leaves)
    assert [str(leaf.describe()) for leaf in back] == [leaf.describe() for leaf in leaves]


SMALL = weights_bytes({"w": golden_tree()["layers"][0]["kernel"], "b": np.arange(5)})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 8 * len(SMALL) - 1), st.integers(0, len(SMALL) - 1))
def test_flips_and_truncations_are_corrupt(bit, cut):
    flipped = bytearray(SMALL)
    flipped[bit // 8] ^= 1 << bit % 8
    for bad in (bytes(flipped), SMALL[:cut], SMALL + b"\0"):
        with pytest.raises(jc.CorruptStream):
            tree_of(bad)


def forged(change=lambda index: None, header=(), text=None, arrays=None):
    """SMALL with another index, header or arrays, and fitting checksums."""
    file = container.unpack(SMALL)
    index = json.loads(zlib.decompress(file.sections["index"]))
    change(index)
    text = json.dumps(index).encode() if text is None else text
    sections = {
        "index": zlib.compress(text),
        "arrays": file.sections["arrays"] if arrays is None else arrays,
    }
    return container.pack("tree", {**file.header, **dict(header)}, sections)


def put(*path):
    def change(index):
        *way, last, value = path
        for step in way:
            index = index[step]
        index[last] = value

    return change


LIES = {
    "nothing": (forged(put("rows", [])), "an array among 0"),
    "a huge shape": (forged(put("rows", 0, 1, [1 << 40, 1 << 40])), "at least 1 for"),
    "a negative size": (forged(put("rows", 0, 1, [-1])), "an array's row"),
    "a plane too few": (forged(put("rows", 0, 3, [])), "planes"),
    "planes of other sizes": (forged(put("rows", 0, 3, 0, 4)), "bytes of arrays"),
    "a kind": (forged(put("rows", 0, 2, "exec")), "bytes or packed codes"),
    "another shape of equal bytes": (forged(put("tree", 1, "w", 3, "packed", [[-2, 9999]])), "w"),
    "a tile of zero": (forged(put("tree", 1, "w", 3, "format", "Format", "tile", 0)), "expected"),
    "scales that are text": (forged(put("tree", 1, "w", 2, "scales", ["value", "x"])), "parts of"),
    "less bytes than said": (forged(header={"nbytes": 7}), "the header says 7"),
    "no JSON": (forged(text=b"{"), "in JSON"),
    "no object": (forged(text=b"[]"), "a tree and its rows"),
    "deep": (forged(text=b'{"rows":[],"tree":' + b"[" * 90000 + b"]" * 90000 + b"}"), "deep"),
    "extra": (forged(put("extra", {"x": 9})), "beside the tree, got {'x': 9}"),
    "extra twice": (forged(put("extra", {"x": 0, "y": 0})), "beside the tree"),
    "swollen": (forged(text=b'{"rows":[],"tree":[' + b"[]," * 5_000_000 + b"0]}"), "at most 15"),
    "arrays left over": (forged(arrays=container.unpack(SMALL).sections["arrays"] + b"x"), "bytes"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_with_fitting_checksums_are_refused_without_allocating(name):
    data, message = LIES[name]
    tracemalloc.start()
    try:
        with pytest.raises(jc.CorruptStream, match=message):
            tree_of(data)
        assert tracemalloc.get_traced_memory()[1] < 3e7
    finally:
        tracemalloc.stop()


def test_an_index_that_deflates_too_well_is_stored():
    text = "a" * 1_500_000
    assert tree_of(weights_bytes(text)) == text and len(weights_bytes(text)) > len(text)


def test_versions_kinds_and_unknown_leaves_are_named(tmp_path):
    with pytest.raises(jc.UnsupportedInput, match="a tree of version 1, got 2"):
        tree_of(forged(header={"tree_version": 2}))
    with pytest.raises(jc.UnsupportedInput, match="got 'Future'"):
        tree_of(forged(put("tree", 1, "w", 1, "Future")))
    (tmp_path / "x.jxc").write_bytes(container.pack("dct", {}, {}))
    with pytest.raises(jc.UnsupportedInput, match="written by save_weights, got 'dct'"):
        jc.io.load_weights(tmp_path / "x.jxc")


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.jxc"
    jc.io.save_weights(path, {"a": np.arange(3)})
    before = path.read_bytes()
    with pytest.raises(jc.UnsupportedInput, match="got object"):
        jc.io.save_weights(path, {"a": object()})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        jc.io.save_weights(path, {"a": np.arange(4)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["w.jxc"]
