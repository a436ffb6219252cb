"""jaxcomp compress and decompress of models: byte for byte, with what was done in one line."""

import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcomp.cli.main import main

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def model():
    """A file, an array and a folder of models; returns the bytes of the file."""
    draw = np.random.default_rng(0)
    save_file({"w": draw.normal(size=(40, 50)).astype(np.float32)}, "x.safetensors")
    np.save("noise.npy", draw.integers(0, 256, 5000, np.uint8))
    os.makedirs("model/sub")
    save_file({"w": np.ones((9, 9))}, "model/model.safetensors")
    Path("model/config.json").write_text("{}")
    return Path("x.safetensors").read_bytes()


def said(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    out, _ = capsys.readouterr()
    return json.loads(out)


def test_there_and_back(capsys, model):
    done = said(capsys, "compress", "x.safetensors", "x.jxc")
    assert done["original_bytes"] == len(model) and done["bytes"] == os.path.getsize("x.jxc")
    assert done["arrays"] == 1 and not done["stored"] and 0.5 < done["ratio"] < 1
    back = said(capsys, "decompress", "x.jxc", "y.safetensors")
    assert back["original_bytes"] == len(model) and back["megabytes_per_second"] >= 0
    assert Path("y.safetensors").read_bytes() == model
    assert main(["decompress", "x.jxc", "y.npy"]) == 0
    assert "y.npy: it is .safetensors, which is what went in" in capsys.readouterr().err
    assert main(["compress", "model", "m.jxc"]) == 0 and main(["decompress", "m.jxc", "m"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"model -> m.jxc: 1 arrays, \d+ -> \d+ bytes, 0.\d+ of them, \d+ MB/s", out)
    assert Path("m/config.json").read_text() == "{}" and os.path.isdir("m/sub")
    assert main(["compress", "x.safetensors", "d.jxc", "--base", "x.jxc"]) == 0
    assert os.path.getsize("d.jxc") < 700
    assert main(["decompress", "d.jxc", "z.safetensors", "--base", "x.jxc"]) == 0
    assert Path("z.safetensors").read_bytes() == model


def test_what_does_not_shrink_is_stored_and_said_so(capsys, model):
    assert main(["compress", "noise.npy", "x.jxc", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["stored"]
    assert err == "jaxcomp: note: noise.npy: it does not shrink, and is stored as it is\n"
    assert os.path.getsize("x.jxc") < os.path.getsize("noise.npy") + 400


def test_a_file_that_is_none_of_arrays_is_kept_and_named(capsys, model):
    np.save("model/x.npy", np.array([{}], object), allow_pickle=True)
    assert main(["compress", "model", "m.jxc"]) == 0
    out, err = capsys.readouterr()
    assert " 1 arrays, 1 files as bytes, " in out
    assert err.startswith("jaxcomp: note: model/x.npy: kept as bytes: x: expected an array of num")
    assert list(said(capsys, "compress", "model", "m.jxc")["kept_as_bytes"]) == ["x.npy"]


def test_through_pipes(monkeypatch, capsysbinary, model):
    assert main(["compress", "x.safetensors", "-"]) == 0
    packed, line = capsysbinary.readouterr()
    assert line.startswith(b"x.safetensors -> -: 1 arrays")
    for command in (["decompress", "-", "-"], ["verify", "-"], ["info", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed)))
        assert main(command) == 0
        out, _ = capsysbinary.readouterr()
        assert command[0] != "decompress" or out == model


def test_refusals_leave_the_output(capsys, refused, model):
    main(["compress", "x.safetensors", "x.jxc"])
    capsys.readouterr()
    Path("old").write_text("old")
    data = Path("x.jxc").read_bytes()
    Path("half.jxc").write_bytes(data[:-100])
    Path("bad.jxc").write_bytes(data[:200] + bytes(9) + data[209:])
    Path("fake.safetensors").write_text("version https://git-lfs")
    os.makedirs("photos")
    cases = {
        ("compress", "x.safetensors", "old", "--quality", "3"): "--quality is for photos",
        ("compress", "x.safetensors", "--out", "photos"): "--out is for photos",
        ("compress", "x.safetensors", "old", "--codec", "dct"): "--codec is for photos",
        ("decompress", "x.jxc", "old", "--weights", "x"): "--weights is for photos",
        ("compress", "x.safetensors", "x.safetensors"): "is an input itself",
        ("compress", "model", "model/x.jxc"): "in the folder that is compressed",
        ("compress", "photos", "old"): "a folder without .safetensors, .npy, .*--out DIR",
        ("compress", "fake.safetensors", "old"): "fake.safetensors: expected a safetensors file",
        ("compress", "gone.npy", "old"): "gone.npy: No such file",
        ("compress", "x.safetensors", "old", "--base", "half.jxc"): "end with",
        ("decompress", "half.jxc", "old"): "half.jxc: .*truncated",
        ("decompress", "bad.jxc", "old"): "bad.jxc: chunk .* is damaged",
        ("decompress", "x.jxc", "old", "--max-bytes", "9"): "at most 9 bytes.*--max-bytes",
        ("decompress", "x.jxc", "model"): "expected a file to write|folder",
        ("verify", "bad.jxc"): "bad.jxc: chunk .* is damaged",
        ("verify", "old"): "old: not a .jxc file",
    }
    for arguments, message in cases.items():
        assert re.search(message, refused(*arguments)), arguments
        assert Path("old").read_text() == "old"
    assert not [name for name in os.listdir() if name.endswith(".tmp")]
