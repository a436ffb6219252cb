"""Real integers to code, and what the location-scale families are all held to."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
from scipy.fft import dctn

from jaxcomp.entropy import noisy_bits, scale_table, scaled
from tests.checks import check_entropy_model

PHOTO = Path(__file__).parents[2] / "jaxcomp/cli/demo_photo/chelsea.png"
STEP = 12  # of the quantiser, in grey levels: near 1 bit per pixel


@functools.cache
def photo_latents() -> tuple[np.ndarray, np.ndarray]:
    """(i32[blocks, 16] coefficients of the bundled photo, f32[blocks, 16] their size nearby).

    The 16 lowest frequencies of 8 x 8 blocks. What is nearby is the mean magnitude over the other
    blocks around, as a hyperprior would know it: the latents are real, and not Gaussian at all.
    """
    grey = np.asarray(Image.open(PHOTO).convert("L"), np.float64) - 128
    h, w = (n // 8 for n in grey.shape)
    blocks = grey[: 8 * h, : 8 * w].reshape(h, 8, w, 8).swapaxes(1, 2)
    latents = np.rint(dctn(blocks, axes=(2, 3), norm="ortho")[..., :4, :4] / STEP)
    latents = latents.reshape(h, w, 16).astype(np.int32)
    latents[..., 0] -= np.roll(latents[..., 0], 1, axis=1)
    size = np.pad(np.abs(latents), ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = sum(
        size[1 + dy : h + 1 + dy, 1 + dx : w + 1 + dx]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if dy or dx
    )
    near = (around / 8 + 0.3).astype(np.float32)
    return latents.reshape(-1, 16), near.reshape(-1, 16)


def check_bits_against(log_mass, distribution) -> None:
    """Bits of a standardised log_mass are those of a scipy distribution, by its float64 tails."""
    bits = noisy(log_mass)
    for scale in (0.11, 1.0, 20.0, 500.0):
        y = np.concatenate([np.arange(-20.0, 21.0), [-100.0, 60.5, 0.3]])
        away = np.abs(y)  # the smaller tail does not cancel
        log_beyond = distribution.logsf((away + 0.5) / scale)
        seen = np.isfinite(log_beyond)
        assert seen.sum() > 40
        log_near, log_beyond = distribution.logsf((away[seen] - 0.5) / scale), log_beyond[seen]
        expected = -(log_near + np.log1p(-np.exp(log_beyond - log_near)))
        got = np.asarray(bits(jnp.asarray(y, jnp.float32), jnp.float32(scale)))
        np.testing.assert_allclose(got[seen], expected / np.log(2), rtol=5e-6, atol=5e-5)


def check_gradients(log_mass) -> None:
    """Finite far out, antisymmetric, and equal to finite differences near 0."""
    bits = noisy(log_mass)
    slopes = jax.jit(jax.vmap(jax.grad(bits, (0, 1)), (0, None)))
    for scale in (0.11, 1.0, 64.0):
        y = jnp.array([-1000.0, -30.0, -0.5, 0.0, 0.5, 3.0, 1000.0])
        assert np.isfinite(bits(y, scale)).all()
        by_y, by_scale = slopes(y, scale)
        assert np.isfinite(by_y).all() and np.isfinite(by_scale).all()
        # Antisymmetric in y, and pulling towards 0.
        np.testing.assert_allclose(by_y[0], -by_y[-1], rtol=1e-6)
        assert by_y[-1] > 0 > by_scale[-1]
    y, scale, step = np.array([0.2, 1.0, 4.0, 15.0], np.float32), 2.0, 2.0**-6
    by_y, by_scale = slopes(y, scale)
    np.testing.assert_allclose(
        by_y, (bits(y + step, scale) - bits(y - step, scale)) / (2 * step), rtol=5e-3, atol=1e-3
    )
    np.testing.assert_allclose(
        by_scale, (bits(y, scale + step) - bits(y, scale - step)) / (2 * step), rtol=5e-3, atol=1e-3
    )


def noisy(log_mass):
    """bits(y, scale) of a standardised log_mass."""
    return jax.jit(functools.partial(noisy_bits, scaled(log_mass)))


def check_location_scale(model, draw) -> None:
    """The law on integers drawn at every scale of the table, and the two ways to give a scale."""
    rng = np.random.default_rng(0)
    scales = scale_table()
    row = rng.integers(0, 56, 60_000).astype(np.int32)  # beyond, the escapes begin to tell
    symbols = np.rint(draw(rng, scales[row])).astype(np.int32)
    check_entropy_model(model, {}, symbols, row)
    # The way in by floats is the same row, and bits at the scale of the table are the same.
    np.testing.assert_array_equal(model.index({}, row.shape, scales[row]), row)
    y = symbols[:100].astype(np.float32)
    at_scale = jax.jit(model.bits)({}, y, scales[row[:100]])
    np.testing.assert_allclose(at_scale, model.bits({}, y, row[:100]), rtol=1e-5, atol=1e-6)
    # A mean moves the density.
    np.testing.assert_allclose(
        model.bits({}, y + 0.25, row[:100], 0.25), model.bits({}, y, row[:100]), rtol=1e-4
    )


def fit(bits, params, y, *, steps=300, rate=0.02, batch=256):
    """params after steps of Adam on the mean of bits(params, y) over random rows of y."""
    optimizer = optax.adam(rate)

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (batch,), 0, y.shape[0])
        slopes = jax.grad(lambda p: bits(p, y[rows]).mean())(params)
        updates, state = optimizer.update(slopes, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params):
        keys = jax.random.split(jax.random.key(1), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return run(params)
