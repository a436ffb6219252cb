"""jaxcomp verify: files of every kind, whole and damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxcomp as jc
from jaxcomp.cli.main import main

pytestmark = pytest.mark.usefixtures("workplace")


def test_whole_files(capsys, photo):
    photo("a.png")
    main(["compress", "a.png", "a.jxc"])
    save_file({"w": np.arange(99)}, "x.safetensors")
    main(["compress", "x.safetensors", "x.jxc"])
    jc.io.save_tensors("t.jxc", {"w": np.arange(99)})
    capsys.readouterr()
    for arguments in (["a.jxc"], ["x.jxc"], ["x.jxc", "--decode"], ["t.jxc", "--decode"]):
        assert main(["verify", *arguments]) == 0
        out, _ = capsys.readouterr()
        assert out.startswith(f"{arguments[0]}: ") and out.count("\n") == 1
        assert ("as it was put in" in out) == ("--decode" in arguments)
        assert main(["verify", *arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["chunks"] > 0


def test_damage_is_found(capsys, refused, photo):
    photo("a.png")
    main(["compress", "a.png", "a.jxc"])
    capsys.readouterr()
    jc.io.save_tensors("t.jxc", {"w": np.random.default_rng(0).normal(size=99)})
    for name in ("a.jxc", "t.jxc"):
        data = bytearray(Path(name).read_bytes())
        data[len(data) // 2] ^= 1
        Path(name).write_bytes(data)
        assert "damaged" in refused("verify", name)
    main(["compress", "a.png", "a.jxc"])
    capsys.readouterr()
    for command in (["decompress", "a.jxc", "b.png"], ["info", "a.jxc"]):
        assert "--base is for" in refused(*command, "--base", "t.jxc")
    jc.io.save_tensors("z.jxc", {"w": np.zeros(1 << 20)})
    for command in ("verify", "z.jxc", "--decode"), ("info", "z.jxc"):
        assert "raise max_nbytes (--max-bytes)" in refused(*command, "--max-bytes", "8000000")
        assert main([*command, "--max-bytes", "9000000"]) == 0
        capsys.readouterr()
    assert main(["verify", "z.jxc", "--max-bytes", "1"]) == main(["info", "z.jxc", "--quick"]) == 0
    capsys.readouterr()
    Path("t.jxc").write_bytes(data[:-1])
    assert "truncated" in refused("verify", "t.jxc", "--decode")
