"""decompress: a damaged file costs nothing and changes nothing."""

import numpy as np
import pytest

from jaxcomp.cli.main import main
from jaxcomp.codecs import files
from jaxcomp.coding import container

pytestmark = pytest.mark.usefixtures("workplace")


def corrupt_files():
    """What a stranger may send, each with what must be said about it."""
    image = np.zeros((9, 9, 3), np.uint8)
    good = container.unpack(files.save(files.find("toy"), image))._replace(codec="dct")
    data = container.pack(*good[1:])
    huge = {**good.header, "shape": [2**62, 2**62, 3]}
    yield "cut.jxc", data[:-3], "truncated"
    yield "flipped.jxc", data[:-1] + bytes([data[-1] ^ 4]), "section 'c' is damaged"
    yield "version.jxc", data[:4] + b"\x09" + data[5:], "version 9"
    yield "codec.jxc", container.pack("zzz", good.header, good.sections), "codec 'zzz'"
    yield "model.jxc", data, "written with model None of codec dct, this jaxcomp ships"
    yield "huge.jxc", container.pack("dct", huge, good.sections), "at most 134217728 pixels"
    yield "empty.jxc", b"", "not a .jxc file"
    yield "text.jxc", b"hello\n" * 10, "not a .jxc file"


def test_corrupt_files_cost_no_jax(tmp_path, process):
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
    for name, data, message in corrupt_files():
        (tmp_path / name).write_bytes(data)
        for rest in (["decompress", name, "out.png"], ["info", name]):
            if name == "model.jxc" and rest[0] == "info":
                continue  # it can be described, only not decoded here
            status, out, err = process(*rest, code=code)
            loaded, kilobytes = out.splitlines()
            assert status == 2 and loaded == "[]"
            assert err.count("\n") == 1 and err.startswith(f"jaxcomp: error: {name}: ")
            assert message in err
            assert int(kilobytes) < 100_000
    assert not (tmp_path / "out.png").exists()


def test_formats_without_room_for_a_profile_say_so(capsys):
    image = np.zeros((9, 9, 3), np.uint8)
    with open("a.jxc", "wb") as file:
        file.write(files.save(files.find("toy"), image, icc=bytes(16) + b"RGB "))
    assert main(["decompress", "a.jxc", "b.ppm"]) == 0
    assert "PPM cannot carry the ICC profile" in capsys.readouterr().err
    assert main(["decompress", "a.jxc", "b.tiff"]) == 0
    assert capsys.readouterr().err == ""
