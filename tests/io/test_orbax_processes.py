"""Checkpoints of several processes, of one that is killed, and without this library."""

import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jaxcomp as jc

SCRIPT = Path(__file__).with_name("orbax_process.py")
WITHOUT = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
sys.modules["jaxcomp"] = None  # import jaxcomp fails
import orbax.checkpoint as ocp
tree = ocp.PyTreeCheckpointer().metadata(sys.argv[1]).item_metadata.tree
print(*(f"{k}:{tree[k].dtype}:{tree[k].shape}" for k in sorted(tree)), sep=";")
"""


def start(rank, processes, port, devices, folder, action):
    arguments = map(str, (rank, processes, port, devices, folder, action))
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=SCRIPT.parents[2],
    )


def run(processes, devices, folder, action):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [start(k, processes, port, devices, folder, action) for k in range(processes)]
    outs = [process.communicate(timeout=300)[0] for process in running]
    assert all(process.returncode == 0 for process in running)
    return outs


@pytest.mark.slow
@pytest.mark.parametrize("saved, restored", [((2, 2), (1, 8)), ((1, 2), (2, 2)), ((2, 1), (2, 4))])
def test_processes_restore_what_others_saved(tmp_path, saved, restored):
    run(*saved, tmp_path / "x", "save")
    assert all("same" in out for out in run(*restored, tmp_path / "x", "restore"))
    shards = {}
    for path in (tmp_path / "x").glob("jaxcomp.arrays.*.jxc"):
        with jc.io.open_tensors(path) as file:
            shards[path.name] = file.names
    assert len(shards) == saved[0]
    written = [name for names in shards.values() for name in names]
    assert len(set(written)) == len(written) == 4 + 2 * saved[0] * saved[1]
    for names in shards.values():  # each process has some of the replicated ones
        assert any(name.startswith("whole") for name in names)


@pytest.mark.slow
def test_metadata_lists_where_jaxcomp_is_not_installed(tmp_path):
    run(1, 2, tmp_path / "x", "save")
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "x")]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    listed = out.splitlines()[-1].split(";")
    assert listed[0] == "columns:bfloat16:(8, 8)"
    assert listed[1:4] == ["numpy:float32:(8,)", "rows:float32:(8, 8)", "step:int64:()"]


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on_from_a_step_that_is_whole(tmp_path):
    chance, last, cut_short = random.Random(0), None, 0
    for _ in range(8):
        process = start(0, 1, 0, 2, tmp_path / "x", "loop")
        found = process.stdout.readline().split()  # it has compared what it found
        assert found[0] == "found"
        assert last is None or int(found[1]) >= last
        last = None if found[1] == "None" else int(found[1])
        for _ in range(chance.randrange(1, 4)):
            assert process.stdout.readline().startswith("save")
        time.sleep(chance.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        cut_short += any("tmp" in path.name for path in (tmp_path / "x").iterdir())
    assert last and cut_short  # 7 of 8 here
