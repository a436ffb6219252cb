"""save and load: the image comes back in the stated shape, or a named error."""

import os
import subprocess
import sys

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.codecs import files, header
from jaxcomp.codecs.header import Home
from jaxcomp.coding import container
from tests.toy_codec import toy


@pytest.fixture(autouse=True)
def toy_behind_the_name(monkeypatch):
    monkeypatch.setitem(files.CODECS, "toy", Home("tests.toy_codec", "toy", None))
    files.find.cache_clear()
    files._shipped_hash.cache_clear()
    yield
    files.find.cache_clear()
    files._shipped_hash.cache_clear()


def picture(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def repacked(data, **changes):
    """A file with parts of its container replaced and every checksum fitting."""
    return container.pack(*container.unpack(data)._replace(**changes)[1:])


@pytest.mark.parametrize("shape", [(1, 1, 3), (17, 31, 3), (8, 5, 1), (9, 4)])
def test_load_returns_what_apply_promised(shape):
    codec, image = toy(), picture(*shape)
    data = jc.codecs.save(codec, image, quality=70)
    promised, _ = codec.apply(codec.init(), image, quality=70)
    loaded = jc.codecs.load(data)
    assert loaded.shape == shape and loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, promised)


@pytest.mark.parametrize(
    "image",
    [
        picture(4, 4, 3).astype(np.uint16),
        picture(4, 4, 3) / 255,
        picture(4),
        picture(0, 4, 3),
        picture(2, 4, 4, 3),
    ],
)
def test_save_refuses_what_is_no_8_bit_image(image):
    with pytest.raises(jc.UnsupportedInput, match="uint8.*got"):
        jc.codecs.save(toy(), image)


def test_sizes_are_refused_before_the_codec_is_asked():
    data = jc.codecs.save(toy(), picture(4, 4, 3))
    fields = container.unpack(data).header
    for shape in ([2**62, 2**62, 3], [2**31, 1, 3], [header.MAX_PIXELS + 1, 1, 1]):
        lying = repacked(data, codec="toy", header={**fields, "shape": shape})
        with pytest.raises(jc.UnsupportedInput, match="at most 134217728 pixels.*max_pixels"):
            jc.codecs.load(lying)
    with pytest.raises(jc.UnsupportedInput, match="at most 15 pixels, got 4 x 4 = 16"):
        jc.codecs.load(data, max_pixels=15)
    assert jc.codecs.load(data, max_pixels=16).shape == (4, 4, 3)
    with pytest.raises(jc.CorruptStream, match="codes"):
        jc.codecs.load(repacked(data, header={**fields, "shape": [4, 5, 3]}))


def test_a_codec_that_returns_another_shape_is_caught(monkeypatch):
    import tests.toy_codec

    codec = toy()._replace(decode=lambda params, payload: np.zeros((2, 2, 3), np.uint8))
    monkeypatch.setattr(tests.toy_codec, "toy", lambda: codec)
    data = jc.codecs.save(toy(), picture(4, 4, 3))
    with pytest.raises(jc.CorruptStream, match=r"expected an image uint8\[4, 4, 3\]"):
        jc.codecs.load(data)


def test_unknown_codec():
    data = jc.codecs.save(toy(), picture(4, 4, 3))
    with pytest.raises(jc.UnsupportedInput, match="'jpeg9'.*install the version that wrote it"):
        jc.codecs.load(repacked(data, codec="jpeg9"))
    with pytest.raises(jc.UnsupportedInput, match="got 'nope'"):
        files.find("nope")


def test_a_file_names_the_model_that_wrote_it(monkeypatch, tmp_path):
    monkeypatch.setattr(files.importlib.resources, "files", lambda package: tmp_path)
    monkeypatch.setitem(files.CODECS, "toy", Home("tests.toy_codec", "toy", "m.npz"))

    def ship(**arrays):
        np.savez(tmp_path / "m.npz", **arrays)
        files._shipped_hash.cache_clear()
        return files.model_hash("toy")

    first = ship(a=np.arange(5, dtype=np.int16), b=np.zeros((2, 3), np.uint8))
    data = jc.codecs.save(toy(), picture(4, 4, 3))
    assert container.unpack(data).header["model"] == first and len(first) == 8
    assert first == ship(b=np.zeros((2, 3), np.uint8), a=np.arange(5, dtype=">i2"))
    assert jc.codecs.load(data).shape == (4, 4, 3)
    other = ship(a=np.arange(1, 6, dtype=np.int16), b=np.zeros((2, 3), np.uint8))
    assert len({first, other, ship(a=np.arange(5)), ship(b=np.arange(5))}) == 4
    with pytest.raises(jc.UnsupportedInput, match=f"{first}.*install the version that wrote it"):
        jc.codecs.load(data)


def test_icc_profile_travels():
    image, profile = picture(5, 6, 3), os.urandom(600)
    data = jc.codecs.save(toy(), image, icc=profile)
    assert header.icc_profile(container.unpack(data)) == profile
    np.testing.assert_array_equal(
        jc.codecs.load(data), jc.codecs.load(jc.codecs.save(toy(), image))
    )
    with pytest.raises(jc.UnsupportedInput, match="ICC"):
        jc.codecs.save(toy(), image, icc=bytes(header.ICC_LIMIT + 1))


def test_parameters_are_read_once():
    calls = []
    codec = toy()

    def init(key=None):
        calls.append(1)
        return codec.init()

    for seed in range(3):
        jc.codecs.save(codec._replace(init=init), picture(4, 4, 3, seed=seed))
    assert len(calls) == 1


def test_package_names_load_lazily_and_keep_their_meaning():
    code = """
import sys, jaxcomp as jc, jaxcomp.codecs.files
from jaxcomp.codecs.header import image_shape
assert "jax" not in sys.modules
assert {"save", "load", "dct"} <= set(dir(jc.codecs)) and "coding" in dir(jc)
assert jc.codecs.save is jaxcomp.codecs.files.save
assert jc.CorruptStream.__mro__[1] is jc.JaxcompError
for owner in (jc, jc.codecs):
    try:
        owner.nothing
    except AttributeError as error:
        assert "nothing" in str(error)
    else:
        raise SystemExit("expected an AttributeError")
# A submodule and the function it is named after share a name: the function wins.
import types
module = types.ModuleType("jaxcomp.codecs.dct")
module.dct = lambda: "the function"
jc.codecs.dct = module
assert jc.codecs.dct() == "the function"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
