"""Arrays of model files by name, whatever files hold them."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcomp.base import UnsupportedInput
from jaxcomp.io.model_arrays import model_arrays


def test_files_archives_and_folders(tmp_path):
    a, b = np.arange(12.0).reshape(3, 4), np.ones((2, 0), np.float32)
    save_file({"a": a, "b": b}, tmp_path / "x.safetensors")
    np.save(tmp_path / "y.npy", np.asfortranarray(a))
    np.savez(tmp_path / "z.npz", a=a, c=a > 3)
    (tmp_path / "config.json").write_text("{}")

    def read(name):
        return {key: np.array(x) for key, x in model_arrays(tmp_path / name)}

    for name, expected in (
        ("x.safetensors", {"a": a, "b": b}),
        ("y.npy", {"array": a}),
        ("z.npz", {"a": a, "c": a > 3}),
        ("", {"a": a, "b": b, "y": a, "z.npz:a": a, "c": a > 3}),
    ):
        found = read(name)
        assert set(found) == set(expected)
        for key, x in found.items():
            np.testing.assert_array_equal(x, expected[key], strict=True)
    for name in ("config.json", "gone"):
        with pytest.raises(UnsupportedInput, match="file of arrays"):
            read(name)
    np.save(tmp_path / "y.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UnsupportedInput, match="arrays of numbers"):
        read("y.npy")
