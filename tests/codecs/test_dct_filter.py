"""Restoration: the canvas holds every sample, zero weights change nothing, places are distances."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.codecs import dct_filter as filters


def test_the_canvas_is_the_photo_with_its_edges_repeated():
    rows, columns, margin = 2, 3, filters.MARGIN
    where, stride = filters.canvas_map(rows, columns, filters.canvas_size(4 * rows * columns))
    photo = np.arange(64 * 96).reshape(64, 96)
    blocks = photo.reshape(rows, 32, columns, 32).swapaxes(1, 2)
    canvas = blocks.reshape(-1)[where][: (64 + 2 * margin) * stride].reshape(-1, stride)
    np.testing.assert_array_equal(canvas, np.pad(photo, margin, mode="edge"))


def test_zero_weights_are_the_identity():
    rng = np.random.default_rng(0)
    size = filters.canvas_size(4)
    planes = jnp.asarray(rng.integers(-4000, 4000, (3, size)), jnp.int32)
    weights = jnp.zeros(
        (2, len(filters.TAPS), filters.THRESHOLDS, filters.PLACES * filters.TEXTURES), jnp.int32
    )
    place = jnp.zeros(size, jnp.int32)
    out = filters.restore(planes, place, jnp.int32(38), jnp.int32(500), weights)
    np.testing.assert_array_equal(out, planes)


def test_places_are_distances_to_the_edges_of_blocks():
    whole, halves = filters.places(jnp.array([[0] * 4, [4] * 4], jnp.int32))
    far = np.minimum(np.arange(32), 31 - np.arange(32)).clip(max=2)
    np.testing.assert_array_equal(whole, 3 * far[:, None] + far)
    near = np.minimum(np.arange(32) % 8, 7 - np.arange(32) % 8).clip(max=2)
    np.testing.assert_array_equal(halves, 3 * near[:, None] + near)
