"""What training sees: gradients everywhere, and a rate and an image that a file really has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.codecs import latent_codec, latent_coding
from jaxcomp.codecs.latent_codec import Design
from tests.codecs import designs

DESIGN = Design("channel_conditional", (24, 8), side=8, width=16, passes=(2,))


QUALITY = 60.0


@pytest.fixture(scope="module")
def image():
    y, x = np.mgrid[0:64, 0:64]
    waves = [128 + 90 * np.sin(x / 8 + c) * np.cos(y / 9) for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def seen(image):
    """Images and bits as training sees them, and the gradient of their sum; noise beside waves."""
    noise = np.random.default_rng(2).uniform(0, 255, image.shape)
    images, quality = jnp.asarray(np.stack([image, noise]), jnp.float32), jnp.full(2, QUALITY)

    def loss(params):
        found, bits = latent_codec.train(DESIGN, params, images, jax.random.key(1), quality)
        return jnp.mean((found - images) ** 2) + bits.sum(), (found, bits)

    program = jax.jit(jax.grad(loss, has_aux=True), compiler_options=designs.QUICK)
    gradient, (found, bits) = program(designs.initial(DESIGN))
    return found[0], float(bits[0]), gradient


def test_training_sees_what_a_file_costs_and_shows(image, seen):
    found, bits, _ = seen
    codec = latent_coding.latent_codec(DESIGN)
    decoded, real = codec.apply(designs.initial(DESIGN), image, quality=QUALITY)
    # The image is the decoder's up to rounding; the rate one under noise, of channels that a file
    # may leave out as well.
    np.testing.assert_allclose(found, decoded, atol=3.0)
    assert 0.9 * real < bits < 1.5 * real


def test_every_parameter_learns(seen):
    flat = jax.tree_util.tree_leaves_with_path(seen[-1])
    still = [jax.tree_util.keystr(path) for path, leaf in flat if not (np.asarray(leaf) != 0).any()]
    # Layers behind one that begins at 0 wait for it.
    allowed = ("analysis", "spread", "factors", "expand_0']['kernel")
    assert all(np.isfinite(leaf).all() for _, leaf in flat)
    assert [path for path in still if not any(name in path for name in allowed)] == []
