"""Safetensors: leaves come back bit for bit, other tools read the arrays, and damage is named."""

import json

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput

F = jc.formats
rng = np.random.default_rng(0)


def a_tree():
    w = rng.normal(size=(64, 6)).astype(np.float32)
    codes = jnp.asarray(rng.integers(0, 16, (6, 16)))
    return {
        "params": {
            "four": F.quantize(w, F.UINT4_G32),
            "nv": F.quantize(w, F.NVFP4),
            "eight": F.quantize(w.reshape(4, 16, 6), F.FP8_E4M3, (0, 1)),
            "book": F.codebook(codes, jnp.asarray(rng.normal(size=(16, 4)), jnp.float32), size=64),
            "nm": F.sparse_nm(jnp.asarray(w.T), 2, 4, values=F.INT4),
            "rows": F.sparse_rows(jnp.asarray(w.T * (w.T > 1))),
            "bias": jnp.ones(6, jnp.bfloat16),
            "tiny": jnp.ones(3, jnp.float8_e4m3fn),
        },
        "steps": (np.int32(3), 0.5, None),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    tree, path = a_tree(), tmp_path_factory.mktemp("files") / "model.safetensors"
    assert jc.io.save_safetensors(path, tree) == path.stat().st_size
    return tree, path


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if hasattr(x, "dtype"):
            assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert x == y


def test_trees_come_back(saved):
    tree, path = saved
    found = jc.io.load_safetensors(path)
    same(found, tree)
    leaf = found["params"]["four"]
    np.testing.assert_array_equal(leaf.dense(), tree["params"]["four"].dense())
    assert path.stat().st_size < 1.5 * jc.tree.nbytes(tree) + 8000  # small arrays, long names


def test_the_library_reads_our_arrays_and_we_read_its(saved, tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    tree, path = saved
    with open(path, "rb") as file:
        names = {name: entry for name, entry in __import__("safetensors").deserialize(file.read())}
    codes = names["params/four/codes"]
    assert codes["dtype"] == "U8" and codes["shape"] == [32, 6]
    assert bytes(codes["data"]) == np.asarray(tree["params"]["four"].codes).tobytes()
    assert "params/nv/scales/codes" in names
    arrays = {"a/b": rng.normal(size=(3, 2)), "c": np.arange(4, dtype=np.uint8)}
    library.save_file(arrays, tmp_path / "theirs")
    found = jc.io.load_safetensors(tmp_path / "theirs")
    assert set(found) == set(arrays)
    for name, x in arrays.items():
        np.testing.assert_array_equal(found[name], x)


def test_other_nodes_go_into_a_template(tmp_path):
    @flax.struct.dataclass
    class State:
        w: object
        count: object

    state = State(F.quantize(np.ones((32, 2), np.float32), F.INT4_G32), jnp.zeros((), jnp.int32))
    jc.io.save_safetensors(tmp_path / "s", [state])
    with pytest.raises(UnsupportedInput, match="like="):
        jc.io.load_safetensors(tmp_path / "s")
    same(jc.io.load_safetensors(tmp_path / "s", like=[State(0, 0)]), [state])


def test_damage_is_named(saved, tmp_path):
    _, path = saved
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    index = json.loads(header["__metadata__"]["jaxcomp"])

    def refused(data, error=CorruptStream, match=None):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(error, match=match):
            jc.io.load_safetensors(tmp_path / "bad")

    def with_header(header, body=data[8 + length :]):
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + body

    def with_index(**changes):
        text = json.dumps({**index, **changes})
        return with_header({**header, "__metadata__": {"jaxcomp": text}})

    for short in (b"", data[:7], data[: length // 2], data[:-1], data + b"x", b"\xff" * 64):
        refused(short)
    entry = header["params/bias"]
    name = "params/bias"
    refused(with_header({**header, name: {**entry, "shape": [1 << 60]}}))
    refused(with_header({**header, name: {**entry, "data_offsets": [0, 12]}}), match="overlap")
    refused(with_header({**header, name: {**entry, "dtype": "F4"}}), UnsupportedInput, "F4")
    refused(with_index(version=2), UnsupportedInput, "version 1")
    refused(with_index(names=index["names"][1:]))
    refused(with_index(tree=["leaf", "Leaf", {}, {}]), UnsupportedInput, "expected a leaf among")
    # A weight whose parts do not fit each other.
    text = header["__metadata__"]["jaxcomp"].replace("[-2, 64]", "[-2, 9999]")
    refused(with_header({**header, "__metadata__": {"jaxcomp": text}}), match="parts of a weight")
    for _ in range(60):  # whatever is flipped in the header: an error of ours, or a tree
        broken = bytearray(data)
        broken[8 + rng.integers(length)] ^= 1 << rng.integers(8)
        (tmp_path / "bad").write_bytes(broken)
        try:
            jc.io.load_safetensors(tmp_path / "bad")
        except JaxcompError:
            pass


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(UnsupportedInput, match="one name"):
        jc.io.save_safetensors(tmp_path / "x", {"a/b": jnp.ones(1), "a": {"b": jnp.ones(2)}})
    with pytest.raises(UnsupportedInput, match="save_weights"):
        jc.io.save_safetensors(tmp_path / "x", {"a": np.ones(1, np.complex128)})
    assert not (tmp_path / "x").exists()


def test_a_flipped_bit_of_an_array_is_corrupt(tmp_path):
    path = tmp_path / "w.safetensors"
    jc.io.save_safetensors(path, {"w": jnp.arange(8.0)})
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptStream, match="CRC-32"):
        jc.io.load_safetensors(path)
    path.write_bytes(bytes(data).replace(b"crc32", b"other"))  # as written before there was one
    assert jc.io.load_safetensors(path)["w"].shape == (8,)
