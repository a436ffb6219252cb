"""compress: one photo, a pipe, or a folder that goes on after a bad one."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcomp.cli.main import main

pytestmark = pytest.mark.usefixtures("workplace")


def test_grey_photos_stay_grey():
    Image.new("L", (5, 4), 77).save("g.png")
    assert main(["compress", "g.png", "g.jxc", "--quality", "100"]) == 0
    assert main(["decompress", "g.jxc", "h.png"]) == 0
    with Image.open("h.png") as image:
        assert image.mode == "L" and image.getpixel((4, 3)) == 77


class Pipe:
    """A standard stream with bytes beneath, as a process has and as nothing in this one does."""

    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)
        self.text = io.StringIO()

    def __getattr__(self, name):
        return getattr(self.text, name)


def test_pipes(monkeypatch, capsys, photo):
    pixels = photo("a.png")
    out = Pipe()
    monkeypatch.setattr(sys, "stdin", Pipe(Path("a.png").read_bytes()))
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["compress", "-", "-", "--quality", "100"]) == 0
    assert "- -> -: 31 x 23" in capsys.readouterr().err and out.text.getvalue() == ""
    monkeypatch.setattr(sys, "stdin", Pipe(out.buffer.getvalue()))
    monkeypatch.setattr(sys, "stdout", shown := Pipe())
    assert main(["decompress", "-", "-"]) == 0
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(shown.buffer.getvalue()))), pixels
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("text only"))
    assert main(["info", "-"]) == 2
    assert "carries bytes, got StringIO; give a file name" in capsys.readouterr().err


def test_a_folder_goes_on_after_a_bad_photo(capsys, photo, refused):
    os.mkdir("in")
    photo("in/a.png")
    photo("in/b.jpg")
    photo("in/b.png")
    Path("in/bad.png").write_bytes(Path("in/a.png").read_bytes()[:300])
    Path("in/notes.txt").write_text("not a photo")
    assert main(["compress", "in", "--out", "deep/out"]) == 2
    out, err = capsys.readouterr()
    assert sorted(os.listdir("deep/out")) == ["a.jxc", "b.jpg.jxc", "b.png.jxc"]
    assert err.count("\n") == 1 and err.startswith("jaxcomp: error: in/bad.png: the photo is dam")
    assert out.count("\n") == 4 and "3 of 4 photos" in out and "1 failed" in out
    assert main(["compress", "in", "--out", "deep/out", "--json"]) == 2
    record = json.loads(capsys.readouterr().out)
    assert len(record["done"]) == 3 and record["failed"][0]["input"] == "in/bad.png"
    os.remove("in/bad.png")
    assert main(["compress", "in", "--out", "deep/out"]) == 0
    assert main(["compress", "in/a.png", "--out", "new"]) == 0 and os.listdir("new") == ["a.jxc"]
    capsys.readouterr()
    assert "--out DIR" in refused("compress", "in", "x.jxc")
    assert "expected photos" in refused("compress", "new", "--out", "deep/out")


def test_a_second_process_compiles_nothing(process, photo, tmp_path):
    """With the real codec: what the first process compiled, the second one finds, at any size."""
    photo("a.png", 70, 101)
    photo("b.png", 99, 64)
    cache = tmp_path / "cache" / "jaxcomp" / "xla"
    status, out, err = process("compress", "a.png", "a.jxc")
    assert status == 0 and err == "", err
    compiled = {path.name for path in cache.iterdir() if path.name.endswith("-cache")}
    assert compiled
    status, out, err = process("compress", "b.png", "b.jxc")
    assert status == 0 and err == "", err
    assert {path.name for path in cache.iterdir() if path.name.endswith("-cache")} == compiled
    assert Path("b.jxc").stat().st_size > 59


def test_no_two_photos_of_a_folder_share_an_output():
    from jaxcomp.cli.compress import _names

    assert _names(["a.jpg", "b.png"]) == ["a.jxc", "b.jxc"]
    assert _names(["A.jpg", "a.png", "b.png"]) == ["A.jpg.jxc", "a.png.jxc", "b.jxc"]
    crossed = _names(["a.jpg", "a.png", "a.jpg.png"])
    assert crossed == ["a.jpg.jxc", "a.png.jxc", "a.jpg.png.jxc"]
