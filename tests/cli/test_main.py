"""The jaxcomp command: exit codes, one line per error, and nothing left behind."""

import io
import os
import re
import sys
from pathlib import Path

import pytest

from jaxcomp.cli.main import main
from jaxcomp.codecs import files

pytestmark = pytest.mark.usefixtures("workplace")


def test_main_is_called_again_and_again_with_other_streams(monkeypatch, photo):
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


def test_refusals_name_the_file_and_leave_the_output(capsys, photo, refused):
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
        ("compress", "a.png", "a.png"): "a.png is an input itself",
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
        assert re.search(message, refused(*arguments)), arguments
    assert Path("old.png").read_text() == "old"
    assert not os.path.exists("x.jxc") and not [n for n in os.listdir() if n.endswith(".tmp")]


def test_a_defect_is_one_line_too_unless_asked(monkeypatch, photo, refused):
    photo("a.png")

    def defect(*_, **__):
        raise TypeError("several\nlines")

    monkeypatch.setattr(files, "save", defect)
    line = refused("compress", "a.png", "a.jxc", code=1)
    assert "internal error, please report it: TypeError: several lines" in line
    monkeypatch.setenv("JAXCOMP_TRACEBACK", "1")
    with pytest.raises(TypeError):
        main(["compress", "a.png", "a.jxc"])


def test_interruption_and_a_closed_pipe(capsys, monkeypatch, photo):
    photo("a.png")
    for error, code in ((KeyboardInterrupt, 130), (BrokenPipeError, 2)):
        monkeypatch.setattr(
            files, "save", lambda *_, error=error, **__: (_ for _ in ()).throw(error)
        )
        assert main(["compress", "a.png", "a.jxc"]) == code
    assert capsys.readouterr().err == "jaxcomp: interrupted\n"


def test_nothing_is_said_into_a_closed_pipe(process):
    code = """
import os, subprocess, sys
read, write = os.pipe()
os.close(read)
command = [sys.executable, "-c", "from jaxcomp.cli.main import main\\n"
    "import jaxcomp.cli.info as info\\nimport sys\\n"
    "info.run = lambda arguments: print('much') or 0\\nsys.exit(main(['info', 'x']))"]
done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
print(done.returncode, repr(done.stderr))
"""
    assert process(code=code)[1] == "2 ''\n"


def test_python_m_jaxcomp(process):
    status, out, err = process("info", "none.jxc")
    assert status == 2 and out == "" and err.startswith("jaxcomp: error: none.jxc: No such file")
