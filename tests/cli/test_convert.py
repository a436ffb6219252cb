"""convert: from file to file, with a report of what was kept."""

import json
from pathlib import Path

import pytest

from jaxcomp.cli.main import main

pytestmark = pytest.mark.usefixtures("workplace")

GOLDEN = Path(__file__).parent.parent / "golden"
GGUF, AWQ = GOLDEN / "gguf_v3.gguf", GOLDEN / "awq_gemm.safetensors"


def run(capsys, *arguments):
    assert main(["convert", *map(str, arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_from_file_to_file(capsys):
    record, err = run(capsys, GGUF, "x.jxc")
    assert record["exact"] == 17 and record["rounded"] == 0 and record["to"] == "jxc"
    assert not err
    _, err = run(capsys, GGUF, "x.safetensors", "--layout", "jaxcomp")
    assert "metadata of GGUF are not kept" in err
    record, err = run(capsys, GGUF, "y.gguf")
    assert Path("y.gguf").read_bytes() == GGUF.read_bytes() and not err
    record, _ = run(capsys, AWQ, "x.safetensors")
    assert record["to"] == "awq"
    record, _ = run(capsys, AWQ, "folder", "--layout", "gptq")
    assert Path("folder/config.json").exists() and record["bytes"] > 1000
    record, _ = run(capsys, "folder", "x.gguf", "--round", "q8_0")
    assert record["from"] == "gptq" and record["rounded"] == 1
    record, _ = run(capsys, GGUF, "dense.safetensors", "--dense", "bf16")
    assert record["dense"] == 17 and record["to"] == "plain"
    assert main(["compress", str(AWQ), "lossless.jxc"]) == 0
    capsys.readouterr()
    record, _ = run(capsys, "lossless.jxc", "x.safetensors", "--layout", "gptq")
    assert record["from"] == "awq" and record["exact"] == 1
    assert main(["convert", str(AWQ), "z.jxc"]) == 0
    assert "1 weights with the same codes, 0 rounded again" in capsys.readouterr().out


def test_refusals(refused):
    assert "--round" in refused("convert", GGUF, "x.safetensors")
    assert not Path("x.safetensors").exists()
    assert "rename it" in refused("convert", GGUF, "x.bin")
    assert "for safetensors only" in refused("convert", GGUF, "x.jxc", "--layout", "awq")
    Path("bad.gguf").write_bytes(GGUF.read_bytes()[:500])
    assert "bad.gguf: expected a GGUF file" in refused("convert", "bad.gguf", "x.jxc")
    error = refused("convert", AWQ, "x.gguf", "--round", "q4_k")
    assert "'m.weight': expected a last axis in blocks of 256" in error
    assert "not allowed with" in refused("convert", GGUF, "x.jxc", "--round", "a", "--dense", "f32")
