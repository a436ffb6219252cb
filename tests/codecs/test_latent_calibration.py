"""Counted tables code what they were counted from, and its like, in fewer bits."""

import numpy as np
import pytest

from jaxcomp.codecs import latent_coding
from jaxcomp.codecs.latent_calibration import calibrate
from tests.checks import check_codec
from tests.codecs import designs

CODEC = latent_coding.latent_codec(designs.MEAN_SCALE)


def photo(seed):
    """Flat areas and edges: latents whose tails are heavier than a Gaussian's."""
    rng = np.random.default_rng(seed)
    image = np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((8, 8, 1)))
    return (image + rng.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def frozen():
    return designs.frozen(designs.MEAN_SCALE)


def test_counted_tables_code_in_fewer_bits_and_decode(frozen):
    counted = calibrate(CODEC, frozen, (photo(i) for i in range(6)))
    other = photo(100)
    before, after = (CODEC.apply(params, other, quality=60) for params in (frozen, counted))
    np.testing.assert_array_equal(before[0], after[0])
    assert after[1] < 0.9 * before[1]
    codec = CODEC._replace(init=lambda key=None: counted)
    check_codec(codec, other, quality=60)


def test_rows_that_never_occur_keep_the_gaussian(frozen):
    counted = calibrate(CODEC, frozen, [])
    np.testing.assert_array_equal(counted.wide.entries, frozen.wide.entries)
    np.testing.assert_array_equal(counted.narrow.entries, frozen.narrow.entries)
