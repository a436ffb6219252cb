"""Grids of equal tiles: every pixel once, and everything that is needed around it."""

import numpy as np
import pytest

from jaxcomp.codecs import latent_tiles
from jaxcomp.codecs.latent_codec import UNIT
from jaxcomp.codecs.latent_transforms import BLOCK

SHAPES = [(1, 1), (64, 1000), (129, 128), (300, 641), (512, 385)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(latent_tiles, "TILE", 128)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("halo", [0, 1, 5])
def test_tiles_cover_a_photo_and_windows_what_is_around_them(shape, halo):
    padded = latent_tiles.padded_shape(*shape)
    found = list(latent_tiles.tiles(*shape, halo=halo))
    assert len(found) == latent_tiles.count_tiles(*shape)
    times = np.zeros(padded, int)
    for box, window in found:
        times[box.slices()] += 1
        for start, length, seen, seen_length, whole in zip(
            box[:2], box[2:], window[:2], window[2:], padded, strict=True
        ):
            assert length % UNIT == 0 and length <= latent_tiles.TILE
            assert seen % BLOCK == 0 and seen_length % BLOCK == 0
            assert 0 <= seen <= start and start + length <= seen + seen_length <= whole
            assert seen + seen_length >= min(start + length + halo * BLOCK, whole)
            assert seen <= max(start - halo * BLOCK, 0)
    assert (times == 1).all()
    assert len({(*box[2:], *window[2:]) for box, window in found}) == 1, "several programs"
    # The padded photo has the same tiles: what follows from either is the same.
    assert found == list(latent_tiles.tiles(*padded, halo=halo))


def test_tiles_are_as_even_as_whole_units_allow(monkeypatch):
    assert latent_tiles.tile_sides(128) == (1, 128)
    assert latent_tiles.tile_sides(65) == (1, 128)
    assert latent_tiles.tile_sides(129) == (2, 128)
    assert latent_tiles.tile_sides(3 * 64) == (2, 128)
    monkeypatch.setattr(latent_tiles, "TILE", 1024)
    assert latent_tiles.tile_sides(1025) == (2, 576)
    assert latent_tiles.tile_sides(4000) == (4, 1024)
    assert latent_tiles.padded_shape(3000, 2100) == (3072, 2112)


def test_windows_are_cut_as_from_a_padded_photo():
    photo = np.random.default_rng(0).integers(0, 256, (300, 250, 3), np.uint8)
    height, width = latent_tiles.padded_shape(300, 250)
    padded = np.pad(photo, ((0, height - 300), (0, width - 250), (0, 0)), mode="edge")
    for tile in latent_tiles.tiles(300, 250, halo=1):
        for box in tile:
            np.testing.assert_array_equal(latent_tiles.cut(photo, box), padded[box.slices()])
    assert latent_tiles.one_tile(300, 250) == (0, 0, 320, 256)


def test_boxes_count_from_the_corner_of_others():
    box = latent_tiles.Box(128, 64, 64, 128)
    assert box.within(latent_tiles.Box(112, 64, 96, 160)) == (16, 0, 64, 128)
    assert box.slices(16) == (slice(8, 12), slice(4, 12))
