"""The formats we compare with: one number in, whole files out, growing with it."""

import numpy as np
import pytest

from jaxcomp.io import peers


def waves(height, width):
    y, x = np.mgrid[0:height, 0:width]
    grey = 128 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7 + x / 31)
    return np.stack([grey, grey[::-1], 255 - grey], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("peer", peers.available(), ids=lambda peer: peer.name)
def test_size_and_closeness_grow_with_the_setting(peer):
    image = waves(64, 96)
    sizes, errors = [], []
    for setting in peer.settings[::2]:
        data = peer.encode(image, setting)
        decoded = peers.decode(data)
        assert decoded.shape == image.shape and decoded.dtype == np.uint8
        sizes.append(len(data))
        errors.append(np.square(decoded.astype(float) - image).mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    grey = image[..., :1]
    assert peers.decode(peer.encode(grey, peer.settings[-1]), channels=1).shape == grey.shape


def test_jpeg_comes_first_and_is_the_anchor_everyone_knows():
    jpeg = peers.available()[0]
    assert jpeg.name == "JPEG" and jpeg.encode(waves(16, 16), 50)[:2] == b"\xff\xd8"
