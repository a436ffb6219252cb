"""jaxcomp info of files of many arrays: every array, beside its order-0 entropy."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcomp.cli.main import main
from jaxcomp.io.tensor_writer import TensorWriter

pytestmark = pytest.mark.usefixtures("workplace")


def test_every_array_is_listed(capsys, refused):
    w = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    save_file({"w": w, "b": np.float32(2).repeat(5)}, "x.safetensors")
    main(["compress", "x.safetensors", "x.jxc"])
    capsys.readouterr()
    with open("f.jxc", "wb") as file, TensorWriter(file) as writer:
        writer.finish({"kind": "file", "files": 3})
    assert "f.jxc: expected the files of a model" in refused("info", "f.jxc")
    main(["compress", "x.safetensors", "d.jxc", "--base", "x.jxc"])
    capsys.readouterr()
    assert main(["info", "x.jxc"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "x.jxc" and lines[1].split()[:4] == ["array", "dtype", "shape", "bytes"]
    (line,) = [line.split() for line in lines if line.startswith("w ")]
    assert line[1:4] == ["float32", "40x50", "8000"] and line[-1] == "%"
    assert "2 arrays share chunks: coded is their part of them, by size" in lines
    assert main(["info", "x.jxc", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = {array["name"]: array for array in record["arrays"]}
    assert found["w"]["shape"] == [40, 50] and abs(found["w"]["over_order0"]) < 0.2
    assert found["w"]["bytes"] < 8000 and record["kind"] == "file"
    parts = sum(array["bytes"] for array in record["arrays"] + record["other"])
    assert parts + record["container_bytes"] == record["bytes"]
    assert main(["info", "x.jxc", "--json", "--quick"]) == 0
    assert json.loads(capsys.readouterr().out)["arrays"][0]["order0_bytes"] is None
    assert main(["info", "d.jxc"]) == 0
    out, err = capsys.readouterr()
    assert "a delta against the file of SHA-256" in out and "give its --base" in err
    assert main(["info", "d.jxc", "--base", "x.jxc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arrays"][1]["order0_bytes"] > 0
