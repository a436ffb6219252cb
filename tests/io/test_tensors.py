"""Trees of arrays come back bit for bit, from files that are judged before they are believed."""

import io
import os
import random
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.coding.chunked import TRAILER, Reader, Writer
from jaxcomp.io.tree_nodes import DTYPES, dtype_of

GOLDEN = Path(__file__).parent.parent / "golden" / "tensors_v2.jxc"
SMALL = 256  # bytes of a chunk: many of them in small arrays


class State(NamedTuple):
    step: Any
    mu: Any


def bits(x) -> tuple:
    x = np.asarray(x)
    return x.dtype.name, x.shape, x.tobytes()


def every_dtype() -> dict[str, np.ndarray]:
    """Three rows of all bit patterns that fit: NaN payloads, -0.0 and denormals among them."""
    draw = np.random.default_rng(3)
    found = {}
    for name in DTYPES:
        dtype = dtype_of(name)
        raw = draw.integers(0, 256, 90 * dtype.itemsize, np.uint8)
        if name == "bool":
            raw &= 1
        elif name in ("int2", "uint2", "int4", "uint4", "float4_e2m1fn"):
            raw = draw.integers(0, 4, 90).astype(dtype).view(np.uint8)
        found[name] = raw.view(dtype).reshape(3, 30)
    found["float32"][0, :3] = [np.inf, -0.0, 1e-45]
    return found


def golden_tree() -> dict[str, np.ndarray]:
    """Noise, which is stored, of every dtype that has room for it, and a constant."""
    found = {name: x for name, x in every_dtype().items() if x.dtype.itemsize > 1}
    return found | {"same": np.full((9, 50), 7, np.int16)}


def a_tree():
    draw = np.random.default_rng(0)
    return {
        "w": draw.normal(size=(40, 30)).astype(np.float32),
        "b": jnp.zeros(7, jnp.bfloat16),
        "none": None,
        "list": [1, "x", np.float64(3), np.asfortranarray(draw.normal(size=(20, 9)))],
        "empty": np.zeros((0, 3), np.int16),
    }


def test_every_dtype_comes_back_bit_for_bit_and_wide_ones_on_the_host(tmp_path):
    tree = every_dtype()
    nbytes = jc.io.save_tensors(tmp_path / "x.jxc", tree, chunk_nbytes=SMALL)
    assert nbytes == os.path.getsize(tmp_path / "x.jxc")
    found = jc.io.load_tensors(tmp_path / "x.jxc")
    assert {name: bits(x) for name, x in found.items()} == {n: bits(x) for n, x in tree.items()}
    wide = ("int64", "uint64", "float64", "complex128")
    assert all(isinstance(found[n], np.ndarray if n in wide else jax.Array) for n in found)


def test_trees_with_templates_leaves_and_iterators(tmp_path):
    path = tmp_path / "x.jxc"
    leaf = jc.weights.rtn(jc.formats.INT8)
    tree = State(np.int32(3), {"w": a_tree(), "leaf": leaf.compress(jnp.ones((8, 4)), None, (-2,))})
    jc.io.save_tensors(path, tree, chunk_nbytes=SMALL)
    found = jc.io.load_tensors(path, like=tree)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert a == b if isinstance(b, (str, int)) else bits(a) == bits(b)
    with pytest.raises(jc.UnsupportedInput, match="expected like="):
        jc.io.load_tensors(path)
    with pytest.raises(jc.UnsupportedInput, match="they differ in"):
        jc.io.load_tensors(path, like={"other": 1})
    lazy = ((f"layer/{i}", lambda i=i: np.full(5, i)) for i in range(3))
    jc.io.save_tensors(path, lazy)
    like = {"layer": {str(i): 0 for i in range(3)}}
    assert jax.tree.map(lambda x: x[4].item(), jc.io.load_tensors(path, like=like)) == {
        "layer": {"0": 0, "1": 1, "2": 2}
    }


