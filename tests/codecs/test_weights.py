"""Weights as files: what a decoder needs comes back as it was, and files name what made them."""

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.codecs import latent_coding
from jaxcomp.codecs.weights import load_weights, save_weights, weights_hash
from jaxcomp.coding import container
from tests.codecs import designs

CODEC = latent_coding.latent_codec(designs.MEAN_SCALE)


@pytest.fixture(scope="module")
def data():
    return save_weights(CODEC, designs.initial(designs.MEAN_SCALE))


def test_a_file_decodes_with_loaded_weights_and_no_others(data):
    codec, params = load_weights(data)
    assert codec.name == "mean_scale" and save_weights(codec, params) == data
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = jc.codecs.save(codec, image, params=params, quality=30)
    assert container.unpack(file).header["model"] == weights_hash(params)
    back = jc.codecs.load(file, weights=load_weights(data))
    np.testing.assert_array_equal(back, codec.apply(params, image, quality=30)[0])
    with pytest.raises(jc.UnsupportedInput, match="ships no weights"):
        jc.codecs.load(file)
    other = params._replace(side=params.wide)
    with pytest.raises(jc.UnsupportedInput, match=weights_hash(params)):
        jc.codecs.load(file, weights=(codec, other))
    with pytest.raises(jc.UnsupportedInput, match="ships no weights"):
        jc.codecs.save(codec, image)


def test_other_files_and_other_arrays_are_refused(data):
    opened = container.unpack(data)
    with pytest.raises(jc.UnsupportedInput, match="of codec dct"):
        load_weights(container.pack("dct", {}, {}))
    header, arrays = opened.header, opened.sections["arrays"]
    for bad, section in (
        (header | {"codec_name": "dct"}, arrays),
        (header | {"arrays": header["arrays"][:-1]}, arrays),
        (header | {"arrays": [["a", "<f8", [2]]]}, arrays),
        (header | {"arrays": [["a", "<i4", [2**27]]]}, arrays),
        (header | {"design": None}, arrays),
        (header, arrays[:-4]),
    ):
        with pytest.raises(jc.JaxcompError, match="expected"):
            load_weights(container.pack("weights", bad, {"arrays": section}))
    with pytest.raises(jc.UnsupportedInput, match="expected one of"):
        save_weights(jc.codecs.dct(), {})
