"""Model files and folders come back byte for byte, or not at all."""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxcomp as jc
from jaxcomp.coding.chunked import Reader, Writer
from jaxcomp.io.model_files import compress_file, decompress_file, file_entries, verify_file


def tensors(seed=0, n=40):
    draw = np.random.default_rng(seed)
    return {
        "layer.weight": draw.normal(size=(n, 50)).astype(ml_dtypes.bfloat16),
        "layer.bias": draw.normal(size=50).astype(np.float32),
        "empty": np.zeros((0, 2), np.int64),
    }


def a_folder(path):
    """As Hugging Face has them: shards, their index, and small files."""
    os.makedirs(path / "sub" / "empty")
    save_file(tensors(0), path / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file({"other": np.ones(9)}, path / "model-00002-of-00002.safetensors")
    names = {"layer.weight": "model-00001-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (path / "config.json").write_text('{"hidden": 50}')
    (path / "empty.txt").write_text("")
    (path / "sub" / "x.bin").write_bytes(os.urandom(99))
    return path


def contents(path):
    """{path: bytes}, and None of folders."""
    found = sorted(path.rglob("*"))
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in found}


def repacked(source, change) -> io.BytesIO:
    """The file with another index, and fitting checksums."""
    file, out = Reader(source), io.BytesIO()
    with file:
        writer = Writer(out, file.codec, file.header)
        for number in range(len(file.lengths)):
            writer.add(file.chunk(number))
        change(file.index)
        writer.finish(file.index)
    return out


def test_single_files_come_back_byte_for_byte(tmp_path):
    packed = tmp_path / "x.jxc"
    save_file(tensors(), tmp_path / "x.safetensors", metadata={"format": "pt"})
    np.save(tmp_path / "x.npy", np.asfortranarray(np.random.default_rng(0).normal(size=(9, 8))))
    for suffix, arrays in ((".safetensors", 3), (".npy", 1)):
        data = (tmp_path / f"x{suffix}").read_bytes()
        seen = []
        done = compress_file(tmp_path / f"x{suffix}", packed, progress=seen.append)
        assert done == (len(data), os.path.getsize(packed), arrays, 1, {})
        assert sum(seen) == len(data)
        assert decompress_file(packed, tmp_path / "back", progress=seen.append) == done
        assert (tmp_path / "back").read_bytes() == data and sum(seen) == 2 * len(data)
        with jc.io.open_tensors(packed) as file:
            (entry,) = file_entries(file)
            assert entry.path == f"x{suffix}" and verify_file(file) == 1
            assert entry.sha256 == hashlib.sha256(data).hexdigest()
    compress_file(tmp_path / "x.safetensors", packed)
    found = jc.io.load_tensors(packed)
    assert {k: np.asarray(x).tobytes() for k, x in found.items()} == {
        k: x.tobytes() for k, x in tensors().items()
    }


def test_folders_come_back_whole_and_new(tmp_path):
    source = a_folder(tmp_path / "model")
    done = compress_file(source, tmp_path / "x.jxc")
    assert (done.arrays, done.files) == (4, 6)
    assert decompress_file(tmp_path / "x.jxc", tmp_path / "back") == done
    assert contents(tmp_path / "back") == contents(source)
    with pytest.raises(jc.UnsupportedInput, match="new or empty folder"):
        decompress_file(tmp_path / "x.jxc", tmp_path / "back")
    with pytest.raises(jc.UnsupportedInput, match="the name of a folder"):
        decompress_file(tmp_path / "x.jxc", io.BytesIO())
    save_file({"other": np.zeros(2)}, source / "more.safetensors")  # a name twice
    compress_file(source, tmp_path / "x.jxc")
    with jc.io.open_tensors(tmp_path / "x.jxc") as file:
        assert {"other", "more.safetensors:other"} & set(file.names) and len(file.names) == 5


def test_a_file_that_is_none_of_arrays_is_kept_as_bytes_among_others(tmp_path):
    source = a_folder(tmp_path / "model")
    np.save(source / "objects.npy", np.array([{}], object), allow_pickle=True)
    (source / "pointer.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (source / "empty.npy").write_bytes(b"")
    done = compress_file(source, tmp_path / "x.jxc")
    assert (done.arrays, done.files) == (4, 9)
    assert set(done.unread) == {"objects.npy", "pointer.safetensors", "empty.npy"}
    assert "only a pickle holds" in done.unread["objects.npy"]
    decompress_file(tmp_path / "x.jxc", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(source)
    np.savez(tmp_path / "x.npz", a=np.array([{}], object), b=np.arange(9))
    done = compress_file(tmp_path / "x.npz", tmp_path / "y.jxc")
    assert done.arrays == 1 and list(done.unread) == ["a.npy"]
    decompress_file(tmp_path / "y.jxc", tmp_path / "y.npz")
    both = [zipfile.ZipFile(tmp_path / name) for name in ("x.npz", "y.npz")]
    assert both[0].read("a.npy") == both[1].read("a.npy")
    os.makedirs(tmp_path / "only")
    os.rename(source / "objects.npy", tmp_path / "only" / "objects.npy")
    with pytest.raises(jc.UnsupportedInput, match="found none; objects.npy: .* Python objects"):
        compress_file(tmp_path / "only", tmp_path / "x.jxc")


def test_archives_keep_their_arrays_and_open_no_pickle(tmp_path):
    x = {"a": np.arange(1000.0), "b": np.float32(3), "text": np.array(["x", "yz"])}
    np.savez_compressed(tmp_path / "x.npz", **x)
    compress_file(tmp_path / "x.npz", tmp_path / "x.jxc")
    decompress_file(tmp_path / "x.jxc", tmp_path / "back.npz")
    with np.load(tmp_path / "back.npz") as back:
        assert all(np.array_equal(back[name], x[name]) for name in x) and len(back.files) == 3
    with (
        zipfile.ZipFile(tmp_path / "x.npz") as one,
        zipfile.ZipFile(tmp_path / "back.npz") as other,
    ):
        assert [one.read(n) for n in one.namelist()] == [other.read(n) for n in other.namelist()]
    forged = repacked(tmp_path / "x.jxc", lambda i: i["files"][0].__setitem__(2, "0" * 64))
    with pytest.raises(jc.CorruptStream, match="'a.npy' to have SHA-256"):
        decompress_file(forged, tmp_path / "other.npz")
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(jc.UnsupportedInput, match="a: expected an array of numbers, got Python"):
        compress_file(tmp_path / "x.npz", tmp_path / "x.jxc")
    whole = (tmp_path / "back.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole.replace(b"\x18\x40" * 1, b"\x18\x41", 1))
    with pytest.raises(jc.UnsupportedInput, match="in an archive that is whole"):
        compress_file(tmp_path / "x.npz", tmp_path / "x.jxc")
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(jc.UnsupportedInput, match="no zip archive"):
        compress_file(tmp_path / "x.npz", tmp_path / "x.jxc")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("../x.npy", b"")
    with pytest.raises(jc.UnsupportedInput, match="plain .npy files"):
        compress_file(tmp_path / "x.npz", tmp_path / "x.jxc")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, pytest.warns(match="Duplicate"):
        archive.writestr("x.npy", b"")
        archive.writestr("x.npy", b"")
    with pytest.raises(jc.UnsupportedInput, match="got one twice"):
        compress_file(tmp_path / "x.npz", tmp_path / "x.jxc")


def test_a_delta_of_a_model_takes_its_base(tmp_path):
    after = tensors(0, 400)
    save_file(after, tmp_path / "a.safetensors")
    after["layer.bias"][3] = 0
    save_file(after, tmp_path / "b.safetensors")
    whole = compress_file(tmp_path / "a.safetensors", tmp_path / "a.jxc").nbytes
    done = compress_file(tmp_path / "b.safetensors", tmp_path / "b.jxc", base=tmp_path / "a.jxc")
    assert done.nbytes < 0.1 * whole
    decompress_file(tmp_path / "b.jxc", tmp_path / "back", base=tmp_path / "a.jxc")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(jc.UnsupportedInput, match="a.jxc is the base, without which"):
        compress_file(tmp_path / "b.safetensors", tmp_path / "a.jxc", base=tmp_path / "a.jxc")
    with pytest.raises(jc.UnsupportedInput, match="a delta, expected base="):
        decompress_file(tmp_path / "b.jxc", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def edits():
    """name: (what a forger does to the index, what is said of it)."""

    def path(name):
        return lambda index: index["files"][0].__setitem__(0, name)

    def rows(n):
        return lambda index: index["files"][2].__setitem__(3, n)

    found = {name: (path(name), "path, size and hash") for name in ("../x", "/x", "a/../../x", 3)}
    return found | {
        "another file": (lambda i: i["files"][0].__setitem__(2, "0" * 64), "to have SHA-256"),
        "more rows": (rows(99), "path, size and hash"),
        "fewer rows": (rows(1), "others"),
        "a size": (lambda i: i["files"][0].__setitem__(1, 5), "expected 5 bytes"),
        "one path twice": (lambda i: i["files"][1].__setitem__(0, i["files"][0][0]), "one twice"),
        "a file in a file": (lambda i: i["files"][1].__setitem__(0, "config.json/x"), "a folder"),
        "a folder in a file": (lambda i: i.__setitem__("folders", ["config.json/x"]), "a folder"),
        "a file that is a folder": (
            lambda i: i.__setitem__("folders", ["config.json"]),
            "a folder",
        ),
        "no files": (lambda i: i.__setitem__("files", 3), "files of a model"),
        "no row": (lambda i: i["files"].append([]), "path, size and hash"),
        "no file of some rows": (lambda i: i["files"].pop(), "expected files of"),
        "a folder outside": (lambda i: i.__setitem__("folders", ["../x"]), "names of folders"),
        "folders of a kind": (lambda i: i.__setitem__("folders", 3), "names of folders"),
        "two files in one": (lambda i: i.__setitem__("kind", "file"), "files of a model"),
    }


def test_forged_indices_are_refused_and_leave_nothing(tmp_path):
    compress_file(a_folder(tmp_path / "model"), tmp_path / "x.jxc")
    before = contents(tmp_path)
    for name, (change, message) in edits().items():
        forged = repacked(tmp_path / "x.jxc", change)
        with pytest.raises(jc.CorruptStream, match=message):
            decompress_file(forged, tmp_path / "back")
        assert contents(tmp_path) == before, name
    forged = repacked(tmp_path / "x.jxc", lambda index: index.__setitem__("kind", "trees"))
    with pytest.raises(jc.UnsupportedInput, match="got one of a tree of arrays"):
        decompress_file(forged, tmp_path / "back")
    with pytest.raises(jc.UnsupportedInput, match="at most 100 bytes"):
        decompress_file(tmp_path / "x.jxc", tmp_path / "back", max_nbytes=100)


def test_mutated_files_leave_the_target_alone(tmp_path):
    save_file(tensors(), tmp_path / "x.safetensors")
    compress_file(tmp_path / "x.safetensors", tmp_path / "x.jxc")
    data, draw = (tmp_path / "x.jxc").read_bytes(), random.Random(0)
    (tmp_path / "back").write_bytes(b"old")
    for _ in range(40):
        other = bytearray(data)
        at = draw.randrange(len(other))
        other[at] ^= 1 << draw.randrange(8)
        with pytest.raises(jc.JaxcompError):
            decompress_file(io.BytesIO(other), tmp_path / "back", threads=1)
    assert (tmp_path / "back").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 3


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(1000))
    from jaxcomp.io import model_files

    survey = model_files.survey
    for change in (lambda: os.truncate(path, 500), lambda: path.write_bytes(bytes(9999))):

        def then_changed(source, change=change):
            found = survey(source)
            change()
            return found

        np.save(path, np.arange(1000))
        monkeypatch.setattr(model_files, "survey", then_changed)
        with pytest.raises(jc.UnsupportedInput, match="changed while it was read"):
            compress_file(path, tmp_path / "x.jxc")
    assert list(tmp_path.iterdir()) == [path]


LARGE = """
import resource, sys, numpy as np, jaxcomp as jc
path, size = sys.argv[1] + "/x.npy", 1 << 31
x = np.lib.format.open_memmap(path, "w+", np.float32, (1 << 21, 1 << 8))  # a sparse file
x[1 << 20] = 1
del x
done = jc.io.compress_file(path, sys.argv[1] + "/x.jxc")
jc.io.decompress_file(sys.argv[1] + "/x.jxc", sys.argv[1] + "/y.npy")
print(done.original_nbytes, done.nbytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_file_of_two_gigabytes_in_less_than_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LARGE, tmp_path], capture_output=True, text=True, check=True
    )
    original, nbytes, kilobytes = map(int, done.stdout.split())
    assert original == (1 << 31) + 128 and nbytes < 1e5 and kilobytes < 1 << 20
    with jc.io.open_tensors(tmp_path / "x.jxc") as file:
        assert file.read("array", (1 << 20) - 1, (1 << 20) + 2).sum(1).tolist() == [0, 256, 0]


def test_a_tree_becomes_safetensors(tmp_path):
    tree = {"a": {"w": np.arange(9.0), "b": np.ones(3, ml_dtypes.bfloat16)}, "n": np.float32(3)}
    jc.io.save_tensors(tmp_path / "x.jxc", tree, chunk_nbytes=32)
    with pytest.raises(jc.UnsupportedInput, match="expected OUT.safetensors"):
        decompress_file(tmp_path / "x.jxc", tmp_path / "x.npy")
    done = decompress_file(tmp_path / "x.jxc", tmp_path / "x.safetensors")
    assert done.arrays == 3 and done.original_nbytes == os.path.getsize(tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found["a/w"].tolist() == [*range(9)] and found["n"].shape == ()
    assert found["a/b"].tobytes() == tree["a"]["b"].tobytes()
    jc.io.save_tensors(tmp_path / "x.jxc", {"w": np.ones(2, ml_dtypes.int4)})
    with pytest.raises(jc.UnsupportedInput, match="that safetensors has"):
        decompress_file(tmp_path / "x.jxc", tmp_path / "x.safetensors")