def test_one_array_and_one_slice_read_only_their_chunks(tmp_path):
    tree, path = a_tree(), tmp_path / "x.jxc"
    jc.io.save_tensors(path, tree, chunk_nbytes=SMALL)
    with jc.io.open_tensors(path) as file:
        assert file.names == ["b", "empty", "list/2", "list/3", "w"]
        row = file.row("w")
        assert (row.dtype, row.shape, row.chunks) == (np.float32, (40, 30), 20)
        read, chunk = [], file._file.chunk
        file._file.chunk = lambda number: read.append(number) or chunk(number)
        np.testing.assert_array_equal(file.read("w", 7, 11), tree["w"][7:11])
        assert sorted(read) == [row.first + k for k in (3, 4, 5)]
        for start, stop in ((None, 3), (-5, None), (30, 99), (9, 2), (0, 0)):
            np.testing.assert_array_equal(file.read("w", start, stop), tree["w"][start:stop])
        np.testing.assert_array_equal(file.read("list/3"), tree["list"][3])
        assert file.read("empty").shape == (0, 3) and file.read("list/2").shape == ()
        assert file.verify() == file.verify(decode=True) == len(file._file.lengths)
        assert set(file.kinds(file.row("b"))) <= {"raw", "constant"}
        with pytest.raises(jc.UnsupportedInput, match="such as 'list/2', 'list/3', got 'list'"):
            file.read("list")
        with pytest.raises(jc.UnsupportedInput, match="with rows"):
            file.read("list/2", 0, 1)


def test_a_delta_is_small_and_takes_its_base_and_no_other(tmp_path):
    draw = np.random.default_rng(1)
    before = {"w": draw.normal(size=5000).astype(np.float32), "other": np.ones(4)}
    after = {"w": before["w"].copy(), "other": np.ones(5), "new": np.arange(9)}
    after["w"][::100] += 1e-3
    first, second, third = (tmp_path / name for name in "abc")
    whole = jc.io.save_tensors(first, before)
    assert jc.io.save_tensors(second, after, base=first) < 0.2 * whole
    loaded = jc.io.load_tensors(second, base=first)
    assert jax.tree.all(jax.tree.map(lambda a, b: bits(a) == bits(b), loaded, after))
    os.symlink(first, tmp_path / "link")
    with jc.io.open_tensors(second, base=first) as base:  # a chain
        for path, like in ((first, first), (tmp_path / "link", base), (second, base)):
            with pytest.raises(jc.UnsupportedInput, match="is the base, without which the delta"):
                jc.io.save_tensors(path, after, base=like)
        jc.io.save_tensors(third, after, base=base)
        file = jc.io.load_tensors(third, base=base)
        assert bits(file["w"]) == bits(after["w"])
    with jc.io.open_tensors(second, base=first) as file:
        assert file.read("w", 90, 120).tobytes() == after["w"][90:120].tobytes()
    with pytest.raises(jc.UnsupportedInput, match="a delta, expected base= .* of SHA-256"):
        jc.io.load_tensors(second)
    with pytest.raises(jc.UnsupportedInput, match="b: expected a base that is whole, got a delta"):
        jc.io.save_tensors(third, after, base=second)
    jc.io.save_tensors(third, before | {"more": np.ones(1)})
    with pytest.raises(jc.CorruptStream, match="expected the base of SHA-256"):
        jc.io.load_tensors(second, base=third)


def test_limits_are_the_callers(tmp_path):
    path = tmp_path / "x.jxc"
    jc.io.save_tensors(path, {"w": np.zeros(100_000_000, np.uint8)[:70_000_000], "b": np.ones(2)})
    assert os.path.getsize(path) < 1000
    tracemalloc.start()
    with pytest.raises(jc.UnsupportedInput, match="at most 1000 bytes of arrays, got 70000016"):
        jc.io.load_tensors(path, max_nbytes=1000)
    with jc.io.open_tensors(path, max_nbytes=1000) as file:
        assert file.read("b").sum() == 2 and not file.read("w", 10_000_000, 10_000_900).any()
        with pytest.raises(jc.UnsupportedInput, match="at most 1000 bytes"):
            file.read("w")
    assert tracemalloc.get_traced_memory()[1] < 3e7
    tracemalloc.stop()


