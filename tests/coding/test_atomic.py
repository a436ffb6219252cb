"""Files and folders are replaced at once, or not at all."""

import os
import shutil
import subprocess
import sys
import time

import pytest

import jaxcomp as jc
from jaxcomp.coding import atomic
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


# Three at a time write one file and a folder each, and are killed after up to 30 ms: who reads then
# finds a whole file, and no writer finds that its own was taken away.
STORM = """
import os, random, shutil, signal, sys, time
from jaxcomp.coding.atomic import new_folder, replacing
path = sys.argv[1]

def write(folder):
    while True:
        letter = bytes([random.randrange(97, 123)])
        with replacing(path) as file:
            for _ in range(50):
                file.write(letter * 1000)
                file.flush()
        shutil.rmtree(folder, ignore_errors=True)
        with new_folder(folder) as made:
            for name in "ab":
                with open(os.path.join(made, name), "wb") as file:
                    file.write(letter)

def looks():
    data = open(path, "rb").read()
    return len(data) == 50000 and len(set(data)) == 1

left = 0
for turn in range(12):
    children = []
    for k in range(3):
        child = os.fork()
        if not child:
            random.seed(turn * 3 + k)
            try:
                write(f"{path}{k}")
            finally:
                os._exit(1)
        children.append(child)
    for child in children:
        time.sleep(random.random() * 0.01 + 0.005)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert looks()
    left += sum(name.endswith(".tmp") for name in os.listdir(os.path.dirname(path)))
print(left)
"""


@pytest.mark.skipif(atomic.fcntl is None, reason="no locks of files")
def test_what_killed_writers_left_is_removed_and_never_what_one_writes(tmp_path):
    path = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", STORM, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 0 and not done.stderr  # some were killed half way
    other = tmp_path / "out.b.00000000-00000000.tmp"
    other.write_bytes(b"of another target")
    folder = tmp_path / "out1"
    shutil.rmtree(folder, ignore_errors=True)
    for k in "02":
        shutil.rmtree(f"{path}{k}", ignore_errors=True)
        with new_folder(f"{path}{k}"):
            pass
    with replacing(path) as file:
        file.write(b"first")
        file.flush()
        with replacing(path) as second, new_folder(folder):  # the first is alive, and stays
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", other.name, "out0", "out1", "out2"]


@pytest.mark.skipif(atomic.fcntl is None, reason="no locks of files")
def test_what_another_host_left_is_removed_when_it_is_old(tmp_path):
    left = tmp_path / "out.0123abcd-00000000.tmp"
    left.mkdir()
    inside = left / "a"
    inside.write_bytes(b"")
    old = time.time() - 2 * atomic.ABANDONED_SECONDS
    os.utime(left, (old, old))
    write_atomic(tmp_path / "out", b"")
    assert left.exists()  # what is in it is new
    os.utime(inside, (old, old))
    write_atomic(tmp_path / "out", b"")
    assert os.listdir(tmp_path) == ["out"]


def test_the_new_name_is_on_the_disk_when_the_block_ends(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def watched(descriptor):
        fsync(descriptor)
        done.append(os.fstat(descriptor).st_ino)

    def moved(*names):
        replace(*names)
        done.append("replaced")

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "replace", moved)
    path = tmp_path / "out"
    write_atomic(path, b"new")
    assert done == [path.stat().st_ino, "replaced", tmp_path.stat().st_ino]
    done.clear()
    with new_folder(tmp_path / "folder") as made:
        os.makedirs(os.path.join(made, "in"))
    places = [tmp_path / "folder" / "in", tmp_path / "folder"]
    assert done == [*[x.stat().st_ino for x in places], "replaced", tmp_path.stat().st_ino]

    def unable(descriptor):
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            raise OSError(22, "this file system does not")

    monkeypatch.setattr(os, "fsync", unable)
    write_atomic(path, b"newer")
    assert path.read_bytes() == b"newer"
