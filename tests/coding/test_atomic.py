"""Files and folders are replaced at once, or not at all."""

import os
import subprocess
import sys

import pytest

import jaxcomp as jc
from jaxcomp.coding.atomic import new_folder, replacing, write_atomic


def test_write_atomic_replaces_or_leaves(tmp_path, monkeypatch):
    path = tmp_path / "out"
    write_atomic(path, b"first")
    os.chmod(path, 0o640)
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second" and path.stat().st_mode & 0o777 == 0o640
    link = tmp_path / "link"
    link.symlink_to(path)
    write_atomic(link, b"third")
    assert link.is_symlink() and path.read_bytes() == b"third"

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"fourth")
    assert path.read_bytes() == b"third"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out"]  # no temporary left
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path, b"")
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "out", b"")
    write_atomic("/dev/null", b"written directly")


KILLED = """
import os, signal, sys
from jaxcomp.coding.atomic import new_folder, replacing
with replacing(sys.argv[1]) as file, new_folder(sys.argv[2]):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_who_is_killed_leaves_the_old_file_and_no_new_folder(tmp_path):
    path, folder = tmp_path / "out", tmp_path / "folder"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, path, folder])
    assert done.returncode == -9 and path.read_bytes() == b"old" and not folder.exists()


def test_a_block_that_fails_leaves_nothing(tmp_path):
    path, folder = tmp_path / "out", tmp_path / "folder"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file, new_folder(folder) as made:
        file.write(b"new")
        open(os.path.join(made, "a"), "wb").close()
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]


def test_a_folder_comes_at_once_and_never_over_files(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with new_folder(folder) as made:
        open(os.path.join(made, "a"), "wb").close()
        assert os.listdir(folder) == []
    assert os.listdir(folder) == ["a"] and os.listdir(tmp_path) == ["folder"]
    for taken in (folder, folder / "a"):
        with pytest.raises(jc.UnsupportedInput, match="new or empty folder"), new_folder(taken):
            raise AssertionError
