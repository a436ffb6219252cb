"""Crops of a folder: the same for the same number, of any photo, past what cannot be read."""

import numpy as np
import pytest
from PIL import Image

from jaxcomp.base import JaxcompError
from jaxcomp.io.crops import PhotoFolder, crop


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (90, 70, 3)), ("b.jpg", (64, 200, 3)), ("c.png", (80, 80))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_a_batch_depends_on_seed_and_number_alone(folder):
    first = PhotoFolder(folder).batch(48, 6, seed=3, step=11)
    again = PhotoFolder(folder, cache_bytes=1)  # a cache that holds a single photo
    again.batch(48, 2, seed=3, step=0)
    assert first.shape == (6, 48, 48, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(again.batch(48, 6, seed=3, step=11), first)
    assert (again.batch(48, 6, seed=3, step=12) != first).any()
    assert (again.batch(48, 6, seed=4, step=11) != first).any()


def test_what_cannot_be_read_is_reported_once_and_left_out(folder):
    (folder / "bad.png").write_bytes(b"not a photo")
    Image.new("L", (9, 40)).save(folder / "small.png")
    photos = PhotoFolder(folder)
    with pytest.warns(UserWarning, match="is left out") as caught:
        for step in range(8):
            photos.batch(32, 4, seed=0, step=step)
    assert len(caught) == 2
    assert {path.name for path in photos.unreadable} == {"bad.png", "small.png"}


def test_nothing_to_read_is_named(tmp_path):
    with pytest.raises(JaxcompError, match="found none"):
        PhotoFolder(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"not a photo")
    with pytest.raises(JaxcompError, match="none can be read"):
        PhotoFolder(tmp_path).batch(32, 1, seed=0, step=0)


def test_an_earlier_grid_of_blocks_is_gone():
    # Blocks of 8 x 8 with random means: an energy of differences at every eighth column.
    blocks = np.random.default_rng(1).integers(0, 256, (40, 40, 1), dtype=np.uint8)
    pixels = np.kron(blocks, np.ones((8, 8, 3), np.uint8))
    energy = np.zeros(8)
    for seed in range(40):
        out = crop(pixels, 96, np.random.default_rng(seed)).astype(float)[..., 0]
        steps = np.abs(np.diff(out, axis=1)).sum(0)
        energy += np.bincount(np.arange(95) % 8, steps, 8)
    before = np.abs(np.diff(pixels[..., 0].astype(float), axis=1)).sum(0)
    assert np.bincount(np.arange(319) % 8, before, 8).max() == before.sum()
    assert energy.max() < 1.2 * energy.mean()
