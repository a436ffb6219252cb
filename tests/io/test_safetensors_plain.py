"""Plain safetensors files: the library of the format reads them, and we read its metadata."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.io.safetensors_plain import read_metadata, save_plain


def test_the_library_reads_what_we_write(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {"b": np.arange(3, dtype=np.uint8), "a.w": np.ones((2, 3), np.float32)}
    arrays["h"] = np.ones((2, 1), np.int64)
    assert save_plain(path, arrays, {"format": "pt"}) == path.stat().st_size
    back = safetensors.numpy.load_file(path)
    assert set(back) == set(arrays)
    for name, x in arrays.items():
        np.testing.assert_array_equal(back[name], x)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == read_metadata(path) == {"format": "pt"}


def test_float8_goes_too(tmp_path):
    x = np.arange(8, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    save_plain(tmp_path / "x.safetensors", {"x": x}, {})
    back = jc.io.load_safetensors(tmp_path / "x.safetensors")["x"]
    np.testing.assert_array_equal(np.asarray(back).view(np.uint8), x.view(np.uint8))
    assert read_metadata(tmp_path / "x.safetensors") == {}


def test_refusals(tmp_path):
    with pytest.raises(UnsupportedInput, match="complex128 in 'x'"):
        save_plain(tmp_path / "x", {"x": np.zeros(3, np.complex128)}, {})
    for junk in (b"", b"\xff" * 20, (4).to_bytes(8, "little") + b"nope"):
        (tmp_path / "x").write_bytes(junk)
        assert read_metadata(tmp_path / "x") == {}
