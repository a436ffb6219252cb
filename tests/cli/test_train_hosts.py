"""Hosts share a run: it ends as the run of one host, or fails on all of them, by name."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcomp.cli.main import main
from tests.cli.toy_training import steps, weights

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(3):
        pixels = np.kron(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8), np.ones((8, 8, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(f"photos/{i}.png")
    Path("photos/bad.png").write_bytes(b"not a photo")
    return "photos"


def start(*arguments, devices=1):
    """A process with its own devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    sizes = ["--data", "photos", "--crop", "64", "--batch", "8", "--every", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cli.toy_training", "train", "image", *sizes, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(*each, devices=1):
    """(status, standard output, standard error) of hosts that run at once."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"localhost:{free.getsockname()[1]}"
    count = str(len(each))
    running = [
        start(*arguments, "--hosts", where, count, str(index), devices=devices)
        for index, arguments in enumerate(each)
    ]
    outputs = [process.communicate(timeout=240) for process in running]
    return [(p.returncode, *output) for p, output in zip(running, outputs, strict=True)]


@pytest.mark.slow  # seven processes that load jax
def test_two_hosts_train_as_one(photos):
    command = "--still", "", "--steps", "6", "--learning-rate", "0.01", "--out"
    first, second = together(*[[*command, "two"]] * 2, devices=2)
    assert first[0] == second[0] == 0, first[2] + second[2]
    # Gloo writes to standard output on its own.
    assert first[1].count("step ") == 3 and "step " not in second[1]
    assert len(Path("two/log.jsonl").read_text().splitlines()) == 3
    assert "bad.png" in first[2] + second[2] and steps(Path("two")) == [4, 6]
    alone = start(*command, "one")
    assert alone.communicate(timeout=240)[1].count("bad.png") == 1 and alone.returncode == 0
    ended, expected = weights(Path("two")), weights(Path("one"))
    for name, value in expected.items():
        # Gradients are summed in another order: 2**-24 of them, of steps of 0.01. Weights are below
        # 0.5; other crops or other noise would move them by a step.
        np.testing.assert_allclose(ended[name], value, rtol=0, atol=1e-6, err_msg=name)

    before = Path("two/weights.jxw").read_bytes()
    Path("two/weights.jxw").unlink()
    for status, _, errors in together(*[[*command, "two", "--resume"]] * 2):
        assert status == 0, errors
    assert Path("two/weights.jxw").read_bytes() == before

    for status, output, errors in together([*command, "3"], [*command, "3", "--seed", "2"]):
        assert status == 2 and "step " not in output and "share their settings" in errors
    assert not Path("3").exists()


@pytest.mark.parametrize(
    "where",
    [["nonsense"], ["host:1", "2"], ["host", "2", "0"], ["host:1", "2", "2"], ["host:1", "x", "0"]],
)
def test_hosts_are_named_in_full(photos, capsys, where):
    assert main(["train", "image", "--data", photos, "--hosts", *where]) == 2
    assert "expected --hosts ADDRESS:PORT COUNT INDEX" in capsys.readouterr().err
    assert not Path("run").exists()
