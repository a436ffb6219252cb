"""Mutated files of the dct codec: a sample of benchmarks/fuzz.py, and proof that it can fail."""

from importlib import resources

import numpy as np
import pytest

import jaxcomp as jc
from benchmarks import fuzz
from jaxcomp.codecs import files
from jaxcomp.io.photo import read_photo


@pytest.fixture(scope="module")
def stored():
    """Files of several sizes and qualities, and their images."""
    photo = resources.files("jaxcomp.cli").joinpath("demo_photo", "chelsea.png").read_bytes()
    return fuzz.samples(jc.codecs.dct(), read_photo(photo, max_pixels=1 << 20).pixels)


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_a_named_error_or_an_image_of_the_stated_size(stored, sealed):
    outcomes = fuzz.check(*stored, count=150, sealed=sealed, seed=1)
    assert len({outcome.kind for outcome in outcomes}) == 7
    results = {outcome.result for outcome in outcomes}
    assert "CorruptStream" in results
    assert ("image" in results) == sealed
    assert max(outcome.seconds for outcome in outcomes) < 60


def test_the_fuzzer_notices(stored, monkeypatch):
    def careless(data, *, max_pixels):
        return files.decode(files.unpack(data), max_pixels=max_pixels)[:, ::-1]

    monkeypatch.setattr(fuzz, "load", careless)
    with pytest.raises(fuzz.Broken, match="a wrong image"):
        fuzz.check(*stored, count=150, sealed=False, seed=1)

    def crashes(data, *, max_pixels):
        raise IndexError("out of range")

    monkeypatch.setattr(fuzz, "load", crashes)
    with pytest.raises(fuzz.Broken, match="IndexError: out of range"):
        fuzz.check(*stored, count=1, sealed=True, seed=1)
    monkeypatch.setattr(fuzz, "load", lambda data, max_pixels: np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(fuzz.Broken, match="no container"):
        fuzz.check(*stored, count=1, sealed=True, seed=1)
    monkeypatch.setattr(
        fuzz, "load", lambda data, max_pixels: files.load(data, max_pixels=max_pixels)[:-1]
    )
    with pytest.raises(fuzz.Broken, match="stated"):
        fuzz.check(*stored, count=150, sealed=True, seed=1)


def test_sealing_gives_fitting_checksums(stored):
    data = stored[0][0]
    damaged = bytearray(data)
    damaged[-20] ^= 1
    damaged[-5:-1] = bytes(4)
    with pytest.raises(jc.CorruptStream):
        files.unpack(bytes(damaged))
    assert files.unpack(fuzz.seal(bytes(damaged))).header == files.unpack(data).header
    assert fuzz.seal(data) == data == fuzz.unseal(fuzz.seal(data), data)
    assert fuzz.seal(data[:7]) == data[:7]
