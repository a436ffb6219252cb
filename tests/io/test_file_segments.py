"""The segments of a file are all of its bytes, and its arrays are what other tools read."""

import io
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxcomp as jc
from jaxcomp.io.file_segments import file_segments


def arrays(path):
    """{name: array} by the segments, which are the whole file."""
    data, at, found = path.read_bytes(), 0, {}
    for segment in file_segments(path):
        raw = data[at : at + segment.nbytes]
        at += segment.nbytes
        if segment.name is not None:
            found[segment.name] = np.frombuffer(raw, segment.dtype).reshape(segment.shape)
    assert at == len(data)
    return found


def same(found, expected):
    assert set(found) == set(expected)
    for name, x in expected.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape)
        assert found[name].tobytes() == x.tobytes()


def test_safetensors_and_npy_files(tmp_path):
    draw = np.random.default_rng(0)
    tree = {
        "b": draw.normal(size=(3, 4)).astype(ml_dtypes.bfloat16),
        "a": draw.normal(size=5),
        "e": np.zeros((0, 2), np.int8),
        "s": np.full((), 2, np.float32),
    }
    save_file(tree, tmp_path / "x.safetensors", metadata={"format": "pt"})
    same(arrays(tmp_path / "x.safetensors"), tree)
    for x in (tree["a"], np.full((), 3.0), np.zeros((2, 0), np.uint8)):
        np.save(tmp_path / "x.npy", x)
        same(arrays(tmp_path / "x.npy"), {"array": x})
    x = np.asfortranarray(draw.normal(size=(3, 4)))
    np.save(tmp_path / "x.npy", x)
    same(arrays(tmp_path / "x.npy"), {"array": np.ascontiguousarray(x.T)})
    with open(tmp_path / "x.npy", "ab") as file:  # as np.save of two arrays to one file
        np.save(file, x)
    assert len(file_segments(tmp_path / "x.npy")) == 3
    for x in (np.array(["a", "bc"]), np.arange(3, dtype=">i4"), np.zeros(2, "i4,f8")):
        np.save(tmp_path / "x.npy", x)
        same(arrays(tmp_path / "x.npy"), {})
    (tmp_path / "x.json").write_bytes(b"{}")
    assert [s.nbytes for s in file_segments(tmp_path / "x.json")] == [2]


def safetensors(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype="U8", shape=(2,), start=0, end=2):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def test_gaps_and_dtypes_of_tomorrow_are_bytes(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors({"a": entry(start=3, end=5), "n": entry("F3", (9,))}, bytes(9)))
    assert [(s.name, s.nbytes) for s in file_segments(path)][1:] == [
        ("n", 2),
        (None, 1),
        ("a", 2),
        (None, 4),
    ]


BAD = {
    "empty.safetensors": b"",
    "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\n",
    "list.safetensors": safetensors([]),
    "deep.safetensors": safetensors(b"[" * 100_000),
    "long.safetensors": safetensors({"a": entry(end=9)}, b"ab"),
    "overlap.safetensors": safetensors({"a": entry(), "b": entry(start=1, end=3)}, b"abc"),
    "huge.safetensors": safetensors({"a": entry(shape=(1 << 70,))}, b"ab"),
    "other.safetensors": safetensors({"a": entry(shape=(3,))}, b"ab"),
    "none.safetensors": safetensors({"a": 3, "b": {"dtype": []}}, b"ab"),
    "listed.safetensors": safetensors({"a": entry(dtype=["U8"], shape=(9,), end=1)}),
    "short.npy": b"\x93NUMPY\x01\0",
    "no.npy": b"PK\3\4 and more",
    "expression.npy": b"\x93NUMPY\x01\0\x20\0" + b"__import__('os').getcwd()".ljust(32),
    "deep.npy": b"\x93NUMPY\x01\0\x10\x27" + b"(" * 10_000,
    "cut.npy": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_not_what_their_names_say(tmp_path, name):
    data = BAD[name]
    if name == "cut.npy":
        buffer = io.BytesIO()
        np.save(buffer, np.arange(100))
        data = buffer.getvalue()[:-1]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(jc.UnsupportedInput, match="is the file what its name says"):
        file_segments(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Stored array in format")
def test_headers_of_every_version_of_npy(tmp_path):
    for field in ("\u00e9", "\u5b57"):  # in Latin-1 in version 1, in UTF-8 in version 3
        np.save(tmp_path / "x.npy", np.zeros(5, [(field, "f4")]))
        assert not arrays(tmp_path / "x.npy")
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(tmp_path / "x.npy", "wb") as file:
            np.lib.format.write_array(file, np.arange(5), version)
        same(arrays(tmp_path / "x.npy"), {"array": np.arange(5)})


def test_python_objects_are_refused_unopened(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(jc.UnsupportedInput, match="Python objects, which only a pickle"):
        file_segments(tmp_path / "x.npy")
