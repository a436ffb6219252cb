"""What training sees: gradients everywhere, and a rate and an image that a file really has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.codecs import latent_codec, latent_coding
from jaxcomp.codecs.latent_codec import Design

DESIGN = Design("channel_conditional", (24, 8), side=8, width=16, passes=(2,))


def test_training_sees_what_a_file_costs_and_shows():
    params = latent_codec.init(DESIGN, jax.random.key(0))
    y, x = np.mgrid[0:64, 0:64]
    image = np.stack([128 + 90 * np.sin(x / 8 + c) * np.cos(y / 9) for c in range(3)], -1)
    image = image.astype(np.uint8)
    see = jax.jit(functools.partial(latent_codec.train, DESIGN))
    images, quality = jnp.asarray(image, jnp.float32)[None], jnp.full(1, 60.0)
    found, bits = see(params, images, jax.random.key(1), quality)
    codec = latent_coding.latent_codec(DESIGN)
    decoded, real = codec.apply(params, image, quality=60)
    # The image is the decoder's up to rounding; the rate one under noise, of channels that a file
    # may leave out as well.
    np.testing.assert_allclose(found[0], decoded, atol=3.0)
    assert 0.9 * real < float(bits[0]) < 1.5 * real


def test_every_parameter_learns():
    params = latent_codec.init(DESIGN, jax.random.key(0))
    images = jax.random.uniform(jax.random.key(2), (1, 64, 64, 3), maxval=255.0)

    @jax.jit
    def gradient(params):
        def loss(params):
            found, bits = latent_codec.train(
                DESIGN, params, images, jax.random.key(3), jnp.full(1, 50.0)
            )
            return jnp.mean((found - images) ** 2) + bits.sum()

        return jax.grad(loss)(params)

    flat = jax.tree_util.tree_leaves_with_path(gradient(params))
    still = [jax.tree_util.keystr(path) for path, leaf in flat if not (np.asarray(leaf) != 0).any()]
    # Layers behind one that begins at 0 wait for it.
    allowed = ("analysis", "spread", "factors", "expand_0']['kernel")
    assert all(np.isfinite(leaf).all() for _, leaf in flat)
    assert [path for path in still if not any(name in path for name in allowed)] == []
