"""A run that is killed goes on from its checkpoint with the losses that it would have had."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("training.py")
STEPS = 30


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), str(STEPS)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=SCRIPT.parents[2],
    )


def losses(process, until=STEPS):
    """{step: loss}; killed once the step is printed."""
    found = {}
    for line in process.stdout:
        number, loss = line.split()
        found[int(number)] = loss
        if int(number) == until:
            break
    if until < STEPS:
        process.kill()
    process.stdout.close()
    process.wait(60)
    return found


@pytest.mark.slow
def test_a_killed_run_resumes_with_identical_losses(tmp_path):
    whole = losses(start(tmp_path / "whole"))
    assert list(whole) == list(range(1, STEPS + 1)) and len(set(whole.values())) == STEPS
    found, drawn = {}, random.Random(4)
    for until in (drawn.randint(3, 12), drawn.randint(13, 25), STEPS):
        again = losses(start(tmp_path / "killed"), until)
        assert min(again) > 1 or not found  # it did go on
        for number, loss in again.items():
            assert found.setdefault(number, loss) == loss
    assert found == whole
