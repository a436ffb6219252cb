"""Two processes that talk over loopback: the losses of one process with as many devices."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("process.py")


def run(processes, devices):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, (rank, processes, port, devices))],
            stdout=subprocess.PIPE,
            text=True,
            cwd=SCRIPT.parents[2],
        )
        for rank in range(processes)
    ]
    outs = [process.communicate(timeout=300)[0] for process in running]
    assert all(process.returncode == 0 for process in running)
    return [
        dict(line.split() for line in out.splitlines() if len(line.split()) == 2) for out in outs
    ]


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_to_the_last_bit():
    (alone,) = run(1, 4)
    first, second = run(2, 2)
    assert set(alone) == {"identity", "sign", "top_k"}
    assert first == second == alone
    for name, found in alone.items():
        losses = np.frombuffer(bytes.fromhex(found), np.float32).reshape(10, 4).mean(1)
        assert losses[-1] < 0.8 * losses[0], name
