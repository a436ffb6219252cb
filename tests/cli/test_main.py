"""The jaxcomp command: what it writes, what it refuses, and how it says so."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxcomp.cli.main import main
from jaxcomp.codecs import files
from jaxcomp.codecs.header import Home
from jaxcomp.coding import container

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(autouse=True)
def workplace(monkeypatch, tmp_path):
    """A folder of its own, a quick codec behind the name dct, and nobody's compilation cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(files.CODECS, "dct", Home("tests.toy_codec", "toy", None))
    monkeypatch.setitem(files.CODECS, "toy", Home("tests.toy_codec", "toy", None))
    monkeypatch.setattr("jaxcomp.cli.common.start_jax", lambda: None)
    files.find.cache_clear()
    files.model_hash.cache_clear()
    yield
    files.find.cache_clear()
    files.model_hash.cache_clear()


def photo(name, height=23, width=31, **options):
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(name, **options)
    return pixels


def refused(capsys, *arguments, code=2):
    """Run what must fail; returns the one line it says."""
    assert main([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1, err
    assert err.startswith("jaxcomp: error: ")
    return err


def test_compress_info_decompress(capsys):
    pixels = photo("a.png", icc_profile=SRGB)
    assert main(["compress", "a.png", "a.jxc", "--quality", "100"]) == 0
    size = os.path.getsize("a.jxc")
    line = capsys.readouterr().out
    assert line == f"a.png -> a.jxc: 31 x 23, {size} bytes, {8 * size / (31 * 23):.3f} bpp\n"
    assert main(["info", "a.jxc", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["width"], record["height"], record["channels"]) == (31, 23, 3)
    assert record["bytes"] == size and record["icc_bytes"] == len(SRGB)
    assert size == record["container_bytes"] + sum(record["sections"].values())
    assert main(["info", "a.jxc"]) == 0
    assert "31 x 23, 3 channels" in capsys.readouterr().out
    assert main(["decompress", "a.jxc", "b.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["height"] == 23
    with Image.open("b.png") as decoded:
        np.testing.assert_array_equal(np.asarray(decoded), pixels)  # the toy at 100 is exact
        assert decoded.info["icc_profile"] == SRGB
    assert main(["decompress", "a.jxc", "b.ppm"]) == 0
    assert "PPM cannot carry the ICC profile" in capsys.readouterr().err


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


def test_pipes(monkeypatch, capsys):
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


def test_main_is_called_again_and_again_with_other_streams(monkeypatch):
    photo("a.png")
    assert main(["compress", "a.png", "a.jxc"]) == 0
    for _ in range(2):
        monkeypatch.setattr(sys, "stdout", out := io.StringIO())
        monkeypatch.setattr(sys, "stderr", err := io.StringIO())
        assert main(["info", "a.jxc"]) == 0 and out.getvalue().startswith("a.jxc\n")
        assert main(["info", "gone"]) == 2 and "gone: No such file" in err.getvalue()
        assert main(["--version"]) == 0 and main(["info", "--help"]) == 0
        assert "examples:" in out.getvalue()
        assert main([]) == 2 and main(["frobnicate"]) == 2 and main(["info"]) == 2
    assert err.getvalue().count("\n") == err.getvalue().count("jaxcomp: error: ") == 4


def test_a_folder_goes_on_after_a_bad_photo(capsys):
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
    assert "--out DIR" in refused(capsys, "compress", "in", "x.jxc")
    assert "expected photos" in refused(capsys, "compress", "new", "--out", "deep/out")


def test_refusals_name_the_file_and_leave_the_output(capsys):
    photo("a.png")
    main(["compress", "a.png", "a.jxc"])
    data = Path("a.jxc").read_bytes()
    Path("half.jxc").write_bytes(data[: len(data) // 2])
    Path("old.png").write_text("old")
    capsys.readouterr()
    cases = {
        ("decompress", "half.jxc", "old.png"): "half.jxc: expected .* truncated",
        ("decompress", "a.png", "old.png"): "a.png: not a .jxc file",
        ("decompress", "a.jxc", "old.png", "--max-pixels", "700"): "at most 700 pixels",
        ("decompress", "a.jxc", "old.jpg"): r"expected an output among .*\.png",
        ("decompress", "a.jxc", "no/old.png"): "folder does not exist; create",
        ("decompress", "gone.jxc", "old.png"): "gone.jxc: No such file or directory; check",
        ("compress", "a.png", "a.png"): "a.png is the input itself",
        ("compress", "a.png", "old.png", "--max-pixels", "700"): "got 31 x 23 = 713",
        ("compress", "half.jxc", "old.png"): "half.jxc: expected a photo",
        ("compress", "a.png"): "one of OUT.jxc and --out DIR",
        ("compress", "a.png", "x.jxc", "--quality", "101"): "quality of 1 to 100, got '101'",
        ("compress", "a.png", "x.jxc", "--bpp", "nan"): "above 0, got 'nan'",
        ("compress", "a.png", "x.jxc", "--bpp", "1", "--quality", "3"): "not allowed with",
        ("compress", "a.png", "x.jxc", "--codec", "zip"): "invalid choice: 'zip'",
        ("compress", ".", "old.png"): "is a folder",
        ("decompress", "a.jxc", "."): r"\.png",
        ("info", "."): "Is a directory",
        ("info", "a.jxc", "--max-pixels", "0"): "at least 1, got '0'",
    }
    for arguments, message in cases.items():
        assert re.search(message, refused(capsys, *arguments)), arguments
    assert Path("old.png").read_text() == "old"
    assert not os.path.exists("x.jxc") and not [n for n in os.listdir() if n.endswith(".tmp")]


def test_a_defect_is_one_line_too_unless_asked(capsys, monkeypatch):
    photo("a.png")

    def defect(*_, **__):
        raise TypeError("several\nlines")

    monkeypatch.setattr(files, "save", defect)
    line = refused(capsys, "compress", "a.png", "a.jxc", code=1)
    assert "internal error, please report it: TypeError: several lines" in line
    monkeypatch.setenv("JAXCOMP_TRACEBACK", "1")
    with pytest.raises(TypeError):
        main(["compress", "a.png", "a.jxc"])


def test_interruption_and_a_closed_pipe(capsys, monkeypatch):
    photo("a.png")
    for error, code in ((KeyboardInterrupt, 130), (BrokenPipeError, 2)):
        monkeypatch.setattr(
            files, "save", lambda *_, error=error, **__: (_ for _ in ()).throw(error)
        )
        assert main(["compress", "a.png", "a.jxc"]) == code
    assert capsys.readouterr().err == "jaxcomp: interrupted\n"


def corrupt_files(folder):
    """What a stranger may send, each with what must be said about it."""
    image = np.zeros((9, 9, 3), np.uint8)
    good = container.unpack(files.save(files.find("toy"), image))._replace(codec="dct")
    data = container.pack(*good[1:])
    huge = {**good.header, "shape": [2**62, 2**62, 3]}
    yield "cut.jxc", data[:-3], "truncated"
    yield "flipped.jxc", data[:-1] + bytes([data[-1] ^ 4]), "section 'c' is damaged"
    yield "version.jxc", data[:4] + b"\x09" + data[5:], "version 9"
    yield "codec.jxc", container.pack("zzz", good.header, good.sections), "codec 'zzz'"
    yield "huge.jxc", container.pack("dct", huge, good.sections), "at most 134217728 pixels"
    yield "empty.jxc", b"", "not a .jxc file"
    yield "text.jxc", b"hello\n" * 10, "not a .jxc file"


def process(*arguments, code=None):
    """A process of its own: (exit code, stdout, stderr)."""
    start = ["-c", code] if code else ["-m", "jaxcomp"]
    root = str(Path(files.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    return done.returncode, done.stdout, done.stderr


def test_corrupt_files_cost_no_jax(tmp_path):
    """Exit code 2, one line, no jax, and little memory."""
    code = """
import sys
from jaxcomp.cli.main import main
code = main(sys.argv[1:])
print([m for m in ("jax", "rich", "matplotlib") if m in sys.modules])
status = open("/proc/self/status").read() if sys.platform == "linux" else "VmHWM: 0 kB"
print(status.partition("VmHWM:")[2].split()[0])
sys.exit(code)
"""
    for name, data, message in corrupt_files(tmp_path):
        (tmp_path / name).write_bytes(data)
        for rest in (["decompress", name, "out.png"], ["info", name]):
            status, out, err = process(*rest, code=code)
            loaded, kilobytes = out.splitlines()
            assert status == 2 and loaded == "[]"
            assert err.count("\n") == 1 and err.startswith(f"jaxcomp: error: {name}: ")
            assert message in err
            assert int(kilobytes) < 100_000
    assert not (tmp_path / "out.png").exists()


def test_python_m_jaxcomp():
    status, out, err = process("info", "none.jxc")
    assert status == 2 and out == "" and err.startswith("jaxcomp: error: none.jxc: No such file")
