"""The shipped codec: files of every version decode to pinned images, in every way of running.

The golden files are save(learned(), crop of the demo photo, quality=40) and 30. Weights of before
are golden, too: the first are of another design (a list in its header, blocks of 16 alone), and
files of theirs hold side information in a stream of its own.
"""

import functools
import hashlib
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.codecs import files, latent_coding, latent_stream
from jaxcomp.codecs.latent_macs import decoder_macs_per_pixel
from jaxcomp.codecs.weights import load_weights
from jaxcomp.coding import container
from jaxcomp.io.photo import read_photo
from jaxcomp.measures import psnr_db

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGES = {
    "learned_v1.jxc": "540694b1ca48260bfe533a46bd5f0ae52665c3f148b592fd952aa626046810dd",
    "learned_v1_small.jxc": "ef24699fc03ebc8c36690996cf6be0a9146af4d5eb068a90a8dadb0c56139cc3",
    "learned_v2.jxc": "632bb6928f67dd0eeccae2d111a7fc880bba2d6e91601dfd67e10ed4599885cd",
    "learned_v2_small.jxc": "5650744d254450640b2bfebf1ee0f71328a40d0bd30b94d1dd24a5bbf231d6af",
    "learned_v3.jxc": "5a4e12bfb4ba40c3bcc6be0094ee0c75295bc94b8901c1af2a169a7677c25fdf",
    "learned_v3_small.jxc": "c4026425903fd51fe23e7f19f70a7b96addcc35b608cedf6860c51fbdbf3e2b2",
}
SMALL = "learned_v3_small.jxc"


@pytest.fixture(scope="module")
def photo():
    data = resources.files("jaxcomp.cli").joinpath("demo_photo", "chelsea.png").read_bytes()
    return read_photo(data, max_pixels=1 << 20).pixels


@functools.cache
def weights(name):
    """Those that wrote a golden file: None, which ship, or of a file beside it."""
    path = GOLDEN / f"{name[:10]}.jxw"
    return load_weights(path.read_bytes()) if path.exists() else None


def sha256(image):
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()


@pytest.mark.parametrize("name", IMAGES)
def test_golden_files_decode_to_pinned_images(name):
    image = jc.codecs.load((GOLDEN / name).read_bytes(), weights=weights(name))
    assert sha256(image) == IMAGES[name]


def test_other_weights_are_named():
    data = (GOLDEN / "learned_v1_small.jxc").read_bytes()
    with pytest.raises(jc.UnsupportedInput, match="ships .* pass the weights"):
        jc.codecs.load(data)
    data = (GOLDEN / SMALL).read_bytes()
    with pytest.raises(jc.UnsupportedInput, match="these weights are"):
        jc.codecs.load(data, weights=weights("learned_v1.jxc"))


def test_four_at_once_are_the_same(monkeypatch):
    """The compiled programs of decoding, on four copies in one call."""

    def four(program, batched, *arguments):
        def one(*copies):
            full = list(arguments)
            for place, copy in zip(batched, copies, strict=True):
                full[place] = copy
            return program(*full)

        copies = [
            jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 4), arguments[i]) for i in batched
        ]
        found = jax.vmap(one)(*copies)
        for leaf in jax.tree.leaves(found):
            np.testing.assert_array_equal(leaf, jnp.broadcast_to(leaf[:1], leaf.shape))
        return jax.tree.map(lambda x: x[3], found)

    for module, name, batched in (
        (latent_stream, "_read", (3, 4)),
        (latent_coding, "_paint", (3,)),
    ):
        program = functools.partial(four, getattr(module, name), batched)
        monkeypatch.setattr(module, name, program)
    assert sha256(jc.codecs.load((GOLDEN / SMALL).read_bytes())) == IMAGES[SMALL]


@pytest.mark.slow  # operation by operation, two minutes
def test_without_jit_it_is_the_same():
    jc.codecs.learned().init()
    with jax.disable_jit():
        assert sha256(jc.codecs.load((GOLDEN / SMALL).read_bytes())) == IMAGES[SMALL]


def test_a_file_is_what_was_promised(photo):
    codec, crop = jc.codecs.learned(), photo[40:200, 120:260]
    promised, bits = codec.apply(codec.init(), crop, quality=40)
    data = jc.codecs.save(codec, crop, quality=40)
    np.testing.assert_array_equal(jc.codecs.load(data), promised)
    header, sections = (opened := container.unpack(data)).header, opened.sections
    size = 8 * len(sections["data"])
    assert 0.99 * bits <= size <= 1.01 * bits + latent_stream.OVERHEAD_BITS
    assert header["model"] == files.model_hash("learned")
    assert float(psnr_db(crop, promised)) > 28


@pytest.mark.parametrize("bpp", [0.5, 3.0])
def test_files_keep_a_rate(photo, bpp):
    crop = photo[40:200, 120:260]
    size = 8 * len(jc.codecs.save(jc.codecs.learned(), crop, bpp=bpp))
    assert 0.9 * bpp < size / crop[..., 0].size <= bpp


@pytest.mark.parametrize("quality", [10, 90])
def test_bits_are_those_of_the_tables(photo, quality):
    codec, crop = jc.codecs.learned(), photo[40:200, 120:260]
    params = codec.init()
    ideal = codec.apply(params, crop, quality=quality)[1]
    payload = codec.encode(params, crop, quality=quality)
    ((_, _, stream),) = latent_stream._split(payload.sections["data"], 1)[1]
    assert abs(8 * len(stream) - ideal) <= 0.005 * ideal + 32 * latent_stream.LANES


def test_the_decoder_is_small():
    path = resources.files("jaxcomp.codecs").joinpath("learned.jxw")
    data = path.read_bytes()
    design = load_weights(data)[0].init.args[0]
    assert decoder_macs_per_pixel(design).total < 10_000
    assert len(data) <= 4_000_000
    assert container.unpack(data).header["macs_per_pixel"] == round(
        decoder_macs_per_pixel(design).total
    )
