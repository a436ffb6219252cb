"""Crops of a folder: the same for the same number, of any photo, past what cannot be read."""

import numpy as np
import pytest
from PIL import Image

from jaxcomp.base import JaxcompError
from jaxcomp.io.crops import RESAMPLING, SCALES, PhotoFolder, crop


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


def test_parts_of_a_batch_are_the_batch(folder):
    whole = PhotoFolder(folder).batch(48, 6, seed=3, step=11)
    for part in (slice(0, 2), slice(2, 3), slice(3, None)):
        alone = PhotoFolder(folder).batch(48, 6, seed=3, step=11, part=part)
        np.testing.assert_array_equal(alone, whole[part])


def scaled_then_cropped(pixels, size, rng):
    """What crop makes, from all of the scaled photo."""
    height, width = pixels.shape[:2]
    low = (size + 1) / (min(height, width) - 4)
    scale = rng.uniform(max(SCALES[0], low), max(SCALES[1], low))
    left, top = rng.uniform(0, 4, 2)
    box = (left, top, left + width - 4, top + height - 4)
    shape = max(size, int((width - 4) * scale)), max(size, int((height - 4) * scale))
    method = RESAMPLING[rng.integers(len(RESAMPLING))]
    scaled = np.asarray(Image.fromarray(pixels).resize(shape, method, box=box))
    y, x = (rng.integers(side - size + 1) for side in scaled.shape[:2])
    out = scaled[y : y + size, x : x + size]
    out = out[:, ::-1] if rng.random() < 0.5 else out
    return out.swapaxes(0, 1) if rng.random() < 0.5 else out


def test_a_crop_is_one_of_the_scaled_photo():
    rng = np.random.default_rng(0)
    for seed, shape in enumerate([(120, 90), (40, 300), (200, 200), (20, 30)] * 5):
        # Gentle noise: where filters overshoot 0..255, the order of the axes matters.
        pixels = rng.integers(90, 166, (*shape, 3), dtype=np.uint8)
        found = crop(pixels, 64, np.random.default_rng(seed)).astype(int)
        wanted = scaled_then_cropped(pixels, 64, np.random.default_rng(seed))
        assert np.abs(found - wanted).max() <= 1 and (found != wanted).mean() < 0.05


def test_no_more_is_scaled_than_is_kept(monkeypatch):
    sizes, resize = [], Image.Image.resize

    def spy(self, *arguments, **options):
        sizes.append(self.size)
        return resize(self, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", spy)
    crop(np.zeros((900, 1200, 3), np.uint8), 64, np.random.default_rng(0))
    assert len(sizes) == 1 and max(sizes[0]) < 64 / SCALES[0] + 20


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
