"""jaxcomp verify: files of every kind, whole and damaged."""

import copy
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxcomp as jc
from jaxcomp.cli.main import main
from jaxcomp.formats.format import Format
from jaxcomp.formats.qtensor import from_codes
from jaxcomp.io import tree_nodes
from jaxcomp.io.shard_files import Box, Leaf, write_shards
from jaxcomp.io.tensor_writer import TensorWriter

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
    jc.io.save_weights("w.jxc", {"w": np.arange(99)})
    assert main(["verify", "w.jxc", "--decode"]) == 0
    capsys.readouterr()
    assert "--decode is for" in refused("verify", "a.jxc", "--decode")
    Path("t.jxc").write_bytes(data[:-1])
    assert "truncated" in refused("verify", "t.jxc", "--decode")


def test_arrays_that_make_no_tree_are_found(capsys, refused):
    codes, scales = np.zeros((8, 32), np.uint8), np.ones((8, 1), np.float32)
    leaf = from_codes(jnp.asarray(codes, jnp.int32), jnp.asarray(scales), None, Format(8), size=32)
    nodes = tree_nodes.Writer()
    node = nodes.node({"w": leaf})
    for change, message in (
        (lambda fields: None, None),
        (lambda fields: fields.update(scales=9), "an array among"),
        (
            lambda fields: fields.update(scales=fields["codes"], codes=fields["scales"]),
            "weight in 'w'",
        ),
        (lambda fields: fields.pop("codes"), "the fields"),
    ):
        changed = copy.deepcopy(node)
        change(changed[1]["w"][2])
        with open("t.jxc", "wb") as file, TensorWriter(file) as writer:
            for k, (x, _) in enumerate(nodes.rows):
                writer.add(str(k), x)
            writer.finish({"kind": "tree", "tree": changed})
        assert main(["verify", "t.jxc"]) == 0  # every checksum fits
        capsys.readouterr()
        if message is None:
            assert main(["verify", "t.jxc", "--decode"]) == 0
            capsys.readouterr()
        else:
            assert message in refused("verify", "t.jxc", "--decode")


def test_shards_that_make_no_array_are_found(capsys, refused):
    for cells in ((0, 2), (0,)):
        shards = [(Box((at, 0), (2, 3)), np.zeros((2, 3), np.int32)) for at in cells]
        with open("s.jxc", "wb") as file:
            write_shards(file, [Leaf("w", np.dtype("int32"), (4, 3), None, shards)], 0, 1)
        if len(cells) == 2:
            assert main(["verify", "s.jxc", "--decode"]) == 0
            capsys.readouterr()
        else:
            assert "w: expected shards that make (4, 3)" in refused("verify", "s.jxc", "--decode")
