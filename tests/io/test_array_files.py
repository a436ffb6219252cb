"""One array as .npy or .safetensors, read by NumPy and by the library of the format."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxcomp as jc


def test_other_tools_read_them(tmp_path):
    x = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    jc.io.write_array(tmp_path / "x.npy", "x", x)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x)
    y = x.astype(ml_dtypes.bfloat16)
    jc.io.write_array(tmp_path / "y.safetensors", "a.b", y)
    assert load_file(tmp_path / "y.safetensors")["a.b"].tobytes() == y.tobytes()
    with pytest.raises(jc.UnsupportedInput, match="got bfloat16; write .safetensors"):
        jc.io.write_array(tmp_path / "y.npy", "y", y)
    with pytest.raises(jc.UnsupportedInput, match=r"\.npy or \.safetensors"):
        jc.io.write_array(tmp_path / "y.txt", "y", x)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_name_that_the_format_keeps_is_refused(tmp_path):
    jc.io.save_tensors(tmp_path / "x.jxc", {"__metadata__": np.arange(3)})
    with pytest.raises(jc.UnsupportedInput, match="another name than __metadata__"):
        jc.io.decompress_file(tmp_path / "x.jxc", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