def test_bytes_do_not_depend_on_threads_and_pipes_are_written(tmp_path):
    tree, files = a_tree(), []
    for threads in (1, 3):
        files.append(io.BytesIO())
        jc.io.save_tensors(files[-1], tree, threads=threads, chunk_nbytes=SMALL)
    assert files[0].getvalue() == files[1].getvalue()
    with jc.io.open_tensors(files[0], threads=1) as file:
        assert bits(file.read("w")) == bits(tree["w"])
    # Files that were written stay readable. (tests/coding/test_tensor_chunk.py pins the chunks.)
    with jc.io.open_tensors(GOLDEN) as file:
        assert file.header["tensors_version"] == 1
    found, tree = jc.io.load_tensors(GOLDEN), golden_tree()
    assert {name: bits(x) for name, x in found.items()} == {n: bits(x) for n, x in tree.items()}


def test_what_cannot_be_saved_is_named_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.jxc"
    path.write_bytes(b"old")
    for tree, message in (
        ({"a": {"b": object()}}, "a/b: expected arrays"),
        ({"a": np.array(["text"])}, "dtype among"),
        ({"a/b": np.ones(1), "a": {"b": np.ones(1)}}, "a/b twice"),
        (iter([("a", np.ones(1)), ("a", np.ones(1))]), "a twice"),
        ({"key": jax.random.key(0)}, "key_data"),
        (iter([("key", jax.random.key(0))]), "key_data"),
        ({"a": np.ma.masked_array([1.0], True)}, "a: expected an array, got one with a mask"),
        ({"a": {1: np.ones(1), "1": np.ones(1)}}, "a: expected a pytree of jax"),
        ({"a": np.ones((1,) * 33)}, "a: expected at most 32 axes"),
        ({"a": np.ones((0, 1 << 48))}, r"a: expected .* below 2\*\*48"),
    ):
        with pytest.raises(jc.UnsupportedInput, match=message):
            jc.io.save_tensors(path, tree)
    with pytest.raises(ZeroDivisionError):
        jc.io.save_tensors(path, iter([("a", np.ones(1)), ("b", lambda: 1 / 0)]))
    for options in ({"threads": 0}, {"chunk_nbytes": 8}, {"chunk_nbytes": 1 << 40}):
        with pytest.raises(jc.UnsupportedInput, match="expected"):
            jc.io.save_tensors(path, {"a": np.ones(1)}, **options)
    assert os.listdir(tmp_path) == ["x.jxc"] and path.read_bytes() == b"old"


def with_sums(data: bytes, draw: random.Random) -> bytes:
    """A file mutated in a chunk or its index, with checksums that fit."""
    file = Reader(io.BytesIO(data))
    chunks = [file.chunk(i) for i in range(len(file.lengths))]
    k = draw.randrange(len(chunks))
    chunks[k] = mutated(chunks[k], draw)
    out = io.BytesIO()
    writer = Writer(out, file.codec, file.header)
    for chunk in chunks:
        writer.add(chunk)
    writer.finish(file.index)
    whole = out.getvalue()
    if draw.random() < 0.7:
        return whole
    length = int.from_bytes(whole[-TRAILER:-8], "little")
    plain = mutated(zlib.decompress(whole[-TRAILER - length : -TRAILER]), draw)
    index = zlib.compress(plain)
    end = len(index).to_bytes(8, "little") + zlib.crc32(index).to_bytes(4, "little") + whole[-4:]
    return whole[: -TRAILER - length] + index + end


def mutated(data: bytes, draw: random.Random) -> bytes:
    other = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        other[draw.randrange(len(other))] = draw.randrange(256)
    if draw.random() < 0.2:
        at = draw.randrange(len(other))
        del other[at : at + draw.choice((1, 9, len(other)))]
    return bytes(other)


