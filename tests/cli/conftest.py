"""What the tests of commands share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcomp.cli.main import main
from jaxcomp.codecs import files
from jaxcomp.codecs.header import Home


@pytest.fixture
def workplace(monkeypatch, tmp_path):
    """A folder of its own, a quick codec behind every name, and nobody's compilation cache."""
    monkeypatch.chdir(tmp_path)
    for name in ("dct", "learned", "toy"):
        monkeypatch.setitem(files.CODECS, name, Home("tests.toy_codec", "toy", None))
    monkeypatch.setattr("jaxcomp.cli.common.start_jax", lambda **_: None)
    for cached in (files.find, files._shipped_hash):
        cached.cache_clear()
    yield tmp_path
    for cached in (files.find, files._shipped_hash):
        cached.cache_clear()


@pytest.fixture
def photo():
    """Write a photo of noise; returns its pixels."""

    def write(name, height=23, width=31, **options):
        pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name, **options)
        return pixels

    return write


@pytest.fixture
def refused(capsys):
    """Run what must fail; returns the one line it says."""

    def run(*arguments, code=2):
        assert main([str(a) for a in arguments]) == code
        out, err = capsys.readouterr()
        assert out == "" and err.endswith("\n") and err.count("\n") == 1, err
        assert err.startswith("jaxcomp: error: ")
        return err

    return run


@pytest.fixture
def process(tmp_path):
    """Run python in a process of its own, in a folder and with caches of its own."""

    def run(*arguments, code=None):
        done = subprocess.run(
            [sys.executable, *(["-c", code] if code else ["-m", "jaxcomp"]), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(files.__file__).parents[2]),
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
            },
        )
        return done.returncode, done.stdout, done.stderr

    return run
