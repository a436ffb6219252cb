"""jaxcomp extract: one array, or some of its rows."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxcomp.cli.main import main

pytestmark = pytest.mark.usefixtures("workplace")


def test_arrays_and_rows(capsys, refused):
    x = {"a.w": np.arange(60).reshape(20, 3), "b": np.ones((2, 2), ml_dtypes.bfloat16)}
    save_file(x, "x.safetensors")
    main(["compress", "x.safetensors", "x.jxc"])
    capsys.readouterr()
    assert main(["extract", "x.jxc", "a.w", "w.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [20, 3]
    np.testing.assert_array_equal(np.load("w.npy"), x["a.w"])
    for rows, part in (("5:7", x["a.w"][5:7]), (":2", x["a.w"][:2]), ("-1:", x["a.w"][-1:])):
        assert main(["extract", "x.jxc", "a.w", "w.npy", f"--rows={rows}"]) == 0
        np.testing.assert_array_equal(np.load("w.npy"), part)
    assert main(["extract", "x.jxc", "b", "b.safetensors"]) == 0
    assert load_file("b.safetensors")["b"].tobytes() == x["b"].tobytes()
    capsys.readouterr()
    for arguments, message in {
        ("a", "w.npy"): "x.jxc: expected the name of an array, such as 'a.w', got 'a'",
        ("b", "w.npy"): "got bfloat16; write .safetensors",
        ("b", "w.txt"): "OUT.npy or OUT.safetensors",
        ("a.w", "w.npy", "--rows", "5"): "expected --rows A:B",
        ("a.w", "w.npy", "--max-bytes", "5"): "at most 5 bytes",
    }.items():
        assert re.search(message, refused("extract", "x.jxc", *arguments)), arguments