def check_mutations(count: int, seed: int, mutate) -> int:
    """Named errors or arrays of the sizes that the file says; returns how many were read."""
    draw, read, file = random.Random(seed), 0, io.BytesIO()
    tree = {k: v for k, v in every_dtype().items() if k in ("bool", "int16", "float32", "float64")}
    tree |= {"w": np.random.default_rng(0).normal(size=2000).astype(np.float32)}
    tree |= {"s": np.eye(40, dtype=np.float32), "z": np.zeros(600)}
    jc.io.save_tensors(file, tree, chunk_nbytes=2048)
    for _ in range(count):
        data = mutate(file.getvalue(), draw)
        try:
            found = jc.io.load_tensors(io.BytesIO(data), max_nbytes=1 << 20, threads=1)
            assert sum(x.nbytes for x in jax.tree.leaves(found) if hasattr(x, "nbytes")) <= 1 << 20
            read += 1
        except jc.JaxcompError:
            pass
    return read


@pytest.mark.usefixtures("quick")
def test_mutated_files_raise_named_errors():
    assert check_mutations(150, 1, mutated) < 8  # a bit may become what it was
    assert check_mutations(150, 2, with_sums) < 120  # values that are stored become others


@pytest.mark.slow
def test_thousands_of_mutated_files_raise_named_errors():
    check_mutations(50, 5, with_sums)  # what coders compile
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_mutations(2000, 3, mutated)
    check_mutations(2000, 4, with_sums)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{grown} kB more")
    assert grown < 200_000  # thrice the largest index, and 1 MB of arrays


KILLED = """
import sys, numpy as np, jaxcomp as jc
def slow():
    print("begun", flush=True)
    sys.stdin.read()
tree = iter([("w", np.random.default_rng(0).bytes and np.arange(300_000)), ("x", slow)])
jc.io.save_tensors(sys.argv[1], tree, chunk_nbytes=1 << 16)
"""


def test_killed_while_it_saves_the_previous_file_is_whole(tmp_path):
    path = tmp_path / "x.jxc"
    jc.io.save_tensors(path, {"w": np.arange(10)})
    before = path.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_bytes() == before and jc.io.load_tensors(path)["w"].tolist() == [*range(10)]


def test_at_every_write_the_previous_file_is_whole(tmp_path, monkeypatch):
    path, writes, write = tmp_path / "x.jxc", [], Writer._write
    jc.io.save_tensors(path, {"w": np.arange(10)})
    before = path.read_bytes()

    def watched(self, data):
        write(self, data)
        self._file.flush()
        writes.append(path.read_bytes() == before)

    monkeypatch.setattr(Writer, "_write", watched)
    jc.io.save_tensors(path, a_tree(), chunk_nbytes=SMALL)
    assert len(writes) > 30 and all(writes) and path.read_bytes() != before


LARGE = """
import resource, sys, numpy as np, jaxcomp as jc
block = np.random.default_rng(0).normal(size=1 << 23).astype(np.float32)  # 32 MB
layers = ((f"layer/{i}", lambda i=i: block + np.float32(i)) for i in range(64))
print(jc.io.save_tensors(sys.argv[1], layers))
with jc.io.open_tensors(sys.argv[1]) as file:
    for i in (0, 63):
        assert np.array_equal(file.read(f"layer/{i}"), block + np.float32(i))
    file.verify(decode=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_two_gigabytes_in_less_than_one(tmp_path):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", LARGE, tmp_path / "x.jxc"],
        capture_output=True,
        text=True,
        check=True,
    )
    nbytes, kilobytes = map(int, done.stdout.split())
    print(f"{nbytes} bytes, {kilobytes} kB, {time.perf_counter() - start:.1f} s")
    assert nbytes < 0.9 * (2 << 30) and kilobytes < 1 << 20
